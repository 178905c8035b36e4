"""The names that a Service, a pod or an address has, by the Kubernetes DNS specification 1.1.0.

Each is a function of one object and what belongs to it, and gives for every name a `Node`: by type, the records as they
will be sent (wire/dns.py). A name without records of its own that only has others below it is a Node as well, an empty
one, since it exists: its answer is "no such data", not "no such name".

Source: github.com/kubernetes/dns docs/specification.md. Where it leaves a choice: an endpoint without a hostname is
called as its address with dashes, priority is 0 and weight 100 (as CoreDNS has them), time to live is kube-dns' 30 s,
and CoreDNS's 5 s for what changes with every pod: a cache in front is told which of the other answers became wrong
(`outdated`), and of these only that there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address

from podnet.network.value import Value
from podnet.objects.core import Pod
from podnet.objects.services import EndpointSlice, Service
from podnet.wire import dns

Node = tuple[tuple[int, bytes], ...]
"""What stands at a name: its pieces by type."""

EMPTY: Node = ()
Expected = tuple[str, ...] | None
"""What an answer has to be: just these records, as dns.shown says them; (): none; None: any."""

Nodes = Mapping[bytes, Node]

TTL, POD_TTL = 30, 5
"""Seconds; the second of a headless Service's answers."""

PRIORITY, WEIGHT = 0, 100
VERSION = "1.1.0"
FAMILIES = {"IPv4", "IPv6"}
HELPFUL = 400
"""Bytes of an SRV answer up to which the targets' addresses come along: it always fits then."""


class Names(Value, frozen=True):
    """What one Service adds: nodes by name in lower case, and the pairs (address, name) for the way back."""

    nodes: dict[bytes, Node]
    pointers: tuple[tuple[str, bytes], ...] = ()


class Place(Value, frozen=True):
    """An endpoint of a headless Service: its own name, and its addresses."""

    name: bytes
    address: str
    named: bool


def service_names(domain: str, service: Service, slices: Iterable[EndpointSlice]) -> Names:
    """All names of a Service. One that can't be a name (of over 255 bytes) has none."""
    meta, spec = service.metadata, service.spec
    text = f"{meta.name}.{meta.namespace}.svc.{domain}"
    try:
        if spec.type == "ExternalName":
            return Names({_key(text): ((dns.CNAME, _piece(dns.CNAME, [dns.name(spec.external_name)])),)})
        if spec.cluster_ip == "None":
            return _headless(text, service, slices)
        return _balanced(text, service)
    except ValueError:
        return Names({})


def own_node(service: Service) -> Node:
    """What stands at the name of a Service with addresses of its own; it is asked for more than all others."""
    spec = service.spec
    return EMPTY if spec.type == "ExternalName" or spec.cluster_ip == "None" else addresses(_own(service))


def pod_node(address: str) -> Node:
    """What stands at a pod's own name."""
    return addresses([address])


def pod_name(domain: str, namespace: str, address: str) -> bytes:
    """A pod's own name (a-b-c-d.namespace.pod.domain)."""
    return _key(f"{dashed(address)}.{namespace}.pod.{domain}")


def pod_addresses(pod: Pod) -> tuple[str, ...]:
    """Those by which a pod has names: as long as it lives, and only of its own."""
    status = pod.status
    if pod.spec.host_network or status.phase in ("Succeeded", "Failed"):
        return ()
    return tuple(each.ip for each in status.pod_ips) or ((status.pod_ip,) if status.pod_ip else ())


def outdated(before: Node, now: Node) -> Iterator[tuple[int, Expected]]:
    """The types of which a cache may hold what is no longer true at a name, and what it has to say now. What is new,
    since it may hold that there is nothing; what changed or vanished, if it had leave to keep that for long. What is
    kept for POD_TTL only changes often: when such an answer is new, any will do. That an address lost its names is
    left out, since others are asked for it then, and may have names for it."""
    was, has = dict(before), dict(now)
    for type_, made in now:
        if type_ not in was:
            yield type_, _shown(made) if _lasts(made) else None
        elif made != was[type_] and _lasts(was[type_]):
            said = _shown(made)
            if {*said} != {*_shown(was[type_])}:
                yield type_, said
    for type_, made in before:
        if type_ not in has and type_ != dns.PTR and _lasts(made):
            yield type_, ()


def as_expected(said: dns.Message, expected: Expected) -> bool | None:
    """Whether an answer is what it has to be; None when it does not say. One that is too long for a datagram was not
    remembered from before: what lasts is short. Of an address' names one is enough: dnsmasq remembers no more."""
    asked = said.question
    if asked is None or said.rcode not in (dns.NOERROR, dns.NXDOMAIN):
        return None
    if said.flags & dns.TC:
        return True
    own = [each for each in said.answers if each.type == asked.type and dns.lower(each.name) == asked.name]
    texts = {dns.shown(each).lower() for each in own}
    if expected is None:
        return bool(texts)
    wanted = {each.lower() for each in expected}
    return texts == wanted or (asked.type == dns.PTR and bool(texts) and texts < wanted)


