"""Mode iptables: kube-proxy's chains, to the letter.

From a packet's point of view: every Service port has a rule in KUBE-SERVICES -> KUBE-SVC-, where each endpoint gets its
share by chance -> KUBE-SEP- translates the destination. From outside it goes through KUBE-EXT- first, which decides
about the source address, and with source ranges through KUBE-FW- before that. KUBE-SVL- is what remains of KUBE-SVC-
under a policy Local. What must leave with the node's address is marked 0x4000 and masqueraded in KUBE-POSTROUTING. A
Service without endpoints is refused in the table `filter`.

A ServicePort gives its own chains (`own`) and lines in chains that all share (`shared`); both depend on it and the
settings alone. `frame` joins the lines of all. So an endpoint that changes costs its Service's chains, and the shared
ones only if the Service gets its first endpoint or loses its last.
Source of names, order and words: k8s.io/kubernetes pkg/proxy/iptables/proxier.go, 1.30.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from ipaddress import ip_address, ip_network

from podnet.network.proxy import localhost
from podnet.network.service_port import Endpoint, ServicePort, order
from podnet.network.value import Value
from podnet.state.iptables import FIREWALL, TABLES, IptablesChain, jumps
from podnet.state.resource import Resource

MARK = "0x4000"
LARGE = 1000
"""With more endpoints than this in all, the chains of Services do without comments."""

LOOPBACK = "127.0.0.1"
_LOCALNET = "127.0.0.0/8"

Line = tuple[str, str, str]
"""A rule in a shared chain: (table, chain, rule)."""


class Settings(Value, frozen=True):
    """What the rules of one family depend on besides the Services.

    cluster_cidr         the pods' range: who is inside; "" when that can't be told
    masquerade_all       cluster addresses too are left with the node's address as source, always
    localhost_node_ports node ports work at 127.0.0.1 (never at ::1)
    node_port_addresses  CIDRs of the node's addresses that serve node ports; () means all
    node_addresses       the addresses of the Node object
    other_addresses      what else the node has, at which node ports may be had as well
    liberal              the kernel takes TCP segments outside the window for valid, so INVALID ones need not be dropped
    ranges_for_all       source ranges hold for external addresses and node ports too (kube-proxy has no such thing)
    large                the form for many endpoints: see LARGE
    """

    v6: bool = False
    cluster_cidr: str = ""
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    node_port_addresses: tuple[str, ...] = ()
    node_addresses: tuple[str, ...] = ()
    other_addresses: tuple[str, ...] = ()
    liberal: bool = False
    ranges_for_all: bool = False
    large: bool = False

    @property
    def family(self) -> str:
        """As resources say it."""
        return "ip6" if self.v6 else "ip"

    @property
    def localhost(self) -> bool:
        """Whether node ports work at 127.0.0.1."""
        return not self.v6 and self.localhost_node_ports and self.serves(LOOPBACK)

    def serves(self, address: str) -> bool:
        """Whether node ports may be had at an address of the node."""
        return not self.node_port_addresses or _within(address, self.node_port_addresses)


def chains(ports: Iterable[ServicePort], settings: Settings) -> Iterator[Resource]:
    """Everything, for the ServicePorts of one family."""
    ports = tuple(ports)
    for port in ports:
        yield from own(port, settings)
    yield from frame((line for port in ports for line in shared(port, settings)), settings)


def large(ports: Iterable[ServicePort]) -> bool:
    """Whether it is time for the form without comments."""
    return sum(len(port.endpoints) for port in ports) > LARGE


# -- the chains of one ServicePort


def own(port: ServicePort, settings: Settings) -> Iterator[IptablesChain]:
    """The chains that no other ServicePort has a part in, all in the table nat; none without endpoints."""
    if not port.anywhere:
        return
    view = _View(port, settings)
    cluster, local = view.cluster, view.local
    if view.accessible:
        yield view.chain("EXT", view.external())
    if view.guarded:
        yield view.chain("FW", view.firewall())
    if cluster:
        yield view.chain("SVC", (*view.masquerade("SVC"), *view.balance(cluster)))
    if local:
        yield view.chain("SVL", (*view.masquerade("SVL"), *view.balance(local)))
    for endpoint in sorted({*cluster, *local}, key=order):
        yield IptablesChain(settings.family, "nat", view.endpoint(endpoint), tuple(view.translate(endpoint)))


class _View:
    """One ServicePort with its chains' names, and what follows from its policies."""

    def __init__(self, port: ServicePort, settings: Settings) -> None:
        self.port = port
        self.settings = settings
        self.label = port.label
        self.protocol = f"-m {port.protocol} -p {port.protocol}"
        self._hash = code(port)

    @property
    def accessible(self) -> bool:
        """Whether it is met from outside at all."""
        return bool(self.port.node_port or self.port.external_ips or self.port.balancer_ips)

    @property
    def guarded(self) -> bool:
        """Whether source ranges apply."""
        met = self.accessible if self.settings.ranges_for_all else self.port.balancer_ips
        return bool(met) and self.port.source_ranges is not None

    @property
    def cluster(self) -> tuple[Endpoint, ...]:
        """What KUBE-SVC- leads to; inside a cluster an external address leads there too, whatever the policy."""
        return self.port.cluster if not self.port.internal_local or self.accessible else ()

    @property
    def local(self) -> tuple[Endpoint, ...]:
        """What KUBE-SVL- leads to."""
        if self.port.internal_local:
            return self.port.internal
        return self.port.external if self.port.external_local and self.accessible else ()

    def name(self, kind: str) -> str:
        return f"KUBE-{kind}-{self._hash}"

    def endpoint(self, endpoint: Endpoint) -> str:
        return f"KUBE-SEP-{code(self.port, _target(endpoint))}"

    def chain(self, kind: str, rules: Iterable[str]) -> IptablesChain:
        return IptablesChain(self.settings.family, "nat", self.name(kind), tuple(rules))

    def at(self, address: str, number: int) -> str:
        return f"{self.protocol} -d {address} --dport {number}"

    def comment(self, text: str) -> str:
        """Of the many rules, which do without in a large cluster."""
        return "" if self.settings.large else f"-m comment --comment {text} "

    def masquerade(self, kind: str) -> Iterator[str]:
        """The cluster address may be routed to any node from outside, and the way may lead on to another node."""
        port, settings = self.port, self.settings
        if kind != ("SVL" if port.internal_local else "SVC") or not (settings.masquerade_all or settings.cluster_cidr):
            return
        outside = "" if settings.masquerade_all else f" ! -s {settings.cluster_cidr}"
        comment = f'-m comment --comment "{self.label} cluster IP"'
        yield f"{comment} {self.at(port.cluster_ip, port.port)}{outside} -j KUBE-MARK-MASQ"

    def balance(self, endpoints: tuple[Endpoint, ...]) -> Iterator[str]:
        """First those who have been here, then by chance: 1/n, 1/(n-1), ... and the last takes the rest."""
        targets = [
            (self.comment(f'"{self.label} -> {_target(endpoint)}"'), self.endpoint(endpoint)) for endpoint in endpoints
        ]
        for comment, name in targets if self.port.affinity else ():
            seen = f"-m recent --name {name} --rcheck --seconds {self.port.affinity} --reap"
            yield f"{comment}{seen} -j {name}"
        for left, (comment, name) in zip(range(len(targets), 0, -1), targets, strict=True):
            chance = f"-m statistic --mode random --probability {1 / left:0.10f} " if left > 1 else ""
            yield f"{comment}{chance}-j {name}"

    def translate(self, endpoint: Endpoint) -> Iterator[str]:
        """An endpoint that meets itself needs another source address, or its answer would not come back this way."""
        comment = self.comment(self.label)
        yield f"{comment}-s {endpoint.address} -j KUBE-MARK-MASQ"
        affinity = f"-m recent --name {self.endpoint(endpoint)} --set " if self.port.affinity else ""
        yield f"{comment}{affinity}{self.protocol} -j DNAT --to-destination {_target(endpoint)}"

    def external(self) -> Iterator[str]:
        """Policy Cluster: as the node. Local: pods and the node itself as if from inside, all others as they are."""
        purpose = f'{self.label} external destinations"'
        if not self.port.external_local:
            yield f'-m comment --comment "masquerade traffic for {purpose} -j KUBE-MARK-MASQ'
            yield f"-j {self.name('SVC')}"
            return
        here = "-m addrtype --src-type LOCAL"
        if self.settings.cluster_cidr:
            pods = f"-s {self.settings.cluster_cidr}"
            yield f'-m comment --comment "pod traffic for {purpose} {pods} -j {self.name("SVC")}'
        yield f'-m comment --comment "masquerade LOCAL traffic for {purpose} {here} -j KUBE-MARK-MASQ'
        yield f'-m comment --comment "route LOCAL traffic for {purpose} {here} -j {self.name("SVC")}'
        if self.port.external:
            yield f"-j {self.name('SVL')}"

    def firewall(self) -> Iterator[str]:
        """A node that may come, comes from the balancer's address when that is its own as well."""
        ranges = self.port.source_ranges or ()
        sources = list(ranges)
        if any(_within(address, ranges) for address in self.settings.node_addresses):
            sources += self.port.balancer_ips
        for source in sources:
            yield f'-m comment --comment "{self.label} loadbalancer IP" -s {source} -j {self.name("EXT")}'
        yield f'-m comment --comment "other traffic to {self.label} will be dropped by KUBE-PROXY-FIREWALL"'


