"""A lab for Services: pods that answer, clients of every kind, and hands to write Services and slices exactly.

    node1   a, a2 (servers), near (client)        outside, stranger: two addresses of one more machine on the fabric
    node2   b (server)                            outside-1..3: outside, which takes node N as its way to the cluster
    node3   far (client)

Services are without selectors and their slices hand-made, so that a table says exactly what there is. Each gets a
number, from which all its addresses follow; each serves TCP and UDP at the same numbers. What a proxy mode may do
differently stands in MODES.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

from podnet.client.api import Api
from podnet.kernel.facts import missing
from podnet.kernel.netns import remove
from podnet.lab.fabric import BRIDGE, configure, make_namespace
from podnet.objects.kinds import ENDPOINTSLICES, NODES, SERVICES
from podnet.objects.services import SERVICE_NAME
from tests.lab import talk
from tests.lab.labs import NAMESPACE, LiveLab, live_lab, until
from tests.lab.service_asks import Answer, Ask, Client, ask_all, told

TALK = [sys.executable, "-I", "-S", talk.__file__]
PORT, OTHER_PORT = 9000, 9001
"""Where the servers listen; at the other one "a" answers as "a-alt"."""

SERVERS = {"a": "node1", "a2": "node1", "b": "node2"}
CLIENTS = {"near": "node1", "far": "node3"}
ZONES = {"node1": "x", "node2": "y", "node3": "y"}
OTHER = ("10.99.0.2", "fd99::2")
"""What node2 has beside the addresses of its Node object."""

OUTSIDE = {"outside": ("192.168.77.200", "fd77::200"), "stranger": ("192.168.77.201", "fd77::201")}
EXTERNAL, BALANCER = ("203.0.113.", "2001:db8:113::"), ("198.51.100.", "2001:db8:51::")
PROTOCOLS = ("tcp", "udp")
CANARY = 250


class Mode(NamedTuple):
    """What a mode may do differently from what the table says.

    localhost  the families whose loopback address serves node ports ("4", "46")
    unused     what a cluster address says that no Service has
    sctp       whether it serves SCTP
    cluster    whether under externalTrafficPolicy Local a node's own pods reach endpoints of other nodes too
    expires    whether an affinity ends with its time; else it lasts as long as what is left of a client's connections
    itself     whether a node's own connections to external addresses without endpoints are refused, not sent on
    refusal    seconds within which a refusal is heard; ICMP errors that come while connect() is at work are heard only
               at the second SYN, so modes that refuse TCP by ICMP take a little more than one
    """

    localhost: str = "4"
    unused: str = "lost"
    sctp: bool = True
    cluster: bool = True
    expires: bool = True
    itself: bool = True
    refusal: float = 0.2


MODES: Mapping[str, Mode] = {
    "nftables": Mode(),
    "iptables": Mode(itself=False),
    "userspace": Mode(localhost="46", sctp=False),
    "ipvs": Mode(localhost="", cluster=False, expires=False, refusal=1.3),
}

HERE = tuple(mode for mode in MODES if mode != "ipvs" or "ip_vs" not in missing())
"""The modes that this machine's kernel can do; test_ipvs.py takes another kernel for the last one."""


class Service(NamedTuple):
    """One of ours: its number makes its addresses."""

    name: str
    number: int

    def cluster(self, v6: bool) -> str:
        """clusterIP."""
        return f"fd00:10:96::{0x700 + self.number:x}" if v6 else f"10.96.7.{self.number}"

    def external(self, v6: bool) -> str:
        """externalIP."""
        return EXTERNAL[v6] + (f"{self.number:x}" if v6 else str(self.number))

    def balancer(self, v6: bool) -> str:
        """The load balancer's."""
        return BALANCER[v6] + (f"{self.number:x}" if v6 else str(self.number))

    @property
    def node_port(self) -> int:
        """For both protocols; of the numbers that the API gives out by itself only when all others are taken."""
        return 30000 + self.number


class Endpoint(NamedTuple):
    """A server in a slice."""

    server: str
    port: int = PORT
    ready: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


def both(*ports: tuple[str, int]) -> list[dict[str, Any]]:
    """Service ports (name, number), each for TCP and UDP."""
    return [
        {"name": f"{name}-{protocol}", "port": port, "protocol": protocol.upper()}
        for name, port in ports
        for protocol in PROTOCOLS
    ]


