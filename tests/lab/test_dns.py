"""A lab's DNS, asked by pods: every kind of name, names that come to be, servers that die, stub domains."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from podnet.client.api import Api
from podnet.objects.kinds import CONFIGMAPS, EVENTS, PODS, SERVICES
from podnet.wire import dns
from tests.lab.dns_world import (
    DOMAIN,
    KUBEDNS,
    MANY,
    SERVERS,
    SYSTEM,
    World,
    addresses,
    dns_world,
    heard,
    loaded,
    pod,
    ready,
    service,
    words,
)
from tests.lab.labs import PODNET, needs_root, run, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-dns"), pytest.mark.timeout(180)]

NOBODY = "-3"
"""EAI_AGAIN: the last step of a search is a name outside, and of those nothing is known in a lab."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with dns_world("dns") as made:
        yield made


# -- names, by the C library


def test_names_in_a_pod(world: World) -> None:
    db = {name: list(world.live.place(name).addresses) for name in ("db-0", "db-1", "db-x")}
    web, other = sorted(world.web), list(world.other)
    expected = {
        "web": web,
        "web.default": web,
        "web.default.svc": web,
        f"web.default.{DOMAIN}": web,
        f"WEB.Default.{DOMAIN}.": web,
        "web.shop": other,
        "db": words(*db.values()),
        "db-0.db": sorted(db["db-0"]),
        f"db-1.db.default.{DOMAIN}": sorted(db["db-1"]),
        "alias": web,
        f"{db['db-x'][0].replace('.', '-')}.default.pod.cluster.local": db["db-x"][:1],
        "nobody": [NOBODY],
        "gone": [NOBODY],
        "www.example.com": [NOBODY],
    }
    found = world.looked_up("client", *expected)
    assert {name: said for name, (said, _) in found.items()} == expected
    assert max(seconds for _, seconds in found.values()) < 2, "nobody waits for a way out that is not there"


def test_a_pod_in_the_nodes_network_that_wants_the_clusters_names(world: World) -> None:
    assert world.looked_up("hosted", "web.default")["web.default"][0] == sorted(world.web)


def test_what_podnet_lab_exec_shows(world: World) -> None:
    text = world.execute("default/client", "cat", "/etc/resolv.conf")
    assert text == (
        f"nameserver {world.server4}\nnameserver {world.server6}\n"
        f"search default.{DOMAIN} {DOMAIN} cluster.local\noptions ndots:5\n"
    )


# -- records, by dig


def test_records(world: World) -> None:
    name = f"web.default.{DOMAIN}."
    assert world.short("web.default." + DOMAIN, "AAAA") == [world.web[1]]
    assert world.short(f"_http._tcp.{name}", "SRV") == [f"0 100 80 {name}"]
    targets = [line.split()[3].split(".")[0] for line in world.short(f"_http._tcp.db.default.{DOMAIN}", "SRV")]
    x = world.live.place("db-x").addresses
    assert targets == sorted(["db-0", "db-1", *(ip.replace(".", "-").replace(":", "-") for ip in x)])
    for ip in world.web:
        assert world.short("-x", ip) == [name]
    assert world.short("-x", world.live.place("db-0").addresses[0]) == [f"db-0.db.default.{DOMAIN}."]
    assert world.short("-x", x[0]) == []
    assert world.short(f"alias.default.{DOMAIN}", "CNAME") == [name]
    assert world.short("dns-version.cluster.local", "TXT") == ['"1.1.0"']
    assert world.short("ns.dns.cluster.local", "A") == [world.server4]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (f"nobody.default.{DOMAIN}", "NXDOMAIN"),
        (f"gone.default.{DOMAIN}", "NXDOMAIN"),
        ("10-244-9-9.default.pod.cluster.local", "NXDOMAIN"),
        (f"web.shop.{DOMAIN}", "NOERROR"),
        (f"default.{DOMAIN}", "NOERROR"),
        (DOMAIN, "NOERROR"),
    ],
)
def test_no_such_name_and_no_such_record(world: World, name: str, status: str) -> None:
    said = world.dig(name, "A")
    assert f"status: {status}," in said
    assert "ANSWER: 0," in said
    assert "SOA\tns.dns.cluster.local. hostmaster.cluster.local." in said


def test_case_is_kept(world: World) -> None:
    said = world.dig(f"WeB.deFault.{DOMAIN}", server=world.address(SERVERS[0]))
    assert f"\nWeB.deFault.{DOMAIN}." in said


def test_by_tcp_and_ipv6(world: World) -> None:
    for server in (world.server4, world.server6):
        for more in ("+tcp", "+notcp"):
            assert world.short(f"web.default.{DOMAIN}", more, server=server) == [world.web[0]]


def test_what_does_not_fit_is_truncated(world: World) -> None:
    name = f"many.default.{DOMAIN}"
    small = world.dig(name, "+noedns", "+ignore", "+notcp")
    assert " tc " in small.split("flags:")[1].split(";")[0]
    assert len(world.short(name)) == MANY
    assert len(world.short(name, "+tcp", "+noedns")) == MANY


