"""Mode ipvs on one node, packet by packet: run by test_ipvs.py inside a kernel that has ip_vs, and by nobody else.

    outside -- eth0 of the node -- a, b (servers), near (a client): pods that podnet attaches, point to point

The node is made by podnet's own features and reconciler, without an agent, so that a slow machine is quick enough.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.facts import features
from podnet.kernel.iptables import Iptables
from podnet.kernel.netlink import GENERIC, Netlink
from podnet.kernel.netns import create, remove
from podnet.kernel.reconciler import Pass, Reconciler
from podnet.network.desired import after, desired
from podnet.network.proxy.explain import client_at, explain
from podnet.network.proxy.live import Live, Memory, live
from podnet.network.proxy.manners import Surroundings
from podnet.network.proxy.settled import settled
from podnet.network.service_port import Endpoint, ServicePort
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.state.ipvs import RealServer
from podnet.wire import ipvs
from podnet.wire.ipvs import ServerMessage, ServiceMessage
from tests.lab import talk
from tests.lab.labs import until
from tests.lab.service_asks import Ask, Client, Flow, ask_all, told
from tests.lab.test_bridged import check as bridged_check
from tests.lab.test_bridged import pods as bridged_pods
from tests.worlds import attachment

pytestmark = pytest.mark.lab

RULES = features()["nftables"] is None and features()["nat"] is None
"""Whether this kernel can do nftables too. Without, there are only the virtual servers: nobody is refused, and who is
no pod does not get an answer, since nobody masquerades."""

needs_rules = pytest.mark.skipif(not RULES, reason="this kernel's nf_tables knows neither IPv4 nor IPv6")

NODE, OUTSIDE = ("192.168.77.11", "fd77::11"), ("192.168.77.200", "fd77::200")
PODS = {"a": 1, "b": 2, "near": 3}
CIDRS, OWN = ("10.244.0.0/16", "fd00:10:244::/48"), ("10.244.1.0/24", "fd00:10:244:1::/64")
SERVICES = ("10.96.0.0/16", "fd00:10:96::/112")
NODE_PORT = 30080


def address(name: str, v6: bool) -> str:
    return f"fd00:10:244:1::{PODS[name] + 1:x}" if v6 else f"10.244.1.{PODS[name] + 1}"


def endpoints(v6: bool, *names: str, local: bool = True) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address(name, v6), 9000, local) for name in names)


def at(number: int, v6: bool) -> str:
    """The cluster address of a Service."""
    return f"fd00:10:96::{number:x}" if v6 else f"10.96.0.{number}"


def outer(number: int, v6: bool) -> str:
    """Its external one."""
    return f"2001:db8::{number:x}" if v6 else f"203.0.113.{number}"


def port(number: int, protocol: str, v6: bool, *names: str, **more: object) -> ServicePort:
    chosen = endpoints(v6, *names)
    made = ServicePort(
        "default", f"s{number}", protocol, protocol, v6, at(number, v6), 80, internal=chosen, external=chosen,
        cluster=chosen, anywhere=bool(chosen), affinity_of=f"s{number}",
    )  # fmt: skip
    return replace(made, **more)


def names(ports: Iterable[ServicePort]) -> set[str]:
    return {each.service for each in ports}


class World:
    """One node."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: str(folder / name) for name in ("node", "outside", *PODS)}
        for path in self.paths.values():
            create(path)
            run(path, "ip link set lo up")
        run(self.paths["node"], f"ip link add eth0 type veth peer name eth0 netns {self.paths['outside']}")
        for name, both in (("node", NODE), ("outside", OUTSIDE)):
            lines = [f"address add {each}/{64 if ':' in each else 24} dev eth0 nodad" for each in both]
            lines = [line.removesuffix(" nodad") if ":" not in line else line for line in lines]
            run(self.paths[name], "ip -batch -", "\n".join(["link set eth0 up", *lines]))
        for cidr in (*CIDRS, *SERVICES, "203.0.113.0/24", "2001:db8::/64"):
            run(self.paths["outside"], f"ip route add {cidr} via {NODE[':' in cidr]}")
        for each in ("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"):
            run(self.paths["node"], f"sysctl -qw {each}")
        pods = [
            attachment(1, number, dual=True, netns=self.paths[name], mode="ptp", container_id=name)
            for name, number in PODS.items()
        ]
        network = NetworkSpec(pod_cidrs=CIDRS, backend={"type": "host-gw"}, attachment="ptp")
        facts = LocalFacts("n1", "eth0", 1500, ("192.168.77.0/24", "fd77::/64"), NODE)
        self.view = NodeView(NodeInfo("n1", NODE, OWN), (), network, facts, tuple(pods))
        self.plane = KernelDataplane(str(folder), self.paths["node"])
        self.plane.iptables = Iptables(self.paths["node"], "" if RULES else "legacy")
        for program in () if RULES else ("iptables-legacy", "ip6tables-legacy"):
            # The kernel tracks connections while a rule of someone wants that, as else podnet's own tables do.
            run(self.paths["node"], f"{program} -t nat -A INPUT -m conntrack --ctstate DNAT")
        self.reconciler = Reconciler(self.plane)
        self.clients = {
            name: Client(name, self.paths[name], (address(name, False), address(name, True))) for name in PODS
        }
        self.clients |= {name: Client(name, self.paths[name], ()) for name in ("node", "outside")}
        self.servers = [
            subprocess.Popen(
                [
                    "nsenter",
                    f"--net={self.paths[name]}",
                    sys.executable,
                    "-I",
                    "-S",
                    talk.__file__,
                    "serve",
                    name,
                    "9000",
                ]
            )
            for name in ("a", "b")
        ]

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait()
        self.plane.close()
        for path in self.paths.values():
            remove(path)

    def use(self, *ports: ServicePort, mode: str = "ipvs") -> Pass:
        """These are the Services from now on; a second look must find nothing to do, but for what connections that
        have ended meanwhile leave behind."""
        services = {("default", name): tuple(each for each in ports if each.service == name) for name in names(ports)}
        network = replace(self.view.network, proxy=ProxySpec(mode=mode, service_cidrs=SERVICES))
        view = replace(self.view, network=network, services=services)
        units = desired(view)
        if not RULES:
            kinds = ("NftTable", "Element")
            units = {unit: tuple(each for each in some if each.kind not in kinds) for unit, some in units.items()}
        done = self.reconciler.reconcile(units, lambda plan: after(view, plan))
        assert (done.failed, done.held) == ((), ())
        self.reconciler.distrust()
        left = [step for step in self.reconciler.difference(units).steps if step.verb != "delete"]
        assert not left, left
        return done

    def hears(self, host: str, number: int, *names: str, protocol: str = "tcp", times: int = 1) -> str:
        """What these clients are told, all together."""
        asks = [Ask(self.clients[name], host, number, protocol) for name in names for _ in range(times)]
        return told(ask_all(asks, 1.6), self.owner)

    @staticmethod
    def owner(ip: str) -> str:
        owners = dict.fromkeys(OUTSIDE, "outside") | {address(name, v6): name for name in PODS for v6 in (False, True)}
        return owners.get(ip, "node")