# -- what a ServicePort says in chains that all share


def shared(port: ServicePort, settings: Settings) -> Iterator[Line]:
    """The lines of one ServicePort."""
    view = _View(port, settings)
    yield from _cluster_address(view)
    for address in port.external_ips:
        guarded = view.guarded and settings.ranges_for_all
        yield from _outside(view, view.at(address, port.port), f'"{view.label} external IP"', guarded)
    for address in port.balancer_ips:
        yield from _outside(view, view.at(address, port.port), f'"{view.label} loadbalancer IP"', view.guarded)
    if port.node_port:
        yield from _node_port(view)
    if port.health_check_node_port:
        comment = f'-m comment --comment "{view.label} health check node port"'
        yield "filter", "KUBE-NODEPORTS", f"{comment} -m tcp -p tcp --dport {port.health_check_node_port} -j ACCEPT"


def _cluster_address(view: _View) -> Iterator[Line]:
    port = view.port
    to = view.at(port.cluster_ip, port.port)
    if port.internal:
        chain = view.name("SVL" if port.internal_local else "SVC")
        yield "nat", "KUBE-SERVICES", f'-m comment --comment "{view.label} cluster IP" {to} -j {chain}'
    else:
        yield "filter", "KUBE-SERVICES", _refusal(view, to)


