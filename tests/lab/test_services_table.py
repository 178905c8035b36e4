"""The behaviours of Services, one table for every mode: who reaches whom at which address, and whom the server sees.

Each row asks by TCP and by UDP, in IPv4 and IPv6, from a pod on the endpoint's node ("near"), one on another ("far"),
the endpoint itself ("a": hairpin), nodes, and a machine outside. What a table of answers says, service_asks.py tells;
what a mode may do differently, MODES in service_world.py. Here are those that stay as they are while asked; flows that
live through changes are in test_services_flows.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from podnet.kernel.netns import socket_in
from podnet.network.proxy.service_ports import FALLBACK_ANNOTATION
from podnet.objects.kinds import SERVICES
from tests.lab.labs import NAMESPACE, needs_root, until
from tests.lab.service_asks import Ask, ask_all, sctp_heard, sctp_init
from tests.lab.service_world import HERE, OTHER, OTHER_PORT, OUTSIDE, PORT, Endpoint, Service, World, both, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("services-table")]

NODES = ("node1", "node2", "node3")
EVERYBODY = ("near", "far", "a", "node1", "node3")
LOOPBACK = {False: "127.0.0.1", True: "::1"}


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("svct") as built:
        services(built)
        yield built


def services(made: World) -> None:
    """All that the rows need."""
    balanced: dict[str, Any] = {"type": "LoadBalancer"}
    external = lambda name: [Service(name, len(made.services) + 1).external(v6) for v6 in (False, True)]  # noqa: E731
    made.service("one", "a", externalIPs=external("one"), **balanced)
    made.service("proxied", "a", **balanced)
    made.service("many", "a", "a2", "b", type="NodePort")
    made.service("none", externalIPs=external("none"), **balanced)
    made.service("unready", Endpoint("a", ready=False), type="NodePort")
    local: dict[str, Any] = {"externalTrafficPolicy": "Local", **balanced}
    made.service("local", "a", "b", externalIPs=external("local"), **local)
    made.service("local-none", **local)
    made.service("local-ending", Endpoint("a", ready=False, terminating=True), "b", **local)
    made.service("fallen", "b", **local)
    falls = {"metadata": {"annotations": {FALLBACK_ANNOTATION: "true"}}}
    made.live.api(lambda api: api.patch(SERVICES, "fallen", falls, NAMESPACE, into=dict))
    made.service("inner", "a", "b", internalTrafficPolicy="Local", type="NodePort")
    ranges = [f"{address}/{128 if ':' in address else 32}" for address in OUTSIDE["outside"]]
    ranges += [f"{address}/{128 if ':' in address else 32}" for address in made.pods["near"].addresses]
    ranges += ["192.168.77.8/29", "fd77::11/128"]
    made.service("guarded", "a", externalIPs=external("guarded"), loadBalancerSourceRanges=ranges, **balanced)
    made.service("ending", Endpoint("a", ready=False, terminating=True), Endpoint("b", ready=False))
    made.service("half-ending", "a", Endpoint("b", ready=False, terminating=True))
    made.service("ports", "a", ports=both(("web", 80), ("alt", 81)), type="NodePort")
    made.service("named", "a", Endpoint("b", OTHER_PORT))
    made.service("zoned", Endpoint("a", zones=("x",)), Endpoint("b", zones=("y",)))
    made.service("node-hinted", Endpoint("a", nodes=("node1",)), Endpoint("b", nodes=("node3",)))
    made.service("half-hinted", Endpoint("a", zones=("x",)), "b")
    made.service("sctp", "a", ports=[{"name": "s", "port": 80, "protocol": "SCTP"}], type="NodePort")


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def of_taker(*clients: str) -> dict[str, str]:
    """Each is answered by a, which sees the node that took the connection."""
    return {client: f"a from {TAKERS.get(client, client)}" for client in clients}


TAKERS = {"near": "node1", "far": "node3", "a": "node1", "outside-1": "node1", "outside-3": "node3"}


# -- where a Service is met


def test_cluster_addresses(lab: World, v6: bool) -> None:
    """Pods keep their address, but for one that meets itself; who is no pod comes with a node's, or no answer would
    return."""
    kept = {"near": "a from near", "far": "a from far"}
    lab.check(lab.services["one"].cluster(v6), 80, kept | of_taker("a", "node1", "node3", "outside-1", "outside-3"))


def test_node_ports(lab: World, v6: bool) -> None:
    """At every node's address, whoever asks; the endpoint sees the node that took it."""
    port = lab.services["one"].node_port
    clients = ("near", "far", "a", "node1", "node2", "node3", "outside")
    at = {node.name: node.addresses[v6] for node in lab.live.lab.nodes}
    lab.check_all((at[name], port, dict.fromkeys(clients, f"a from {name}")) for name in NODES)