def run(netns: str, command: str, text: str = "") -> str:
    words = ["nsenter", f"--net={netns}", *command.split()]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("node"))
    try:
        made.use(port(1, "tcp", False, "a"))
        asks = [Ask(made.clients["near"], address(name, v6), 9000) for name in ("a", "b") for v6 in (False, True)]
        until(lambda: all(answer.server for answer in ask_all(asks)), "the servers answer", 20.0)
        yield made
    finally:
        made.close()


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@needs_rules
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_where_a_service_is_met_and_whom_it_sees(world: World, v6: bool, protocol: str) -> None:
    host, external, node = at(1, v6), outer(1, v6), NODE[v6]
    world.use(port(1, protocol, v6, "a", node_port=NODE_PORT, external_ips=(external,)))
    for where, number in ((host, 80), (external, 80), (node, NODE_PORT)):
        near = "a from near" if where == host else "a from node"
        assert world.hears(where, number, "near", protocol=protocol) == near
        assert world.hears(where, number, "a", "node", "outside", protocol=protocol) == "a from node"


def test_connections_take_turns(world: World, v6: bool) -> None:
    world.use(port(1, "tcp", v6, "a", "b"))
    answers = [ask_all([Ask(world.clients["near"], at(1, v6), 80)])[0].server for _ in range(8)]
    assert answers in (["a", "b"] * 4, ["b", "a"] * 4)
    world.use(port(1, "tcp", v6, "a", "b", affinity=60))
    answers = [ask_all([Ask(world.clients["near"], at(1, v6), 80)])[0].server for _ in range(8)]
    assert answers in (["a"] * 8, ["b"] * 8)