class World:
    """The lab, who is in it, and the Services."""

    def __init__(self, live: LiveLab, outside: str) -> None:
        self.live = live
        self.name, self.mode = "nftables", MODES["nftables"]
        self.services: dict[str, Service] = {}
        self.pods = {name: live.place(name) for name in (*SERVERS, *CLIENTS)}
        self.clients = {name: Client(name, pod.netns, pod.addresses, pod.node) for name, pod in self.pods.items()}
        for node in live.lab.nodes:
            self.clients[node.name] = Client(node.name, node.netns, node.addresses, node.name)
        for name, addresses in OUTSIDE.items():
            self.clients[name] = Client(name, outside, addresses, bind=True)
            for node in live.lab.nodes:
                marked = Client(f"{name}-{node.number}", outside, addresses, bind=True, mark=node.number)
                self.clients[marked.name] = marked
        self._owners = {address: name for name in (*self.pods, *OUTSIDE) for address in self.clients[name].addresses}
        for node in live.lab.nodes:
            words = live.run(node.name, "ip -brief address show scope global").split()
            self._owners |= {word.partition("/")[0]: node.name for word in words if "/" in word}
        self._canary = 0

    # -- objects

    def service(
        self, name: str, *endpoints: Endpoint | str, ports: list[dict[str, Any]] | None = None, **spec: Any
    ) -> Service:
        """Make a Service of both families, port 80, with slices for these endpoints."""
        made = self.services[name] = Service(name, len(self.services) + 1)
        self.make(made, *endpoints, ports=ports, **spec)
        return made

    def make(
        self, made: Service, *endpoints: Endpoint | str, ports: list[dict[str, Any]] | None = None, **spec: Any
    ) -> None:
        """Make one whose number is chosen."""
        wanted, chosen = ports or both(("web", 80)), [*map(_endpoint, endpoints)]
        self.live.api(lambda api: self._create(api, made, chosen, wanted, spec))

    def unmake(self, service: Service) -> None:
        """Delete a Service and its slices."""

        async def delete(api: Api) -> None:
            await api.delete(SERVICES, service.name, NAMESPACE)
            for family in (4, 6):
                await api.delete(ENDPOINTSLICES, f"{service.name}-{family}-{PORT}", NAMESPACE)

        self.live.api(delete)

    async def _create(
        self, api: Api, made: Service, endpoints: list[Endpoint], ports: list[dict[str, Any]], spec: dict[str, Any]
    ) -> None:
        kind = spec.get("type", "ClusterIP")
        numbered = [dict(port) for port in ports]
        if kind != "ClusterIP":
            for port in numbered[:2]:
                port["nodePort"] = made.node_port
        whole = {
            "clusterIP": made.cluster(False),
            "clusterIPs": [made.cluster(False), made.cluster(True)],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": numbered,
            **({"loadBalancerClass": "example.com/by-hand"} if kind == "LoadBalancer" else {}),
            **spec,
        }
        metadata = {"name": made.name, "namespace": NAMESPACE}
        await api.create(SERVICES, {"metadata": metadata, "spec": whole}, into=dict)
        if kind == "LoadBalancer":
            ingress = [{"ip": made.balancer(v6)} for v6 in (False, True)]
            await api.status(SERVICES, made.name, {"loadBalancer": {"ingress": ingress}}, NAMESPACE, into=dict)
        for v6 in (False, True):
            for number, chosen in _by_port(endpoints).items():
                await api.create(ENDPOINTSLICES, self._slice(made.name, v6, numbered, number, chosen), into=dict)

    def _slice(
        self, service: str, v6: bool, ports: list[dict[str, Any]], number: int, endpoints: Iterable[Endpoint]
    ) -> dict[str, Any]:
        """One of a Service's slices: all its endpoints serve at the same port."""
        family = 6 if v6 else 4
        return {
            "metadata": {
                "name": f"{service}-{family}-{number}",
                "namespace": NAMESPACE,
                "labels": {SERVICE_NAME: service, "endpointslice.kubernetes.io/managed-by": "by-hand"},
            },
            "addressType": f"IPv{family}",
            "ports": [{"name": port["name"], "protocol": port["protocol"], "port": number} for port in ports],
            "endpoints": [self._entry(each, v6) for each in endpoints],
        }

    def _entry(self, each: Endpoint, v6: bool) -> dict[str, Any]:
        pod = self.pods[each.server]
        hints = {
            "forZones": [{"name": name} for name in each.zones],
            "forNodes": [{"name": name} for name in each.nodes],
        }
        serving = each.ready or each.terminating
        return {
            "addresses": [pod.addresses[v6]],
            "nodeName": pod.node,
            "conditions": {"ready": each.ready, "serving": serving, "terminating": each.terminating},
            **({"hints": {key: value for key, value in hints.items() if value}} if each.zones or each.nodes else {}),
        }

    async def set_endpoints(self, api: Api, service: str, *endpoints: Endpoint | str, families: str = "46") -> None:
        """Change the endpoints of a Service that serves at PORT."""
        for family in families:
            entries = [self._entry(each, family == "6") for each in map(_endpoint, endpoints)]
            name = f"{service}-{family}-{PORT}"
            await api.patch(ENDPOINTSLICES, name, {"endpoints": entries}, NAMESPACE, into=dict)

    def move(self, service: str, port: int) -> None:
        """Let the endpoints of a Service serve at another port, and wait until every node has heard."""

        async def move(api: Api) -> None:
            ports = [{"name": each["name"], "protocol": each["protocol"], "port": port} for each in both(("web", 80))]
            for family in (4, 6):
                await api.patch(ENDPOINTSLICES, f"{service}-{family}-{PORT}", {"ports": ports}, NAMESPACE, into=dict)

        self.live.api(move)
        self.settle()

    async def split(self, api: Api, service: str, servers: Mapping[str, str]) -> None:
        """Give each protocol an endpoint of its own."""
        for v6 in (False, True):
            await api.delete(ENDPOINTSLICES, f"{service}-{6 if v6 else 4}-{PORT}", NAMESPACE)
            for protocol, server in servers.items():
                ports = [port for port in both(("web", 80)) if port["protocol"] == protocol.upper()]
                document = self._slice(service, v6, ports, PORT, [Endpoint(server)])
                document["metadata"]["name"] += f"-{protocol}"
                await api.create(ENDPOINTSLICES, document, into=dict)

    def endpoints(self, service: str, *endpoints: Endpoint | str) -> None:
        """Change them, and wait until every node has heard."""
        self.live.api(lambda api: self.set_endpoints(api, service, *endpoints))
        self.settle()

    def patch(self, service: str, **spec: Any) -> None:
        """Change a Service, and wait until every node has heard."""
        self.live.api(lambda api: api.patch(SERVICES, service, {"spec": spec}, NAMESPACE, into=dict))
        self.settle()

    def settle(self) -> None:
        """Wait until every node has heard of all changes of Services and slices: a later change is seen everywhere, in
        IPv6, which is written after IPv4."""
        self._canary += 1
        port, other = 20000 + self._canary, self._canary % 2
        canary = Service("canary", CANARY)
        ports = [{"name": "c", "port": port, "protocol": "TCP"}]
        document = self._slice("canary", True, ports, OTHER_PORT if other else PORT, [Endpoint("a")])
        document["metadata"]["name"] = "canary"

        async def change(api: Api) -> None:
            if self._canary > 1:
                await api.patch(ENDPOINTSLICES, "canary", {"ports": document["ports"]}, NAMESPACE, into=dict)
                await api.patch(SERVICES, "canary", {"spec": {"ports": ports}}, NAMESPACE, into=dict)
                return
            spec = {"clusterIP": canary.cluster(True), "ipFamilies": ["IPv6"], "ports": ports}
            await api.create(ENDPOINTSLICES, document, into=dict)
            metadata = {"name": "canary", "namespace": NAMESPACE}
            await api.create(SERVICES, {"metadata": metadata, "spec": spec}, into=dict)

        self.live.api(change)
        asks = [Ask(self.clients[node.name], canary.cluster(True), port) for node in self.live.lab.nodes]
        wanted = {"a-alt" if other else "a"}
        until(lambda: {answer.server for answer in ask_all(asks)} == wanted, "every node has heard of the Services", 30)

    def proxy(self, **settings: Any) -> None:
        """Change the cluster's settings of the proxy, of which every node hears."""
        self.live.configure(proxy=settings)
        if (mode := settings.get("mode", self.name)) != "none":
            self.name, self.mode = mode, MODES[mode]
            self.settle()

    @contextmanager
    def settings(self, **settings: Any) -> Iterator[None]:
        """Change settings of the proxy for a while."""
        self.live.configure(proxy=settings)
        try:
            yield
        finally:
            self.live.configure(proxy=dict.fromkeys(settings))

    # -- questions

    def say(
        self, host: str, port: int, clients: Iterable[str], times: int = 1, protocol: str = "tcp"
    ) -> dict[str, list[Answer]]:
        """What each client hears."""
        asks = [Ask(self.clients[name], host, port, protocol) for name in clients for _ in range(times)]
        answers = ask_all(asks)
        return {name: answers[place * times : (place + 1) * times] for place, name in enumerate(clients)}

    def check(self, host: str, port: int, expected: Mapping[str, str], protocols: Iterable[str] = PROTOCOLS) -> None:
        """Every client must hear just what the table says, by each protocol; where that is several, all of them."""
        self.check_all([(host, port, expected)], protocols)

    def check_all(
        self, rows: Iterable[tuple[str, int, Mapping[str, str]]], protocols: Iterable[str] = PROTOCOLS
    ) -> None:
        """Many rows (host, port, what each client must hear) at once."""
        asks: dict[str, list[Ask]] = {}
        wanted: dict[str, str] = {}
        for host, port, expected in rows:
            for client, words in expected.items():
                for protocol in protocols:
                    key = f"{client} to {host} {protocol}/{port}"
                    wanted[key] = words
                    times = 24 if "|" in words else 1
                    asks[key] = [Ask(self.clients[client], host, port, protocol)] * times
        answers = iter(ask_all([ask for several in asks.values() for ask in several], self.mode.refusal + 0.3))
        heard = {key: [next(answers) for _ in several] for key, several in asks.items()}
        said = {key: told(each, self.owner) for key, each in heard.items()}
        wrong = [f"{key}: {said[key]}; not {wanted[key]}" for key in wanted if said[key] != wanted[key]]
        assert not wrong, "\n".join(["", *wrong])
        limit = self.mode.refusal
        slow = [key for key, each in heard.items() if any(a.error == "refused" and a.seconds > limit for a in each)]
        assert not slow, "a refusal comes at once"

    def owner(self, address: str) -> str:
        """Who has an address: a pod, a node, or one of the machines outside."""
        return self._owners.get(address, address)