def test_node_ports_lead_to_endpoints_of_the_clients_family(lab: World, v6: bool) -> None:
    """Though a node port is one number for both families."""
    service = lab.services["one"]
    hosts = [(lab.live.lab.node(name).addresses[v6], service.node_port) for name in ("node1", "node3")]
    asks = [Ask(lab.clients["outside"], *host, protocol) for host in hosts for protocol in ("tcp", "udp")]
    assert [":" in answer.source for answer in ask_all(asks)] == [v6] * 4


def test_node_ports_at_whatever_else_a_node_has(lab: World, v6: bool) -> None:
    """Also where its Node object does not tell of the address."""
    lab.check(OTHER[v6], lab.services["one"].node_port, dict.fromkeys(("outside", "node2", "b"), "a from node2"))


def test_node_ports_of_localhost(lab: World, v6: bool) -> None:
    """For the node itself only, on every node; where a mode can't, nothing listens."""
    can = ("6" if v6 else "4") in lab.mode.localhost
    expected = of_taker("node1", "node3") if can else {"node1": "refused", "node3": "refused"}
    lab.check(LOOPBACK[v6], lab.services["one"].node_port, expected)


def test_others_do_not_reach_what_listens_on_localhost(lab: World) -> None:
    """Though packets to and from 127.0.0.1 may be routed now (CVE-2020-8558)."""
    near, node1 = lab.clients["near"], lab.live.lab.node("node1")
    gateway = lab.live.run(near.netns, "ip route show default").split()[2]
    with (
        socket_in(node1.netns, socket.AF_INET, socket.SOCK_DGRAM) as listener,
        near.socket("udp", False) as stranger,
        socket_in(node1.netns, socket.AF_INET, socket.SOCK_DGRAM) as itself,
    ):
        listener.bind(("127.0.0.1", 9100))
        listener.settimeout(0.5)
        lab.live.run(near.netns, "ip route flush table local root 127.0.0.0/8")
        lab.live.run(near.netns, f"ip route replace 127.0.0.1/32 via {gateway} dev eth0")
        for sender in (stranger, itself):
            sender.sendto(b"own" if sender is itself else b"foreign", ("127.0.0.1", 9100))
        assert listener.recv(2048) == b"own"
        with pytest.raises(TimeoutError):
            listener.recv(2048)


def test_node_ports_at_chosen_addresses(lab: World) -> None:
    """Elsewhere nothing listens, on localhost neither."""
    port, at = lab.services["one"].node_port, {node.name: node.addresses for node in lab.live.lab.nodes}
    shut = [Ask(lab.clients["outside"], host, port) for name in ("node1", "node3") for host in at[name]]
    with lab.settings(nodePortAddresses=[f"{at['node2'][0]}/32", f"{at['node2'][1]}/128"]):
        until(lambda: {answer.error for answer in ask_all(shut)} == {"refused"}, "every node has heard")
        clients = dict.fromkeys(("near", "node3", "outside"), "a from node2")
        rows = [(host, port, clients) for host in at["node2"]]
        rows += [(host, port, {"near": "refused"}) for host in at["node3"]]
        lab.check_all([*rows, (LOOPBACK[False], port, {"node1": "refused"})])
    until(lambda: {answer.server for answer in ask_all(shut)} == {"a"}, "every node has heard")