@needs_rules
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_is_refused_and_what_dropped(world: World, v6: bool, protocol: str) -> None:
    nothing: dict[str, object] = {"external": (), "external_local": True, "external_ips": (outer(3, v6),)}
    source = f"{OUTSIDE[v6]}/{128 if v6 else 32}"
    world.use(
        port(2, protocol, v6, external_ips=(outer(2, v6),)),
        port(3, protocol, v6, "a", **nothing),
        port(4, protocol, v6, "a", balancer_ips=(outer(4, v6),), source_ranges=(source,)),
    )
    for host, number in ((at(2, v6), 80), (outer(2, v6), 80), (at(3, v6), 81), (outer(3, v6), 81)):
        assert world.hears(host, number, "near", "node", "outside", protocol=protocol) == "refused", (host, number)
    assert world.hears(at(99, v6), 80, "near", "outside", protocol=protocol) == "lost"
    assert world.hears(outer(3, v6), 80, "outside", protocol=protocol) == "lost"
    assert world.hears(outer(3, v6), 80, "near", protocol=protocol) == "a from near"
    assert world.hears(outer(4, v6), 80, "near", "node", protocol=protocol) == "lost"
    assert world.hears(outer(4, v6), 80, "outside", protocol=protocol) == "a from node"


def test_what_is_told_of_it(world: World, v6: bool) -> None:
    """Scheduler, connections, and who stays where, at which frontend: as `podnet service describe` says it."""
    service = port(8, "tcp", v6, "a", "b", affinity=60, node_port=NODE_PORT)
    world.use(service)
    around = Surroundings((NODE[v6],), (OWN[v6],), (CIDRS[v6],), mode="ipvs")
    who = client_at(address("near", v6), around)

    def known() -> Live:
        return live(service, Memory({}, {}, {}, world.plane.balanced()), around.addresses, "ipvs")

    def shares(scope: str) -> dict[str, float]:
        (meeting,) = (each for each in explain((service,), who, around) if each.scope == scope)
        assert (meeting.algorithm, meeting.affinity) == ("round-robin", 60)
        told = settled(meeting, who, service, known(), "ipvs")
        return {share.endpoint.address: share.percent for share in told.shares}

    chances = {address(name, v6): 50 for name in ("a", "b")}
    assert (known(), shares("cluster")) == (Live(), chances)
    flow = Flow(Ask(world.clients["near"], at(8, v6), 80))
    try:
        chosen = address(flow.server, v6)
        assert known().connections == {chosen: 1}
        assert known().affinity_at == {f"[{at(8, v6)}]:80" if v6 else f"{at(8, v6)}:80": {who.address: chosen}}
        assert shares("cluster") == {each: 100 * (each == chosen) for each in chances}
        assert shares("node") == chances
    finally:
        flow.close()
    until(lambda: not known().connections, "it is not established any more", 10.0)
    assert known().inactive == {chosen: 1}


def test_where_the_hash_of_a_client_leads(world: World, v6: bool) -> None:
    """As it is told, for clients of many addresses and endpoints that are not alike."""
    first, second = endpoints(v6, "a", "b")
    service = port(9, "tcp", v6, algorithm="source-hash", internal=(first, replace(second, weight=3)), anywhere=True)
    world.use(service)
    around = Surroundings((NODE[v6],), (OWN[v6],), (CIDRS[v6],), mode="ipvs")
    known = live(service, Memory({}, {}, {}, world.plane.balanced()), around.addresses, "ipvs")
    sources = [f"fd00:10:244:1::1:{number:x}" if v6 else f"10.244.1.{number}" for number in range(16, 32)]
    told = {}
    for source in sources:
        who = client_at(source, around)
        (meeting,) = (each for each in explain((service,), who, around) if each.scope == "cluster")
        shares = settled(meeting, who, service, known, "ipvs").shares
        (told[source],) = (share.endpoint.address for share in shares if share.percent)
    assert set(told.values()) == {first.address, second.address}
    device = run(world.paths["node"], f"ip -4 route get {address('near', False)}").split(" dev ")[1].split()[0]
    for path, line in (("near", "address {} {}/{} dev eth0"), ("node", "route {} {}/{} dev " + device)):
        lines = [line.format("add", source, 128 if v6 else 32) for source in sources]
        run(
            world.paths[path],
            "ip -batch -",
            "\n".join(f"{each} nodad" if "eth0" in each and v6 else each for each in lines),
        )
    try:
        clients = [world.clients["near"]._replace(addresses=(source, source), bind=True) for source in sources]
        answers = ask_all([Ask(client, at(9, v6), 80) for client in clients])
        heard = {source: address(each.server, v6) for source, each in zip(sources, answers, strict=True)}
        assert heard == told
    finally:
        for path, line in (("near", "address del {}/{} dev eth0"), ("node", "route del {}/{}")):
            lines = [line.format(source, 128 if v6 else 32) for source in sources]
            run(world.paths[path], "ip -batch -", "\n".join(lines))