def _endpoint(given: Endpoint | str) -> Endpoint:
    return Endpoint(given) if isinstance(given, str) else given


def _by_port(endpoints: Iterable[Endpoint]) -> dict[int, list[Endpoint]]:
    found: dict[int, list[Endpoint]] = {PORT: []}
    for each in endpoints:
        found.setdefault(each.port, []).append(each)
    return found


@contextmanager
def world(what: str, *options: str) -> Iterator[World]:
    """The lab, its pods and the machine outside; gone afterwards."""
    with live_lab(what, "--nodes", "3", "--no-demo", "--dual-stack", *options) as live, _outside(live) as outside:
        for name, node in SERVERS.items():
            live.create_pod(name, node, command=[*TALK, "serve", name, str(PORT), f"{name}-alt", str(OTHER_PORT)])
        for name, node in CLIENTS.items():
            live.create_pod(name, node)
        for name in (*SERVERS, *CLIENTS):
            until(lambda name=name: live.running(name), f"pod {name} runs", 20.0)  # type: ignore[misc]
        for node, zone in ZONES.items():
            labels = {"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}
            live.api(lambda api, node=node, labels=labels: api.patch(NODES, node, labels, into=dict))  # type: ignore[misc]
        made = World(live, outside)
        asks = [
            Ask(made.clients["near"], address, port, protocol)
            for name in SERVERS
            for address in made.pods[name].addresses
            for port, protocol in product((PORT, OTHER_PORT), PROTOCOLS)
        ]
        until(lambda: all(answer.server for answer in ask_all(asks)), "the servers answer everywhere", 20.0)
        yield made


@contextmanager
def _outside(live: LiveLab) -> Iterator[str]:
    """One more machine on the fabric, which nodes take as the way to external addresses; gives its namespace."""
    path = f"{live.lab.folder}/netns/outside"
    make_namespace(path)
    try:
        configure(
            live.lab.fabric_netns,
            [f"link add outside type veth peer name eth0 netns {path}", f"link set outside master {BRIDGE} up"],
        )
        addresses = [
            f"address add {address}/{64 if ':' in address else 24} dev eth0{' nodad' if ':' in address else ''}"
            for both in OUTSIDE.values()
            for address in both
        ]
        ways = [
            line
            for node in live.lab.nodes
            for family, via in zip("46", node.addresses, strict=True)
            for line in (f"-{family} rule add fwmark {node.number} table {node.number}",)
        ]
        routes = [
            f"route add default via {via} dev eth0 table {node.number}"
            for node in live.lab.nodes
            for via in node.addresses
        ]
        configure(path, ["link set lo up", "link set eth0 up", *addresses, *routes])
        for line in ways:
            live.run(path, f"ip {line}")
        for place in (*(node.netns for node in live.lab.nodes), path):  # kernels send one ICMP error a second
            live.run(place, "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
            live.run(place, "sysctl -qew net.ipv4.icmp_msgs_per_sec=10000 net.ipv4.icmp_msgs_burst=1000", code=None)
        # A node that passes on what it does not translate says "ask there yourself".
        for conf in ("ipv4.conf.all", "ipv4.conf.eth0", "ipv6.conf.all", "ipv6.conf.eth0"):
            live.run(path, f"sysctl -qw net.{conf}.accept_redirects=0")
        for family in "46":  # what is not for it ends there, without a word
            live.run(path, f"ip -{family} route add blackhole default")
        configure(live.netns("node2"), [f"address add {address} dev lo" for address in OTHER])
        ways_back = zip(OTHER, live.lab.node("node2").addresses, strict=True)
        configure(path, [f"route add {address} via {via}" for address, via in ways_back])
        for node in live.lab.nodes:  # as any node has one
            configure(node.netns, [f"route add default via {gateway}" for gateway in OUTSIDE["outside"]])
        yield path
    finally:
        remove(path)