def test_masquerading_everything(lab: World) -> None:
    """Pods too come with their node's address then."""
    hosts = [lab.services["one"].cluster(v6) for v6 in (False, True)]
    pods = [Ask(lab.clients[name], host, 80) for name in ("near", "far") for host in hosts]

    def seen() -> set[str]:
        return {lab.owner(answer.source) for answer in ask_all(pods)}

    with lab.settings(masqueradeAll=True):
        until(lambda: seen() == {"node1", "node3"}, "every node has heard")
        lab.check_all((host, 80, of_taker("near", "far", "a", "node3", "outside-1")) for host in hosts)
    until(lambda: seen() == {"near", "far"}, "every node has heard")


@pytest.mark.parametrize("kind", ["external", "balancer"])
def test_external_addresses(lab: World, v6: bool, kind: str) -> None:
    """externalIPs and a load balancer's: taken by the first node on the way, which shows its own address."""
    host = getattr(lab.services["one"], kind)(v6)
    lab.check(host, 80, of_taker(*EVERYBODY, "outside-1", "outside-3"))


def test_a_balancer_that_forwards_by_itself_keeps_its_address(lab: World, v6: bool) -> None:
    """ipMode Proxy: the address is not ours to take."""
    service = lab.services["proxied"]
    for mode, expected in (("Proxy", "lost"), ("VIP", "a from node1")):
        ingress = [{"ip": service.balancer(each), "ipMode": mode} for each in (False, True)]
        status = {"loadBalancer": {"ingress": ingress}}
        lab.live.api(lambda api, status=status: api.status(SERVICES, "proxied", status, "default", into=dict))  # type: ignore[misc]
        lab.settle()
        lab.check(service.balancer(v6), 80, {"near": expected, "outside-1": expected})


# -- which endpoints


@pytest.mark.parametrize("client", ["near", "node3"])
def test_connections_spread_evenly(lab: World, v6: bool, client: str) -> None:
    """Chi-square with two degrees of freedom: beyond 18.4 once in 10,000 runs of a fair one."""
    asks = [Ask(lab.clients[client], lab.services["many"].cluster(v6), 80)] * 300
    servers = [answer.server for answer in ask_all(asks)]
    counts = {name: servers.count(name) for name in ("a", "a2", "b")}
    assert sum(counts.values()) == 300, counts
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 18.4, counts


def test_several_ports_lead_each_to_its_own(lab: World, v6: bool) -> None:
    """Also where endpoints resolve the same port's name to different numbers."""
    ports, named = lab.services["ports"], lab.services["named"]
    lab.check_all(
        [
            (ports.cluster(v6), 80, {"near": "a from near"}),
            (ports.cluster(v6), 81, {"near": "a from near"}),
            (
                named.cluster(v6),
                80,
                {"near": "a from near | b-alt from near", "node3": "a from node3 | b-alt from node3"},
            ),
        ]
    )


def test_one_number_for_two_protocols(lab: World, v6: bool) -> None:
    """TCP to one endpoint, UDP to another, at the same address and node port."""
    split = lab.services.get("split")
    if split is None:
        split = lab.service("split", type="NodePort")
        lab.live.api(lambda api: lab.split(api, "split", {"tcp": "a", "udp": "b"}))
        lab.settle()
    for protocol, server in (("tcp", "a"), ("udp", "b")):
        at_node = (lab.live.lab.node("node3").addresses[v6], split.node_port, {"outside": f"{server} from node3"})
        lab.check_all([(split.cluster(v6), 80, {"far": f"{server} from far"}), at_node], [protocol])


def test_terminating_endpoints_serve_when_nothing_else_does(lab: World, v6: bool) -> None:
    for name in ("ending", "half-ending"):
        lab.check(
            lab.services[name].cluster(v6), 80, {"near": "a from near", "far": "a from far", "node3": "a from node3"}
        )


def test_hints_choose_endpoints_near_the_client(lab: World, v6: bool) -> None:
    """By zone; by node before zone; and not at all when one endpoint has none."""
    zoned, hinted, half = (lab.services[name].cluster(v6) for name in ("zoned", "node-hinted", "half-hinted"))
    lab.check_all(
        [
            (zoned, 80, {"near": "a from near", "far": "b from far", "node2": "b from node2"}),
            (hinted, 80, {"near": "a from near", "node3": "b from node3", "node2": "a from node2 | b from node2"}),
            (half, 80, {"near": "a from near | b from near", "far": "a from far | b from far"}),
        ]
    )


