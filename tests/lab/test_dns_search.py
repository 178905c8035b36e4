"""Searches that the server completes, in a live lab: how many questions a pod asks, by glibc, by musl and by dig; and
`podnet dns trace` through all the layers there are.

The upstream server is a dnsmasq in a pod, which knows www.example.test in both families and nothing else. Pods of the
namespace default: `asker` asks to have its searches completed, `plain` does not; `stranger` of shop does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podnet.lab import entering
from podnet.objects.kinds import CONFIGMAPS, NAMESPACES, PODS, SERVICES
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-dns-search"), pytest.mark.timeout(240)]

ASKS = {"podnet.dev/dns-search": "server"}
WWW, SIX = "192.0.2.7", "2001:db8::7"
SVC = "svc.cluster.local"
FIRST = f"www.example.test.default.{SVC}"
PYTHON = "import socket; print(*sorted({each[4][0] for each in socket.getaddrinfo('www.example.test', 80)}))"
MUSL = """\
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int count, char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    int failed = getaddrinfo(words[1], "80", &hints, &found);
    char text[INET6_ADDRSTRLEN];
    if (failed) { printf("error %d\\n", failed); return 0; }
    for (each = found; each; each = each->ai_next) {
        void *at = each->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
                                              : (void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        puts(inet_ntop(each->ai_family, at, text, sizeof text));
    }
}
"""


class World:
    """The lab, and its pods at work."""

    def __init__(self, live: LiveLab, musl: str) -> None:
        self.live, self.musl = live, musl

    def execute(self, pod: str, *words: str) -> str:
        """What a command prints in a pod's container."""
        entry = entering.into_pod(self.live.lab, pod, "", words)
        done = subprocess.run(entry.argv, env=entry.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def lead_to(self, port: int) -> None:
        """As docs/dns-search.md says: the Service leads to kubedns, or to dnsmasq again."""
        patch = [{"op": "add", "path": f"/spec/ports/{number}/targetPort", "value": port} for number in (0, 1)]
        self.live.api(lambda api: api.patch(SERVICES, "kube-dns", patch, "kube-system", strategy="json", into=dict))
        until(lambda: all(self._leads_to(node.name, port) for node in self.live.lab.nodes), f"it leads to {port}", 20)

    def _leads_to(self, node: str, port: int) -> bool:
        (service,) = self.live.ask(node, "services?namespace=kube-system&name=kube-dns")["services"]
        ends = [end["port"] for each in service["ports"] for end in each["port"]["cluster"]]
        return bool(service["held"] and ends) and {*ends} == {port}

    @contextmanager
    def counted(self, pod: str) -> Iterator[list[str]]:
        """The questions that leave a pod meanwhile, as `A? name.`"""
        words = ["nsenter", f"--net={self.live.place(pod).netns}", "tcpdump", "-l", "-n", "-i", "eth0"]
        found: list[str] = []
        with subprocess.Popen(
            [*words, "udp dst port 53"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as sniffer:
            assert sniffer.stdout
            assert sniffer.stderr
            while "listening on" not in sniffer.stderr.readline():
                pass
            yield found
            self.live.run(
                f"default/{pod}", ["dig", "@10.96.0.10", "+tries=1", "+short", "end.default.svc.cluster.local"]
            )
            for line in sniffer.stdout:
                if question := re.search(r"((?:A|AAAA)\? \S+)", line):
                    if " end." in line:
                        break
                    found.append(question[1])
            sniffer.terminate()

    def trace(self, *words: str, pod: str = "default/asker", code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.live.podnet("dns", "trace", *words, "--from", pod, "-o", "json", code=code)
        )
        return found


@pytest.fixture(scope="module")
def musl(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program with musl's resolver."""
    folder: Path = tmp_path_factory.mktemp("musl")
    folder.parent.parent.chmod(0o755)
    (folder / "lookup.c").write_text(MUSL)
    subprocess.run(["musl-gcc", "-static", "-O", "-o", f"{folder}/lookup", f"{folder}/lookup.c"], check=True)
    return f"{folder}/lookup"


@pytest.fixture(scope="module")
def world(musl: str) -> Iterator[World]:
    with live_lab("search", "--nodes", "2", "--no-demo", "--dns") as live:
        names = [f"--address=/www.example.test/{address}" for address in (WWW, SIX)]
        live.create_pod("up", "node1", command=[
            "dnsmasq", "-k", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root",
            "--log-facility=-", *names, "--local=/#/",
        ])  # fmt: skip
        live.create_pod("asker", "node1", command=["sleep", "infinity"], annotations=ASKS)
        live.create_pod("plain", "node2", command=["sleep", "infinity"])
        live.api(lambda api: api.create(NAMESPACES, {"metadata": {"name": "shop"}}, into=dict))
        spec = {
            "nodeName": "node2",
            "containers": [{"name": "main", "image": "test", "command": ["sleep", "infinity"]}],
        }
        stranger = {"metadata": {"name": "stranger", "namespace": "shop", "annotations": ASKS}, "spec": spec}
        live.api(lambda api: api.create(PODS, stranger, into=dict))
        for name in ("up", "asker", "plain", "stranger", "kube-dns-1", "kube-dns-2"):
            until(lambda name=name: live.running(name), f"{name} runs", 30)  # type: ignore[misc]
        settings = {"data": {"upstreamNameservers": json.dumps([live.place("up").addresses[0]])}}
        live.api(lambda api: api.patch(CONFIGMAPS, "kube-dns", settings, "kube-system", into=dict))
        made = World(live, musl)
        until(
            lambda: WWW in live.run("default/plain", "dig @10.96.0.10 +short www.example.test", code=None),
            "it answers",
            60,
        )
        yield made


def test_the_classic_order_asks_four_times(world: World) -> None:
    world.lead_to(53)
    with world.counted("asker") as questions:
        assert world.execute("default/asker", sys.executable, "-I", "-S", "-c", PYTHON).split() == [WWW, SIX]
    assert len(questions) == 8


def test_one_question_for_each_family(world: World) -> None:
    world.lead_to(10053)
    with world.counted("asker") as questions:
        assert world.execute("default/asker", sys.executable, "-I", "-S", "-c", PYTHON).split() == [WWW, SIX]
    assert sorted(questions) == [f"A? {FIRST}.", f"AAAA? {FIRST}."]
    with world.counted("asker") as questions:
        assert sorted(world.execute("default/asker", world.musl, "www.example.test").split()) == [WWW, SIX]
    assert sorted(questions) == [f"A? {FIRST}.", f"AAAA? {FIRST}."]
    with world.counted("asker") as questions:
        said = world.execute("default/asker", "dig", "+search", "+short", "www.example.test").split()
    assert (said, questions) == (["www.example.test.", WWW], [f"A? {FIRST}."])


@pytest.mark.parametrize("program", ["glibc", "musl"])
def test_names_of_other_namespaces_and_names_that_nobody_has(world: World, program: str) -> None:
    world.lead_to(10053)

    def said(name: str) -> str:
        code = f"""try: print(__import__("socket").getaddrinfo({name!r}, 80)[0][4][0])
except OSError as error: print(error.args[0])"""
        words = [world.musl, name] if program == "musl" else [sys.executable, "-I", "-S", "-c", code]
        return world.execute("default/asker", *words).split("\n")[0]

    with world.counted("asker") as questions:
        assert said("kube-dns.kube-system") == "10.96.0.10"
    assert len(questions) == 2
    assert said("kubernetes") == "10.96.0.1"
    assert said("nobody.example.test") == ("error -2" if program == "musl" else "-2")


def test_a_pod_that_did_not_ask_is_answered_as_ever(world: World) -> None:
    world.lead_to(10053)
    with world.counted("plain") as questions:
        assert world.execute("default/plain", sys.executable, "-I", "-S", "-c", PYTHON).split() == [WWW, SIX]
    assert len(questions) == 8
    assert "status: NXDOMAIN" in world.live.run("default/plain", ["dig", "@10.96.0.10", FIRST])


def test_a_pod_of_another_namespace_hears_that_there_is_no_such_name(world: World) -> None:
    world.lead_to(10053)
    stranger = world.live.netns("shop/stranger")
    assert "status: NXDOMAIN" in world.live.run(stranger, ["dig", "@10.96.0.10", FIRST])
    assert WWW in world.live.run(stranger, ["dig", "@10.96.0.10", "+short", f"www.example.test.shop.{SVC}"])


def test_names_of_addresses_lead_round_no_loop(world: World) -> None:
    world.lead_to(10053)
    said = world.live.run("default/plain", ["dig", "@10.96.0.10", "+tries=1", "+time=3", "-x", "192.0.2.200"])
    assert "status: NXDOMAIN" in said


def test_a_trace_shows_both_orders(world: World) -> None:
    world.lead_to(53)
    value = world.trace("www.example.test", "--type", "A")
    assert [step["name"] for step in value["steps"]] == [
        f"{FIRST}.", f"www.example.test.{SVC}.", "www.example.test.cluster.local.", "www.example.test."
    ]  # fmt: skip
    assert "4 questions" in value["advice"]
    assert value["steps"][-1]["asked"][0]["answers"][0]["text"] == WWW
    world.lead_to(10053)
    value = world.trace("www.example.test", "--type", "A")
    (step,) = value["steps"]
    assert "completes the search" in step["asked"][0]["why"]
    assert [each["text"] for each in step["asked"][0]["answers"]] == ["www.example.test", WWW]
    assert step["asked"][0]["by"].endswith("kubedns")
    assert value["faults"] == []


def test_a_trace_knows_the_cache(world: World) -> None:
    world.lead_to(53)
    name = f"kubernetes.default.{SVC}."
    heard = [world.trace(name, "--type", "A")["steps"][0]["asked"][0] for _ in range(4)]
    assert {each["by"] for each in heard} <= {f"kube-system/kube-dns-{number} dnsmasq" for number in (1, 2)}
    assert {each["from"] for each in heard[1:]} == {"its cache"}, "each trace asks every DNS pod"
    assert all(each["ttl"] <= 30 and each["answers"][0]["text"] == "10.96.0.1" for each in heard)
    missing = world.trace("kubernets", "--type", "A", code=1)["steps"][0]["asked"][0]
    assert (missing["rcode"], missing["instead"]) == ("NXDOMAIN", [name.rstrip(".")])


def test_a_trace_finds_an_upstream_that_is_silent(world: World) -> None:
    world.lead_to(53)
    stub = {"data": {"stubDomains": '{"corp.test": ["192.0.2.99"]}'}}
    world.live.api(lambda api: api.patch(CONFIGMAPS, "kube-dns", stub, "kube-system", into=dict))

    def told() -> bool:
        value = world.trace("db.corp.test.", "--type", "A", code=1)
        return any(each.startswith("192.0.2.99:53 (stub domain corp.test) gives") for each in value["faults"])

    until(told, "the trace names the stub domain's server", 60)


def test_a_trace_finds_a_layer_that_is_behind(world: World) -> None:
    """kubedns of one pod stands still while a Service comes to be that its cache was asked for before."""
    world.lead_to(53)
    one, name = world.live.place("kube-dns-1").addresses[0], f"late.default.{SVC}"
    assert "status: NXDOMAIN" in world.live.run("default/plain", ["dig", f"@{one}", name])
    (sandbox,) = (each for each in entering.sandboxes(world.live.lab) if each.name == "kube-dns-1")
    kubedns = dict(entering.containers(sandbox))["kubedns"]
    os.kill(kubedns, signal.SIGSTOP)
    try:
        late = {"metadata": {"name": "late"}, "spec": {"ports": [{"port": 80}]}}
        world.live.api(lambda api: api.create(SERVICES, late, "default", into=dict))
        faults = world.trace(f"{name}.", "--type", "A", code=1)["faults"]
    finally:
        os.kill(kubedns, signal.SIGCONT)
    stale = (
        rf"kube-system/kube-dns-1: dnsmasq says NXDOMAIN about {name}. A, the API has .*: .* stale, for \d+ s at most"
    )
    assert any(re.match(stale, each) for each in faults), faults
    assert any("kube-dns-1: kubedns gives no answer" in each for each in faults)
    assert not any("kube-dns-2" in each for each in faults)
    words = ("dns", "trace", f"{name}.", "--type", "A", "--from", "default/asker", "-o", "json")
    until(lambda: not json.loads(world.live.podnet(*words, code=None))["faults"], "all agree", 40)


def test_beside_a_cache_on_each_node(world: World) -> None:
    world.lead_to(10053)
    world.live.configure(dns={"nodeLocal": True})
    name = f"kubernetes.default.{SVC}."

    def by(pod: str) -> str:
        found: str = world.trace(name, "--type", "A", pod=pod)["steps"][0]["asked"][0]["by"]
        return found

    until(lambda: by("default/plain") == "dnsmasq of node node2", "the node's cache answers", 60)
    assert by("default/asker").endswith(" kubedns")
    with world.counted("asker") as questions:
        assert world.execute("default/asker", sys.executable, "-I", "-S", "-c", PYTHON).split() == [WWW, SIX]
    assert len(questions) == 2
    assert "status: NXDOMAIN" in world.live.run("default/plain", ["dig", "@10.96.0.10", FIRST])
    heard = [world.trace(name, "--type", "A", pod="default/plain")["steps"][0]["asked"][0] for _ in range(2)]
    assert heard[1]["from"] == "its cache"
    world.live.configure(dns={"nodeLocal": False})
    until(lambda: by("default/plain") != "dnsmasq of node node2", "the Service answers", 60)
