"""Both kinds of iptables hold what mode iptables means, change no more than they must, and give everything back."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from podnet.kernel import iptables, netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.iptables import Iptables
from podnet.kernel.outcome import Outcome, Tally
from podnet.network.proxy import unserved
from podnet.network.proxy.iptables import Settings, chains
from podnet.network.service_port import Endpoint, ServicePort
from podnet.state.iptables import CANARY, FAMILIES, OWNER, IptablesChain, IptablesJump
from podnet.state.plan import Plan, plan
from podnet.state.resource import NodeState, Resource, state
from podnet.wire.iptables import Chains, parse, same
from tests.lab.hands import needs_root
from tests.lab.service_asks import AT_ONCE, Client, connected
from tests.network.proxy.kube_proxy import SERVICES, SETTINGS, SVC1, SVC4, SVC6, at, service

pytestmark = [pytest.mark.lab, needs_root]

V6 = Settings(v6=True, cluster_cidr="fd00:10::/32", node_addresses=("fd00::2",))
SIX = ServicePort(
    namespace="ns", service="six", name="", protocol="tcp", v6=True, cluster_ip="fd00:96::1", port=80, node_port=3006,
    affinity=60, internal=(Endpoint("fd00:10::5", 80), Endpoint("fd00:10::6", 80), Endpoint("fd00:10::7", 80)),
    external=(Endpoint("fd00:10::5", 80),), cluster=(Endpoint("fd00:10::5", 80), Endpoint("fd00:10::6", 80)),
    balancer_ips=("fd00:97::1",), source_ranges=("::/0", "fd00::/64"), anywhere=True,
)  # fmt: skip
NONE6 = replace(SIX, service="none", internal=(), external=(), cluster=(), anywhere=False, cluster_ip="fd00:96::2")
OTHERS = """
*filter
:MINE - [0:0]
-A INPUT -s 1.2.3.4 -m comment --comment "someone else's" -j DROP
-A MINE -j RETURN
COMMIT
*nat
:KUBE-MARK-DROP - [0:0]
-A POSTROUTING -s 9.9.9.9 -j MASQUERADE
COMMIT
"""

KUBELET = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"


def only(resources: Iterable[Resource]) -> dict[tuple[str, ...], Resource]:
    """Without kernel parameters."""
    return state(resource for resource in resources if resource.kind in iptables.KINDS)


def meant(ports: Iterable[ServicePort] = SERVICES) -> NodeState:
    return only((*chains(ports, SETTINGS), *chains((SIX, NONE6), V6)))


class Node:
    """A namespace and one kind of iptables in it."""

    def __init__(self, path: str, variant: str) -> None:
        self.path, self.variant = path, variant
        self.edge = Iptables(path, variant)

    def run(self, command: str, given: str = "") -> str:
        with netns.inside(self.path):
            words = command.replace("iptables", f"iptables-{self.variant}", 1) if "tables" in command else command
            words = words.replace("ip6tables", f"ip6tables-{self.variant}", 1)
            done = subprocess.run(words.split(), input=given, capture_output=True, text=True, check=True)
        return done.stdout

    def saved(self) -> str:
        """Without dates and counters."""
        text = self.run("iptables-save")
        return "\n".join(line.split(" [")[0] for line in text.splitlines() if not line.startswith("#"))

    def chains(self) -> Chains:
        return parse(self.run("iptables-save"))

    def read(self, desired: NodeState) -> NodeState:
        return {resource.key: resource for resource in self.edge.read(iptables.KINDS, desired)}

    def plan(self, desired: NodeState) -> Plan:
        return plan(desired, self.read(desired))

    def apply(self, steps: Plan) -> Outcome:
        tally = Tally()
        self.edge.apply(steps.steps, tally)
        return tally.outcome()

    def settle(self, desired: NodeState) -> Plan:
        steps = self.plan(desired)
        outcome = self.apply(steps)
        assert [str(error) for error in outcome.failed] == []
        assert len(outcome.done) == len(steps.steps)
        assert self.plan(desired) == Plan()
        return steps


@pytest.fixture(params=iptables.VARIANTS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    path = str(tmp_path / "netns")
    netns.create(path)
    try:
        yield Node(path, request.param)
    finally:
        netns.remove(path)


def keys(steps: Plan) -> set[tuple[str, str]]:
    """(verb, chain) of each step."""
    return {(step.verb, step.resource.key[4]) for step in steps.steps}


def test_what_is_meant_is_there_and_the_second_plan_is_empty(node: Node) -> None:
    desired = meant()
    node.settle(desired)
    found = node.chains()
    for resource in desired.values():
        if isinstance(resource, IptablesChain) and resource.family == "ip":
            assert same(resource.rules or (), found[resource.table, resource.name])
    assert "-A KUBE-SVC-4SW47YFZTEDKD3PK" in node.saved()
    assert Iptables(node.path).variant == node.variant, "a later process finds them again"


def test_jumps_are_in_kube_proxys_order_before_those_of_others(node: Node) -> None:
    node.run("iptables-restore --noflush", OTHERS)
    node.settle(meant())
    found = node.chains()
    targets = {chain: [rule.split("-j ")[1] for rule in found["filter", chain]] for chain in ("INPUT", "FORWARD")}
    assert targets == {
        "INPUT": ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "DROP"],
        "FORWARD": ["KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"],
    }


def test_one_endpoint_changed_touches_only_its_services_chains(node: Node) -> None:
    node.settle(meant())
    moved = service(4, at(4), at(9), external_ips=("192.168.99.33",))
    before = node.saved()
    steps = node.settle(meant([moved if port is SVC4 else port for port in SERVICES]))
    gone, come = "KUBE-SEP-C6EBXVWJJZMIWKLZ", "KUBE-SEP-"
    assert {verb for verb, _ in keys(steps)} == {"add", "change", "delete"}
    assert ("delete", gone) in keys(steps)
    assert ("change", "KUBE-SVC-4SW47YFZTEDKD3PK") in keys(steps)
    assert len(steps.steps) == 3
    changed = set(before.splitlines()) ^ set(node.saved().splitlines())
    assert all("svc4" in line or line.startswith(f":{come}") for line in changed)
    assert gone not in node.saved()


def test_a_service_more_and_one_less(node: Node) -> None:
    node.settle(meant())
    steps = node.settle(meant(SERVICES[1:]))
    assert keys(steps) == {
        ("change", "KUBE-SERVICES"),
        ("delete", "KUBE-SVC-XPGD46QRK7WJZT7O"),
        ("delete", "KUBE-SEP-SXIVWICOYRO3J4NJ"),
    }
    node.settle(meant())


def test_counters_of_chains_that_do_not_change_stay(node: Node) -> None:
    node.settle(meant())
    node.run("iptables-restore --noflush --counters", "*nat\n:MINE - [0:0]\n[7:700] -A MINE -j RETURN\nCOMMIT\n")
    node.settle(meant(SERVICES[1:]))
    assert "[7:700] -A MINE -j RETURN" in node.run("iptables-save -c")


def test_drift_is_repaired(node: Node) -> None:
    desired = meant()
    node.settle(desired)
    for command, drifted in (
        ("iptables -t nat -F KUBE-SVC-XPGD46QRK7WJZT7O", {("change", "KUBE-SVC-XPGD46QRK7WJZT7O")}),
        ("iptables -t nat -I KUBE-MARK-MASQ -j RETURN", {("change", "KUBE-MARK-MASQ")}),
        ("iptables -t nat -D OUTPUT 1", {("add", "OUTPUT")}),
        ("iptables -t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA", {("delete", "KUBE-SEP-AAAAAAAAAAAAAAAA")}),
        ("iptables -F INPUT", {("add", "INPUT")}),
        ("ip6tables -t nat -F KUBE-POSTROUTING", {("change", "KUBE-POSTROUTING")}),
    ):
        node.run(command)
        assert keys(node.settle(desired)) == drifted


def test_a_flush_is_seen_by_the_canary(node: Node) -> None:
    desired = meant()
    node.settle(desired)
    assert node.edge.intact(desired)
    node.run("iptables -t nat -F")
    node.run("iptables -t nat -X")
    assert not node.edge.intact(desired)
    node.settle(desired)
    assert node.edge.intact(desired)
    assert node.edge.intact({}), "who wants nothing misses nothing"


def test_clean_removal_leaves_what_others_made(node: Node) -> None:
    node.run("iptables-restore --noflush", OTHERS)
    before = node.chains()
    node.settle(meant())
    node.settle({})
    assert {key: rules for key, rules in node.chains().items() if key in before or rules} == before
    assert not any("KUBE-S" in line or OWNER in line or CANARY in line for line in node.saved().splitlines())
    assert node.read({}) == {}


def test_with_a_kubelet_its_firewall_stays(node: Node) -> None:
    node.run("iptables-restore --noflush", KUBELET)
    node.settle(meant())
    node.settle({})
    assert ("filter", "KUBE-FIREWALL") in node.chains()
    assert "-A INPUT -j KUBE-FIREWALL" in node.saved()


def test_an_unmanaged_chain_is_made_but_never_emptied(node: Node) -> None:
    desired = only(chains((), replace(SETTINGS, localhost_node_ports=False)))
    node.settle(desired)
    node.run("iptables -A KUBE-FIREWALL -j RETURN")
    assert node.plan(desired) == Plan()
    node.run("iptables -D INPUT -j KUBE-FIREWALL")
    node.settle(desired)
    assert node.chains()["filter", "KUBE-FIREWALL"] == ["-j RETURN"]


def test_another_installation_of_kube_proxy_is_left_alone_until_its_place_is_wanted(node: Node) -> None:
    node.settle(meant())
    node.run(f"iptables -t nat -X {OWNER}")
    node.run(f"ip6tables -t nat -X {OWNER}")
    assert node.read({}) == {}
    assert keys(node.settle(meant([SVC1]))) >= {("add", OWNER), ("delete", "KUBE-SVC-4SW47YFZTEDKD3PK")}


def test_applying_again_does_no_harm(node: Node) -> None:
    desired = meant()
    everything = plan(desired, {})
    for _ in range(2):
        assert node.apply(everything).failed == ()
        assert node.plan(desired) == Plan()
    nothing = plan({}, desired)
    for _ in range(2):
        assert node.apply(nothing).failed == ()
        assert node.read(desired) == {}


def test_a_refusal_leaves_the_old_rules_whole_and_names_the_rule(node: Node) -> None:
    node.settle(meant())
    before = node.saved()
    bad = IptablesChain("ip", "nat", "KUBE-SVC-XPGD46QRK7WJZT7O", ("-m tcp -p tcp --dport eighty -j RETURN",))
    outcome = node.apply(plan({**meant(SERVICES[1:]), bad.key: bad}, meant()))
    assert outcome.done == ()
    assert all(error.errno == errno.EINVAL and "eighty" in error.text for error in outcome.failed)
    assert node.saved() == before


def test_a_jump_into_nowhere_is_refused_whole(node: Node) -> None:
    node.settle(meant())
    before = node.saved()
    bad = IptablesChain("ip", "nat", "KUBE-SVC-XPGD46QRK7WJZT7O", ("-j KUBE-SEP-BBBBBBBBBBBBBBBB",))
    outcome = node.apply(plan({**meant(SERVICES[2:]), bad.key: bad}, meant()))
    assert outcome.done == ()
    assert "KUBE-S" in outcome.failed[0].text
    assert node.saved() == before


def test_a_chain_that_a_strangers_rule_leads_to_holds_up_no_other(node: Node) -> None:
    node.settle(meant())
    node.run("iptables -t nat -A OUTPUT -d 8.8.8.8 -j KUBE-SEP-SXIVWICOYRO3J4NJ")
    outcome = node.apply(node.plan(meant(SERVICES[1:])))
    assert {error.resource.key[4] for error in outcome.failed} == {"KUBE-SEP-SXIVWICOYRO3J4NJ"}
    node.settle({})
    ours = {name for table, name in node.chains() if name.startswith(("KUBE-", "PODNET-"))}
    assert ours == {"KUBE-SEP-SXIVWICOYRO3J4NJ"}, "it is left to whoever uses it"
    assert node.chains()["nat", "KUBE-SEP-SXIVWICOYRO3J4NJ"] == []


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
def test_another_kube_proxy_is_seen(node: Node, family: str) -> None:
    assert node.edge.others() == ()
    node.run(f"{family} -t nat -N KUBE-SERVICES")
    node.run(f"{family} -t nat -A OUTPUT -j KUBE-SERVICES")
    assert node.edge.others() == (), "it serves nothing"
    node.run(f"{family} -t nat -A KUBE-SERVICES -p tcp --dport 80 -j RETURN")
    chain = f"the iptables-{node.variant} chain {'ip' if family == 'iptables' else 'ip6'} nat KUBE-SERVICES"
    assert node.edge.others() == (chain,)
    node.settle(meant())
    assert node.edge.others() == (), "these are ours now"
    node.settle({})
    assert set(node.chains()) - {("nat", "KUBE-SERVICES")} == {key for key in node.chains() if "KUBE" not in key[1]}


def test_which_kind_the_machine_uses(node: Node, tmp_path: Path) -> None:
    assert Iptables(node.path).variant == "nft", "nothing there"
    node.run("iptables-restore --noflush", OTHERS)
    assert Iptables(node.path).variant == node.variant, "more rules"
    other = next(variant for variant in iptables.VARIANTS if variant != node.variant)
    fresh = Iptables(node.path, other)
    assert fresh.variant == other, "as wished"
    node.settle(meant())
    assert Iptables(node.path, other).variant == node.variant, "our rules stay where they are"


def test_the_kubelets_hint_counts_more_than_rules(node: Node) -> None:
    other = next(variant for variant in iptables.VARIANTS if variant != node.variant)
    node.run("iptables-restore --noflush", KUBELET)
    Node(node.path, other).run("iptables-restore --noflush", OTHERS)
    assert Iptables(node.path).variant == node.variant


def test_no_iptables(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(iptables, "_PATH", str(tmp_path))
    edge = Iptables(node.path)
    assert list(edge.read(iptables.KINDS, meant())) == []
    tally = Tally()
    edge.apply(plan(meant([SVC1]), {}).steps, tally)
    outcome = tally.outcome()
    assert outcome.done == ()
    assert {(error.errno, error.text) for error in outcome.failed} == {
        (errno.ENOENT, f"there is no {name}-nft-restore: install the package iptables")
        for name in ("iptables", "ip6tables")
    }


def test_through_the_dataplane(node: Node, tmp_path: Path) -> None:
    node.run("iptables-restore --noflush", OTHERS)
    plane = KernelDataplane(str(tmp_path), node.path)
    desired = meant()
    assert plane.apply(plan(desired, plane.read(desired))).failed == ()
    assert plane.iptables.variant == node.variant
    assert plan(desired, plane.read(desired)) == Plan()
    assert plane.read(desired, frozenset({"IptablesJump"})).keys() == {key for key in desired if "Jump" in key[0]}
    assert plane.apply(plan({}, plane.read({}))).failed == ()
    assert plane.read({}) == {}
    plane.close()


def test_beside_either_kind_tcp_is_reset_before_it_would_be_refused(node: Node, tmp_path: Path) -> None:
    """From the node itself, at a cluster address and a node port."""
    for line in ("link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"):
        node.run(f"ip {line}")
    for address, cidr in (("10.9.0.1/24", "172.30.0.0/16"), ("fd00:9::1/64", "fd00:96::/64")):
        node.run(f"ip address add {address} dev up0{' nodad' if ':' in address else ''}")
        node.run(f"ip route add {cidr} dev up0")
    nobody = replace(SVC6, node_port=3006)
    desired = dict(meant([nobody]))
    desired |= state(unserved.table(v6, ()) for v6 in (False, True))
    desired |= state(each for port in (nobody, NONE6) for each in unserved.serve(port))
    with closing(KernelDataplane(str(tmp_path), node.path)) as plane:
        plane.iptables = node.edge
        assert plane.apply(plan(desired, plane.read(desired))).failed == ()
        assert plan(desired, plane.read(desired)) == Plan()
    here = Client("node", node.path, ())
    for host, port in ((nobody.cluster_ip, 80), ("127.0.0.1", 3006), (NONE6.cluster_ip, 80), ("::1", 3006)):
        for seconds, error in (connected(here, host, port) for _ in range(20)):
            assert (seconds < AT_ONCE, error) == (True, errno.ECONNREFUSED), (host, port)


def test_reading_makes_no_tables(node: Node) -> None:
    assert node.read({}) == {}
    with netns.inside(node.path):
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        assert tables == ""
        assert Path("/proc/thread-self/net/ip_tables_names").read_text() == ""


def many(count: int) -> list[ServicePort]:
    return [
        replace(
            service(1, *(Endpoint(f"10.{number // 250}.{number % 250}.{each}", 80) for each in range(1, 5))),
            service=f"svc{number}",
            cluster_ip=f"172.30.{number // 250}.{number % 250}",
        )
        for number in range(count)
    ]


def test_a_thousand_services(node: Node) -> None:
    ports = many(1000)
    settings = replace(SETTINGS, large=True)
    start = time.perf_counter()
    desired = only(chains(ports, settings))
    rendered = time.perf_counter()
    steps = plan(desired, {})
    assert node.apply(steps).failed == ()
    loaded = time.perf_counter()
    assert node.plan(desired) == Plan()
    checked = time.perf_counter()
    moved = [replace(ports[0], internal=ports[0].internal[1:], cluster=ports[0].cluster[1:]), *ports[1:]]
    changed = only(chains(moved, settings))
    one = plan(changed, desired)
    begun = time.perf_counter()
    assert node.apply(one).failed == ()
    done = time.perf_counter()
    assert len(one.steps) == 2
    print(
        f"\n{node.variant}: render {rendered - start:.2f} s, load {loaded - rendered:.2f} s, "
        f"read and compare {checked - loaded:.2f} s, one endpoint {(done - begun) * 1e3:.0f} ms"
    )
    begun = time.perf_counter()
    assert node.apply(plan({}, changed)).failed == ()
    print(f"{node.variant}: remove {time.perf_counter() - begun:.2f} s")
    assert node.read({}) == {}
    assert {jump.family for jump in desired.values() if isinstance(jump, IptablesJump)} == {FAMILIES[0]}