# -- what is refused, and what dropped


@pytest.mark.parametrize("name", ["none", "unready"])
def test_without_endpoints_clients_are_refused_at_once(lab: World, v6: bool, name: str) -> None:
    service, node1 = lab.services[name], lab.live.lab.node("node1").addresses[v6]
    everybody = dict.fromkeys(("near", "far", "node1", "node3"), "refused")
    way = dict.fromkeys(("near", "far", "outside-1"), "refused")
    way |= dict.fromkeys(("node1", "node3"), "refused" if lab.mode.itself else "lost")
    direct = everybody | {"outside": "refused"}
    rows = [(service.cluster(v6), 80, everybody | {"outside-1": "refused"}), (node1, service.node_port, direct)]
    if name == "none":
        local = lab.services["local-none"]
        rows += [(host, 80, way) for host in (service.external(v6), service.balancer(v6), local.balancer(v6))]
        rows += [(node1, local.node_port, direct)]
    lab.check_all(rows)


def test_a_port_that_no_service_has_at_its_address(lab: World, v6: bool) -> None:
    clients = ("near", "far", "node1", "node3", "outside-1")
    lab.check(lab.services["one"].cluster(v6), 82, dict.fromkeys(clients, "refused"))


def test_an_address_that_no_service_has(lab: World, v6: bool) -> None:
    unused = Service("unused", 249).cluster(v6)
    lab.check(unused, 80, dict.fromkeys(("near", "node3", "outside-1"), lab.mode.unused))


def test_source_ranges(lab: World, v6: bool) -> None:
    """They guard the balancer's address; node ports and externalIPs only when the cluster says so."""
    service, node1 = lab.services["guarded"], lab.live.lab.node("node1").addresses[v6]
    balancer = (
        service.balancer(v6),
        80,
        of_taker("near", "node1", "outside-1") | {"far": "lost", "stranger-1": "lost"},
    )
    others = [(service.external(v6), 80), (node1, service.node_port)]
    open_ = {"stranger": "a from node1"}, {"stranger-1": "a from node1", "far": "a from node3"}
    shut = {"stranger": "lost"}, {"stranger-1": "lost", "far": "lost"}
    for extended, (at_node, at_external) in ((False, open_), (True, shut)):
        lab.proxy(sourceRangesForAll=extended)
        until(lambda: _stranger_passes(lab, v6) == {not extended}, "every node has heard of it")  # noqa: B023
        (external, port), (node, node_port) = others
        rows = [balancer, (external, port, of_taker("near", "outside-1") | at_external)]
        lab.check_all([*rows, (node, node_port, {"outside": "a from node1"} | at_node)])
    lab.proxy(sourceRangesForAll=False)
    until(lambda: _stranger_passes(lab, v6) == {True}, "every node has heard of the ranges")
    lab.check(service.cluster(v6), 80, {"far": "a from far", "near": "a from near"})


def _stranger_passes(lab: World, v6: bool) -> set[bool]:
    """Whether node ports are open to who is not in the ranges: on one node, and on another."""
    hosts = [node.addresses[v6] for node in lab.live.lab.nodes]
    asks = [Ask(lab.clients["stranger"], each, lab.services["guarded"].node_port) for each in hosts]
    return {bool(each.server) for each in ask_all(asks)}


# -- traffic policies