def _outside(view: _View, to: str, comment: str, guarded: bool) -> Iterator[Line]:
    if view.port.anywhere:
        chain = view.name("FW" if guarded else "EXT")
        yield "nat", "KUBE-SERVICES", f"-m comment --comment {comment} {to} -j {chain}"
        if guarded:
            yield _drop(view, to)
    if not view.port.external:
        yield "filter", "KUBE-EXTERNAL-SERVICES", _refusal(view, to)


def _node_port(view: _View) -> Iterator[Line]:
    here, to = "-m addrtype --dst-type LOCAL", f"{view.protocol} --dport {view.port.node_port}"
    guarded = view.guarded and view.settings.ranges_for_all
    if view.port.anywhere:
        yield (
            "nat",
            "KUBE-NODEPORTS",
            f"-m comment --comment {view.label} {to} -j {view.name('FW' if guarded else 'EXT')}",
        )
        if guarded:  # one that was let through may have been led to the same number on this node
            yield _drop(view, f"{here} -m conntrack ! --ctstate DNAT {to}")
    if not view.port.external:
        yield "filter", "KUBE-EXTERNAL-SERVICES", _refusal(view, f"{here} {to}")


def _drop(view: _View, to: str) -> Line:
    comment = f'"{view.label} traffic not accepted by {view.name("FW")}"'
    return "filter", "KUBE-PROXY-FIREWALL", f"-m comment --comment {comment} {to} -j DROP"


