"""podnet below the container runtimes that people use: containers of two nodes reach each other, and leave nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from podnet.lab.registry import Lab, LabNode
from tests.lab.runtimes import ENGINES, Engine, Machine, until

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("runtimes"), pytest.mark.timeout(120)]


class Site(NamedTuple):
    """A lab of two nodes with an engine on each."""

    machine: Machine
    lab: Lab
    engines: tuple[Engine, Engine]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture(scope="module")
def lab(machine: Machine) -> Lab:
    return machine.lab("--nodes", "2", "--no-demo", "--no-check")


@pytest.fixture(scope="module", params=sorted(ENGINES))
def site(request: pytest.FixtureRequest, machine: Machine, lab: Lab) -> Site:
    name = request.param
    assert shutil.which(name), f"{name} is not installed: make test-setup"
    one, two = lab.nodes
    return Site(machine, lab, (ENGINES[name](machine, one), ENGINES[name](machine, two)))


@pytest.fixture
def pair(site: Site) -> Iterator[tuple[str, str]]:
    """A container on each node, with their addresses."""
    for engine in site.engines:
        engine.run("web")
    try:
        yield (address(site.engines[0], "web"), address(site.engines[1], "web"))
    finally:
        for engine in site.engines:
            engine.remove("web")


def address(engine: Engine, name: str) -> str:
    """The address that the container itself sees."""
    said = engine.execute(name, "/bin/ip", "-4", "addr", "show", "dev", "eth0")
    words = said.split()
    assert "inet" in words, f"{name} has no address: {said!r}"
    return words[words.index("inet") + 1].partition("/")[0]


def client(page: str) -> str:
    """The address that whoami saw; busybox writes IPv4 as [::ffff:10.244.1.2]."""
    return page.strip().strip("[]").removeprefix("::ffff:")


def holdings(site: Site, node: LabNode) -> list[str]:
    """What a node's kernel and agent hold of pods."""
    shown = [
        site.machine.run(*words, netns=node.netns).stdout
        for words in (
            ("ip", "-o", "link", "show", "type", "veth"),
            ("ip", "route", "show", "table", "all"),
            ("ip", "neighbour", "show", "nud", "permanent"),
            ("nft", "list", "ruleset"),
        )
    ]
    return [*(each.replace(" linkdown", "") for each in shown), str(site.machine.ask(node, "/v1/attachments"))]


def fetch(site: Site, node: LabNode, url: str) -> subprocess.CompletedProcess[str]:
    """What a web client on a node gets."""
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
    return site.machine.run(sys.executable, "-I", "-c", program, url, netns=node.netns, check=False)


def test_each_address_is_of_its_node(site: Site, pair: tuple[str, str]) -> None:
    for node, seen in zip(site.lab.nodes, pair, strict=True):
        (cidr,) = site.machine.ask(node, "/v1/status")["podCIDRs"]
        assert ip_address(seen) in ip_network(cidr)
        held = site.machine.ask(node, "/v1/attachments")["attachments"]
        assert seen in {each.partition("/")[0] for entry in held for each in entry["addresses"]}


def test_containers_reach_each_other_under_their_own_addresses(site: Site, pair: tuple[str, str]) -> None:
    for me, peer in ((0, 1), (1, 0)):
        site.engines[me].execute("web", "/bin/ping", "-c", "2", "-W", "2", pair[peer])
        seen = site.engines[me].execute("web", "/bin/wget", "-qO-", f"http://{pair[peer]}/cgi-bin/whoami")
        assert client(seen) == pair[me]


def test_nodes_reach_the_containers_of_both(site: Site, pair: tuple[str, str]) -> None:
    for node in site.lab.nodes:
        for container in pair:
            page = fetch(site, node, f"http://{container}/cgi-bin/whoami")
            own = site.machine.run("ip", "-o", "-4", "address", "show", netns=node.netns).stdout
            assert f" {client(page.stdout)}/" in own, page.stderr


def test_nothing_is_left(site: Site) -> None:
    before = [holdings(site, node) for node in site.lab.nodes]
    for engine in site.engines:
        engine.run("web")
    assert [holdings(site, node) for node in site.lab.nodes] != before
    for engine in site.engines:
        engine.remove("web")
    assert [holdings(site, node) for node in site.lab.nodes] == before


def test_many_containers_of_one_node_have_addresses_of_their_own(site: Site) -> None:
    engine, names = site.engines[0], [f"web{number}" for number in range(4)]
    for name in names:
        engine.run(name)
    seen = [address(engine, name) for name in names]
    assert len(set(seen)) == len(names)
    engine.execute(names[0], "/bin/ping", "-c", "1", "-W", "2", seen[-1])
    for name in names:
        engine.remove(name)


@pytest.mark.parametrize("site", ["podman"], indirect=True)
def test_a_published_port_leads_to_the_container(site: Site) -> None:
    one, two = site.lab.nodes
    engine = site.engines[0]
    before = holdings(site, one)
    engine.run("published", {8080: 80})
    url = f"http://{one.addresses[0]}:8080/cgi-bin/whoami"
    seen = fetch(site, two, url)
    assert client(seen.stdout) == two.addresses[0], seen.stderr
    engine.remove("published")
    assert "Connection refused" in fetch(site, two, url).stderr
    until(lambda: holdings(site, one) == before, lambda: "the node is as before")