def test_a_real_server_ends_when_its_last_connection_does(world: World, v6: bool) -> None:
    world.use(port(1, "tcp", v6, "a"))
    flow = Flow(Ask(world.clients["near"], at(1, v6), 80))
    try:
        world.use(port(1, "tcp", v6, "b"))
        assert flow.echoes()
        assert world.hears(at(1, v6), 80, "near", times=4) == "b from near"
        world.use()
        assert flow.echoes(), "nor with its Service"
        world.use(port(1, "tcp", v6, "b", "a"))
        assert world.hears(at(1, v6), 80, "near", times=4) == "a from near | b from near"
    finally:
        flow.close()


def test_udp_moves_at_once(world: World, v6: bool) -> None:
    flow = Flow(Ask(world.clients["near"], at(5, v6), 80, "udp"))
    world.use()
    try:
        assert flow.say(0.1) == ""
        world.use(port(5, "udp", v6, "a"))
        until(lambda: flow.say() == "a", "who came before the Service is answered", 5.0)
        world.use(port(5, "udp", v6, "b"))
        until(lambda: flow.say() == "b", "and led elsewhere", 5.0)
        world.use(port(5, "udp", v6, "b"), mode="nftables" if RULES else "ipvs")
        until(lambda: flow.say() == "b", "in another mode too", 5.0)
    finally:
        flow.close()


def test_the_mode_changes_under_connections(world: World, v6: bool) -> None:
    service = port(6, "tcp", v6, "a", "b", node_port=NODE_PORT)
    flows: list[Flow] = []
    try:
        other = "nftables" if RULES else "iptables"
        for mode in (other, "ipvs", other, "none", "ipvs"):
            world.use(service, mode=mode)
            assert all(flow.echoes() for flow in flows), mode
            if mode != "none":
                asks = [(at(6, v6), 80, "near"), (at(6, v6), 80, "node"), (NODE[v6], NODE_PORT, "outside")]
                chosen = asks if RULES else asks[:1]
                flows += [Flow(Ask(world.clients[name], host, number)) for host, number, name in chosen]
        assert all(flow.echoes() for flow in flows)
    finally:
        for flow in flows:
            flow.close()


@needs_rules
@pytest.mark.parametrize("lacks", [False, True], ids=["filtered", "unfiltered"])
def test_between_pods_of_one_bridge(tmp_path: Path, lacks: bool) -> None:
    with bridged_pods(tmp_path, "ipvs", lacks) as made:
        bridged_check(made, lacks)


def test_what_others_made_stays_and_what_they_broke_is_mended(world: World) -> None:
    ours, foreign = ServiceMessage(6, at(7, False), 80), ServiceMessage(6, "10.99.0.1", 80, "rr")
    with Netlink(GENERIC, world.paths["node"]) as netlink:
        family = ipvs.decode_family(netlink.get(ipvs.get_family()))
        world.use(port(7, "tcp", False, "a"))
        broken = [
            ipvs.put_service(family, foreign),
            ipvs.delete_server(family, ours, ServerMessage(address("a", False), 9000)),
            ipvs.put_server(family, ours, ServerMessage(address("b", False), 9000, 5)),
        ]
        assert netlink.write(broken) == {}
    done = world.use(port(7, "tcp", False, "a"))
    assert [(step.verb, step.resource) for step in done.plan.steps] == [
        ("add", RealServer("tcp", at(7, False), 80, address("a", False), 9000)),
        ("delete", RealServer("tcp", at(7, False), 80, address("b", False), 9000, 5)),
    ]
    world.use()
    lines = run(world.paths["node"], "cat /proc/net/ip_vs")
    assert "0A630001:0050" in lines
    assert "0A600007:0050" not in lines