def _refusal(view: _View, to: str) -> str:
    why, verdict = ("has no local endpoints", "DROP") if view.port.anywhere else ("has no endpoints", "REJECT")
    return f'-m comment --comment "{view.label} {why}" {to} -j {verdict}'


# -- what is there without any Service


def frame(lines: Iterable[Line], settings: Settings) -> Iterator[Resource]:
    """The chains that all share, and how packets come into them."""
    rules: dict[tuple[str, str], list[str]] = {}
    for table, chain, rule in (*_standing(settings), *lines, *_node_ports(settings)):
        rules.setdefault((table, chain), []).append(rule)
    for table, names in TABLES.items():
        for name in sorted(names):
            unmanaged = name == FIREWALL and not settings.localhost
            found = None if unmanaged else tuple(rules.get((table, name), ()))
            yield IptablesChain(settings.family, table, name, found)
    yield from jumps(settings.family)
    if settings.localhost:
        yield localhost.ALLOWED


def _standing(settings: Settings) -> Iterator[Line]:
    """The rules that never change."""
    marked = f"--mark {MARK}/{MARK}"
    yield "nat", "KUBE-MARK-MASQ", f"-j MARK --or-mark {MARK}"
    yield "nat", "KUBE-POSTROUTING", f"-m mark ! {marked} -j RETURN"
    yield "nat", "KUBE-POSTROUTING", f"-j MARK --xor-mark {MARK}"
    snat = '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully'
    yield "nat", "KUBE-POSTROUTING", snat
    if settings.localhost:
        strangers = f"-d {_LOCALNET} ! -s {_LOCALNET} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
        yield "filter", FIREWALL, f'-m comment --comment "block incoming localnet connections" {strangers}'
    if not settings.liberal:
        yield "filter", "KUBE-FORWARD", "-m conntrack --ctstate INVALID -j DROP"
    yield ("filter", "KUBE-FORWARD", f'-m comment --comment "kubernetes forwarding rules" -m mark {marked} -j ACCEPT')
    follow = '-m comment --comment "kubernetes forwarding conntrack rule"'
    yield "filter", "KUBE-FORWARD", f"{follow} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def _node_ports(settings: Settings) -> Iterator[Line]:
    """The end of KUBE-SERVICES."""
    note = '"kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    if settings.node_port_addresses and not any(cidr.endswith("/0") for cidr in settings.node_port_addresses):
        every = (*settings.node_addresses, *settings.other_addresses)
        addresses = [address for address in every if not ip_address(address).is_loopback]
        addresses += [LOOPBACK] if settings.localhost else []
        places = [f"-d {address}" for address in addresses if settings.serves(address)]
    else:
        nowhere = "" if settings.localhost else " ! -d ::1/128" if settings.v6 else f" ! -d {_LOCALNET}"
        places = [f"-m addrtype --dst-type LOCAL{nowhere}"]
    for place in places:
        yield "nat", "KUBE-SERVICES", f"-m comment --comment {note} {place} -j KUBE-NODEPORTS"


# -- names


def code(port: ServicePort, endpoint: str = "") -> str:
    """What the names of its chains end in; with an endpoint, of that endpoint's."""
    text = f"{port.label}{port.protocol}{endpoint}"
    return b32encode(sha256(text.encode()).digest()).decode()[:16]


def _target(endpoint: Endpoint) -> str:
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{address}:{endpoint.port}"


def _within(address: str, cidrs: Iterable[str]) -> bool:
    return any(ip_address(address) in ip_network(cidr, strict=False) for cidr in cidrs)