def test_who_may_have_the_whole_zone(world: World) -> None:
    for port in (53, KUBEDNS):
        said = world.dig("-p", str(port), "cluster.local", "AXFR", server=world.address(SERVERS[0]), code=None)
        assert "Transfer failed" in said


def test_both_servers_say_the_same(world: World) -> None:
    for server in SERVERS:
        for port in (53, KUBEDNS):
            found = world.ask(f"web.default.{DOMAIN}", world.address(server), port, dns.AAAA)
            assert addresses(found) == [world.web[1]]


# -- names that come to be


@pytest.mark.parametrize("before", ["never asked for", "known to be missing"])
def test_a_name_answers_at_once(world: World, before: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {
        f"{server} {what}": (world.address(server), port)
        for server in SERVERS
        for what, port in (("kubedns", KUBEDNS), ("dnsmasq", 53))
    }
    took: dict[str, list[float]] = {place: [] for place in places}
    for number in range(5):
        short = f"fresh-{before.split()[0]}-{number}"
        name = f"{short}.default.{DOMAIN}"
        if before != "never asked for":
            for address, port in places.values():
                assert world.ask(name, address, port).rcode == dns.NXDOMAIN
        ip, began = world.live.api(partial(created, name=short))
        for place, (address, port) in places.items():
            at_last(world, name, address, port, ip)
            took[place].append(time.monotonic() - began)
        world.delete_service(short)
    medians = {place: statistics.median(seconds) for place, seconds in took.items()}
    with capsys.disabled():
        shown = ", ".join(f"{place} {median * 1000:.0f} ms" for place, median in medians.items())
        print(f"\n  a name that was {before}, after its Service's creation: {shown}")
    assert max(medians.values()) < 1.0


@pytest.mark.parametrize("again", [True, False], ids=["made anew", "gone"])
def test_an_old_address_is_forgotten_at_once(world: World, again: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Although it was asked for before, and could be remembered for 30 s."""
    took = []
    for number in range(3):
        short = f"old-{number}-{again}".lower()
        name = f"{short}.default.{DOMAIN}"
        old, _ = world.live.api(partial(created, name=short))
        for server in SERVERS:
            at_last(world, name, world.address(server), 53, old)

        async def replace(api: Api, short: str = short, old: str = old) -> tuple[str, float]:
            await api.delete(SERVICES, short, "default")
            if not again:
                return "NXDOMAIN", time.monotonic()
            other = old.rpartition(".")[0] + f".{(int(old.rpartition('.')[2]) + 100) % 250 + 1}"
            return await created(api, short, clusterIP=other)

        said, began = world.live.api(replace)
        assert said != old
        for server in SERVERS:
            at_last(world, name, world.address(server), 53, said)
            took.append(time.monotonic() - began)
        if again:
            world.delete_service(short)
    with capsys.disabled():
        shown = f"{statistics.median(took) * 1000:.0f} ms, at most {max(took) * 1000:.0f}"
        print(f"\n  its old address is forgotten after {shown}")
    assert max(took) < 1.0


async def created(api: Api, name: str, **spec: str) -> tuple[str, float]:
    """A Service in default: its address, and when the API had it."""
    made: dict[str, Any] = await api.create(SERVICES, service(name, **spec), into=dict)
    return str(made["spec"]["clusterIP"]), time.monotonic()


def at_last(world: World, name: str, server: str, port: int, address: str) -> None:
    """Ask until this is the answer."""
    known = lambda: heard(world.client.netns, name, server, port).said == address  # noqa: E731
    until(known, f"{server} port {port} knows {name}", 10.0, 0.001)


# -- a kubedns of the test's own


@contextmanager
def kubedns(world: World, *flags: str) -> Iterator[int]:
    """In the client's namespace, at port 5454."""
    port = 5454
    command = [PODNET, "dns", "kubedns", f"--dns-port={port}", "--healthz-port=5455", "--lameduck=0s", *flags]
    env = os.environ | {"PROMETHEUS_PORT": "0"}
    entered = ["nsenter", f"--net={world.client.netns}", *command, f"--kubecfg-file={world.live.lab.dns_kubeconfig}"]
    started = subprocess.Popen(entered, env=env, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        started.terminate()
        started.wait(10)


def test_before_everything_is_known_nothing_is_said(world: World) -> None:
    with kubedns(world, "--kube-master-url=https://127.0.0.1:1") as port:
        said = until(
            lambda: heard(world.client.netns, f"web.default.{DOMAIN}", "127.0.0.1", port).said, "it answers", 20
        )
        assert said == "SERVFAIL"
        code = world.live.run("default/client", ["curl", "-s", "-w", "%{http_code}", "127.0.0.1:5455/readiness"])
        assert code == "not synced yet\n503"


def test_a_transfer_to_whom_it_is_allowed(world: World) -> None:
    with kubedns(world, "--transfer-to=127.0.0.0/8") as port:
        name = f"web.default.{DOMAIN}"
        until(lambda: heard(world.client.netns, name, "127.0.0.1", port).said == world.web[0], "it knows", 20)
        lines = world.dig(
            "+noall", "+answer", "-p", str(port), "cluster.local", "AXFR", server="127.0.0.1"
        ).splitlines()
        assert [line.split()[3] for line in (lines[0], lines[-1])] == ["SOA", "SOA"]
        assert [line.split()[4] for line in lines if line.startswith(f"{name}.")] == list(world.web)
        refused = world.dig("-p", str(port), "cluster.local", "AXFR", server=world.client.addresses[0], code=None)
        assert "Transfer failed" in refused


# -- stub domains

STUBS = "stubDomains"


def configure(world: World, stubs: str | None) -> None:
    """Write the key, or take it away."""
    patch = {"data": {STUBS: stubs}}
    world.live.api(lambda api: api.patch(CONFIGMAPS, "kube-dns", patch, SYSTEM, into=dict))


def test_stub_domains(world: World) -> None:
    acme = ["dnsmasq", "-k", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user=root"]
    world.make(pod("acme", *acme, "--address=/acme.local/192.0.2.7"))
    until(lambda: ready(world.live, "default", {"acme"}), "acme is ready", 30.0)
    (address, *_) = world.live.place("acme").addresses
    places = [(world.address(server), port) for server in SERVERS for port in (53, KUBEDNS)]

    def everywhere(said: str) -> bool:
        return all(heard(world.client.netns, "host.acme.local", *place).said == said for place in places)

    assert everywhere("REFUSED")
    configure(world, f'{{"acme.local": ["{address}"]}}')
    until(lambda: everywhere("192.0.2.7"), "the stub domain is asked", 15.0)
    configure(world, '{"acme.local": ["ns.acme.local"]}')
    found = until(lambda: events(world), "an Event says what is wrong", 15.0)
    assert {each["reason"] for each in found} == {"InvalidDNSConfig"}
    assert {each["involvedObject"]["kind"] for each in found} == {"ConfigMap"}
    assert any("stubDomains" in each["message"] and "ns.acme.local" in each["message"] for each in found)
    assert everywhere("192.0.2.7"), "the last good value counts"
    configure(world, None)
    until(lambda: everywhere("REFUSED"), "nobody is asked any more", 15.0)


def events(world: World) -> tuple[dict[str, Any], ...]:
    """About the ConfigMap."""
    selector = "involvedObject.name=kube-dns"
    return world.live.api(lambda api: api.list(EVENTS, SYSTEM, field_selector=selector, into=dict[str, Any]))


# -- servers that die, and one that is sent away


@pytest.mark.parametrize("container", ["dnsmasq", "kubedns"])
def test_the_other_answers_while_one_is_killed(world: World, container: str) -> None:
    first, second = SERVERS
    name, pid = f"web.default.{DOMAIN}", world.container(first, container)
    with loaded(world, world.address(second), [name]) as found:
        os.kill(pid, signal.SIGKILL)
        until(lambda: world.container(first, container) not in (0, pid), "it is started again", 15.0)
        until(lambda: not answers_not(world, first), "it answers again", 20.0)
    assert {each.said for each in found} == {world.web[0]}
    until(lambda: ready(world.live, SYSTEM, set(SERVERS)), "both are ready", 20.0)


def answers_not(world: World, server: str) -> list[int]:
    """The ports of a server at which it has no answer."""
    name = f"web.default.{DOMAIN}"
    where = world.address(server)
    return [port for port in (53, KUBEDNS) if heard(world.client.netns, name, where, port, 0.5).said != world.web[0]]


def test_dnsmasq_itself_is_started_again(world: World) -> None:
    keeper = world.container(SERVERS[0], "dnsmasq")
    (child,) = children(keeper)
    os.kill(child, signal.SIGKILL)
    until(lambda: children(keeper) not in ([], [child]), "another dnsmasq", 10.0)
    until(lambda: not answers_not(world, SERVERS[0]), "it answers", 10.0)
    assert world.container(SERVERS[0], "dnsmasq") == keeper


def children(pid: int) -> list[int]:
    """Those of a process."""
    with suppress(FileNotFoundError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


def test_no_question_is_lost_when_a_server_is_sent_away(world: World) -> None:
    name = f"web.default.{DOMAIN}"
    try:
        with loaded(world, world.server4, [name, f"web.shop.{DOMAIN}", f"never.default.{DOMAIN}"]) as found:
            world.live.api(lambda api: api.delete(PODS, SERVERS[0], SYSTEM))
            until(lambda: not world.container(SERVERS[0], "kubedns"), "it is gone", 40.0, 0.1)
            time.sleep(0.5)
        said = [each.said for each in found]
        assert len(said) > 500
        assert "" not in said, f"{said.count('')} of {len(said)} questions were lost"
        assert set(said) == {world.web[0], "NOERROR", "NXDOMAIN"}
    finally:
        run(PODNET, "lab", "up", "--name", world.live.name, "--no-demo", "--no-check", "--dns")