def _lasts(made: bytes) -> bool:
    return dns.records_of(made)[0].ttl > POD_TTL


def _shown(made: bytes) -> tuple[str, ...]:
    return tuple(map(dns.shown, dns.records_of(made)))


def pointer_node(names: Iterable[bytes]) -> Node:
    """What stands at an address of the reverse zones."""
    return ((dns.PTR, _piece(dns.PTR, sorted(set(names)))),)


def dashed(address: str) -> str:
    """An address as one label."""
    return address.replace(".", "-").replace(":", "-")


def _balanced(text: str, service: Service) -> Names:
    """A Service with addresses of its own."""
    ips = _own(service)
    if not ips:
        return Names({})
    name = dns.name(text)
    nodes = {dns.lower(name): addresses(ips)}
    for port in service.spec.ports:
        if port.name:
            _serve(nodes, text, port.name, port.protocol, [(port.port, name, ips)])
    return Names(nodes, tuple((ip, name) for ip in ips))


def _own(service: Service) -> list[str]:
    return [ip for ip in service.spec.cluster_ips or (service.spec.cluster_ip,) if ip]


def _headless(text: str, service: Service, slices: Iterable[EndpointSlice]) -> Names:
    """A Service whose names are its ready endpoints'; without one, there is no such name."""
    hosts: dict[str, Place] = {}
    ports: dict[tuple[str, str], set[tuple[int, bytes]]] = {}
    for each in sorted(slices, key=lambda each: each.key):
        places = [*_places(text, each, service.spec.publish_not_ready_addresses)]
        hosts |= {place.address: place for place in places}
        for port in each.ports:
            if port.name and port.port is not None and places:
                found = ports.setdefault((port.name, port.protocol), set())
                found.update((port.port, place.name) for place in places)
    if not hosts:
        return Names({})
    by_name: dict[bytes, list[str]] = {}
    for place in hosts.values():
        by_name.setdefault(place.name, []).append(place.address)
    nodes = {_key(text): addresses(sorted(hosts), POD_TTL)}
    nodes |= {dns.lower(name): addresses(sorted(ips), POD_TTL) for name, ips in by_name.items()}
    for (port_name, protocol), targets in ports.items():
        serving = [(port, name, by_name[name]) for port, name in sorted(targets)]
        _serve(nodes, text, port_name, protocol, serving, POD_TTL)
    return Names(nodes, tuple((place.address, place.name) for place in hosts.values() if place.named))


def _places(text: str, each: EndpointSlice, all_ready: bool) -> Iterator[Place]:
    if each.address_type not in FAMILIES:
        return
    for endpoint in each.endpoints:
        if endpoint.addresses and (all_ready or endpoint.conditions.ready is not False):
            with suppress(ValueError):  # made by hand, for what is no address or no name
                address = str(ip_address(endpoint.addresses[0]))
                name = dns.name(f"{endpoint.hostname or dashed(address)}.{text}")
                yield Place(name, address, named=bool(endpoint.hostname))


def _serve(
    nodes: dict[bytes, Node],
    text: str,
    port: str,
    protocol: str,
    targets: list[tuple[int, bytes, list[str]]],
    ttl: int = TTL,
) -> None:
    """The SRV records of a named port: each target's port, name and addresses."""
    under = f"_{protocol.lower()}.{text}"
    nodes[_key(under)] = EMPTY
    records = [dns.record(dns.SRV, ttl, dns.srv(PRIORITY, WEIGHT, number, name)) for number, name, _ in targets]
    pairs = {(name, ip): None for _, name, ips in targets for ip in ips}
    more = [dns.record(*_typed(ip, ttl), name) for name, ip in pairs]
    helpful = sum(map(len, (*records, *more))) <= HELPFUL
    nodes[_key(f"_{port}.{under}")] = ((dns.SRV, dns.piece(records, (), more if helpful else ())),)


def addresses(ips: Iterable[str], ttl: int = TTL) -> Node:
    """A and AAAA."""
    by_type: dict[int, list[bytes]] = {}
    for ip in ips:
        type_, data = dns.address(ip)
        by_type.setdefault(type_, []).append(data)
    return tuple((type_, _piece(type_, by_type[type_], ttl)) for type_ in sorted(by_type))


def _typed(ip: str, ttl: int) -> tuple[int, int, bytes]:
    type_, data = dns.address(ip)
    return type_, ttl, data


def _piece(type_: int, data: Iterable[bytes], ttl: int = TTL) -> bytes:
    return dns.piece([dns.record(type_, ttl, each) for each in data])


def _key(text: str) -> bytes:
    return dns.lower(dns.name(text))
