"""A lab's DNS, asked by pods: every kind of name, names that come to be, servers that die, stub domains."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from podnet.wire import dns
from tests.lab.dns_world import DOMAIN, KUBEDNS, MANY, SERVERS, World, addresses, dns_world, words
from tests.lab.labs import needs_root

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