def test_external_traffic_policy_local(lab: World, v6: bool) -> None:
    """Clients outside keep their address and reach local endpoints only; a node's own pods and the node itself take
    an external address as another name of the cluster's."""
    service, at = lab.services["local"], {node.name: node.addresses[v6] for node in lab.live.lab.nodes}
    port, any_ = service.node_port, "a from {0} | b from {0}"
    near = any_ if lab.mode.cluster else "a from {0}"
    itself = "a from node1 | b from a" if lab.mode.cluster else "a from node1"
    rows = [
        (at["node1"], port, {"outside": "a from outside", "far": "a from far", "node3": "a from node3"}),
        (at["node1"], port, {"near": near.format("near"), "node1": near.format("node1"), "a": itself}),
        (at["node2"], port, {"outside": "b from outside", "near": "b from near", "node1": "b from node1"}),
        (at["node3"], port, {"outside": "lost", "near": "lost", "node1": "lost"}),
        (at["node3"], port, {"far": any_.format("far"), "node3": any_.format("node3")}),
    ]
    for host in (service.external(v6), service.balancer(v6)):
        outer = {"outside-1": "a from outside", "outside-2": "b from outside", "outside-3": "lost"}
        inner = {name: any_.format(name) for name in ("far", "node3")} | {"a": itself}
        inner |= {name: near.format(name) for name in ("near", "node1")}
        rows.append((host, 80, outer | inner))
    rows.append((service.cluster(v6), 80, {"far": any_.format("far")}))
    lab.check_all(rows)


def test_a_terminating_local_endpoint_serves_its_node(lab: World, v6: bool) -> None:
    """Though another node has a ready one."""
    service, at = lab.services["local-ending"], {node.name: node.addresses[v6] for node in lab.live.lab.nodes}
    rows = [(at["node1"], service.node_port, {"outside": "a from outside"})]
    rows += [(at["node2"], service.node_port, {"outside": "b from outside"})]
    rows += [(service.balancer(v6), 80, {"outside-1": "a from outside", "outside-3": "lost", "far": "b from far"})]
    lab.check_all(rows)


def test_a_node_without_endpoints_falls_back_on_others(lab: World, v6: bool) -> None:
    """Which see the node then; the node that has one shows its clients."""
    service, at = lab.services["fallen"], {node.name: node.addresses[v6] for node in lab.live.lab.nodes}
    rows = [(at["node1"], service.node_port, {"outside": "b from node1", "near": "b from node1"})]
    rows += [(at["node2"], service.node_port, {"outside": "b from outside", "near": "b from near"})]
    rows += [(service.balancer(v6), 80, {"outside-1": "b from node1", "outside-2": "b from outside"})]
    lab.check_all(rows)


def test_internal_traffic_policy_local(lab: World, v6: bool) -> None:
    """The cluster address leads to this node's endpoints or nowhere; node ports are not concerned."""
    service = lab.services["inner"]
    inner = {"near": "a from near", "a": "a from node1", "node1": "a from node1", "outside-1": "a from node1"}
    rows = [(service.cluster(v6), 80, inner | dict.fromkeys(("far", "node3", "outside-3"), "lost"))]
    at = lab.live.lab.node("node3").addresses[v6]
    lab.check_all([*rows, (at, service.node_port, {"outside": "a from node3 | b from node3"})])


# -- SCTP


def test_sctp_is_translated(lab: World, v6: bool) -> None:
    """An INIT arrives at the endpoint's own port with a right checksum, from the pod; at a node port, from the node."""
    if not lab.mode.sctp:
        said = lab.live.ask("node1", "status")["problems"]
        assert [each["message"] for each in said if each["reason"] == "UnsupportedProtocol"]
        return
    service, family = lab.services["sctp"], socket.AF_INET6 if v6 else socket.AF_INET
    ways = {"near": service.cluster(v6), "far": service.cluster(v6), "node3": service.cluster(v6)}
    ways["outside"] = lab.live.lab.node("node3").addresses[v6]
    heard: dict[str, int] = {}
    with socket_in(lab.pods["a"].netns, family, socket.SOCK_RAW, socket.IPPROTO_SCTP) as listener:
        for (name, host), number in zip(ways.items(), range(4), strict=True):
            port = service.node_port if name == "outside" else 80
            sctp_init(lab.clients[name], host, port, 7000 + 10 * v6 + number)

        def arrived() -> bool:
            for source, _, port, right in sctp_heard(listener):
                assert (port, right) == (PORT, True)
                heard[lab.owner(source)] = heard.get(lab.owner(source), 0) + 1
            return sum(heard.values()) == 4

        until(arrived, f"four INITs; so far {heard}", 3.0)
    assert heard == {"near": 1, "far": 1, "node3": 2}
