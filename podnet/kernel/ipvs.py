"""Virtual and real servers of one namespace, through generic netlink.

A real server that is to go while TCP connections lead to it only loses its weight: it gets no new ones, and goes when
the last has ended. Until then neither it, nor its virtual server, nor the address of that are reported when nobody
wants them, so that each later reading tries again by itself. UDP has no end to wait for, so such a real server goes at
once, and the kernel leads its clients elsewhere with their next packet. (kube-proxy: graceful_termination.go.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, compress, islice, repeat
from typing import TypeGuard

from podnet.kernel.netlink import GENERIC, Netlink, NetlinkError
from podnet.kernel.netns import inside
from podnet.kernel.outcome import Tally
from podnet.state.ipvs import HASHED, LINK, Balanced, RealServer, Stay, VirtualServer
from podnet.state.links import Link
from podnet.state.plan import Step
from podnet.state.resource import Key, NodeState, Resource
from podnet.state.routes import Address
from podnet.wire import ipvs
from podnet.wire.ipvs import MARK, PERSISTENT, ServerMessage, ServiceMessage
from podnet.wire.netlink import Failure, Request

KINDS = frozenset({"VirtualServer", "RealServer"})
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_TCP = PROTOCOLS["tcp"]
_GONE = frozenset({errno.ESRCH, errno.ENOENT})
_PROBE = "/proc/thread-self/net/ip_vs"
_CONNECTIONS = "/proc/thread-self/net/ip_vs_conn"

Found = dict[ServiceMessage, list[ServerMessage]]


class Ipvs:
    """IPVS of the namespace at `netns` ("": the thread's own)."""

    def __init__(self, netns: str, patient: bool = True) -> None:
        """`patient`: whether connections are waited for; if not, all is as if there were none."""
        self._netns = netns
        self._patient = patient
        self._family = 0

    def read(self, kinds: frozenset[str], desired: NodeState) -> Iterator[Resource]:
        """What is ours or wanted, but for what only waits for its last connection. Raises OSError."""
        found = self._found(lambda each: bool(each.flags & MARK) or _virtual(each).key in desired)
        for service, servers in found.items():
            virtual = _virtual(service)
            wanted = virtual.key in desired
            reported = [each for each in servers if _real(service, each).key in desired or not _waits(service, each)]
            if "VirtualServer" in kinds and (wanted or len(reported) == len(servers)):
                yield virtual
            if "RealServer" in kinds:
                yield from (_real(service, each) for each in reported)

    def lingering(self, among: Callable[[str], bool]) -> frozenset[str]:
        """Of these addresses those at which virtual servers of ours have connections. Raises OSError."""
        found = self._found(lambda service: bool(service.flags & MARK) and among(service.address))
        return frozenset(
            service.address for service, servers in found.items() if any(_busy(service, each) for each in servers)
        )

    def balanced(self) -> Balanced:
        """What those of ours do. Raises OSError."""
        counts: dict[tuple[str, str, int, str], tuple[int, int]] = {}
        tables: dict[tuple[str, str, int], tuple[str, ...]] = {}
        for service, servers in self._found(lambda each: bool(each.flags & MARK)).items():
            if service.scheduler == "sh":
                slots = chain.from_iterable(repeat(each.address, max(each.weight, 1)) for each in servers)
                tables[_NAMES[service.protocol], service.address, service.port] = tuple(islice(slots, HASHED))
            for each in servers:
                place = (_NAMES[service.protocol], service.address, service.port, each.address)
                active, others = counts.get(place, (0, 0))
                counts[place] = (active + each.active, others + each.inactive)
        return Balanced(counts, tuple(self._stays()) if counts else (), tables)

    def _stays(self) -> Iterator[Stay]:
        with inside(self._netns), open(_CONNECTIONS, encoding="ascii") as file:
            for words in ipvs.kept(file.read()):
                yield Stay(*words)

    def apply(self, steps: Iterable[Step], tally: Tally) -> None:
        """Carry out steps, in order."""
        steps = list(steps)
        made = [step for step in steps if step.verb != "delete"]
        gone = [step for step in steps if step.verb == "delete"]
        for part, carry_out in ((made, self._make), (gone, self._remove)):
            try:
                refused = carry_out(part) if part else {}
            except OSError as error:
                refused = dict.fromkeys(range(len(part)), Failure(error.errno or errno.EIO, str(error)))
            for place, step in enumerate(part):
                if place in refused:
                    tally.fail(step, refused[place])
                else:
                    tally.succeed(step)

    def _make(self, steps: list[Step]) -> dict[int, Failure]:
        """What was refused, by position; what exists already is made so."""
        with self._open() as netlink:
            family = self._number(netlink)
            refused = netlink.write([_put(family, step.resource, step.verb == "change") for step in steps])
            again = [place for place, why in refused.items() if why.errno == errno.EEXIST]
            still = netlink.write([_put(family, steps[place].resource, True) for place in again]) if again else {}
        kept = {place: why for place, why in refused.items() if why.errno != errno.EEXIST}
        return kept | {again[number]: why for number, why in still.items()}

    def _remove(self, steps: list[Step]) -> dict[int, Failure]:
        """What was refused, by position; what is not there is gone."""
        known: dict[ServiceMessage, list[ServerMessage]] = {}
        asked: list[tuple[int, Request]] = []
        with self._open() as netlink:
            family = self._number(netlink)
            for place, step in enumerate(steps):
                service = _identity(step.resource)
                if service not in known:
                    known[service] = self._servers(netlink, family, service)
                request = _end(family, service, known[service], step.resource)
                asked += [(place, request)] if request else []
            refused = netlink.write([request for _, request in asked]) if asked else {}
        return {asked[number][0]: why for number, why in refused.items() if why.errno not in _GONE}

    def _found(self, meant: Callable[[ServiceMessage], bool]) -> Found:
        """Those that are meant. Whoever has not loaded the module is not made to."""
        if not self._family and not os.path.exists(_PROBE):
            return {}
        with self._open() as netlink:
            family = self._number(netlink)
            services = [ipvs.decode_service(body) for body in netlink.dump(ipvs.dump_services(family))]
            return {
                service: self._servers(netlink, family, service)
                for service in services
                if service is not None and service.protocol in _NAMES and meant(service)
            }

    def _servers(self, netlink: Netlink, family: int, service: ServiceMessage) -> list[ServerMessage]:
        """What is behind a virtual server; nothing when there is none."""
        bodies = netlink.dump(ipvs.dump_servers(family, service))
        found = [ipvs.decode_server(body, ":" in service.address) for body in bodies]
        return found if self._patient else [each._replace(active=0, inactive=0) for each in found]

    def _open(self) -> Netlink:
        return Netlink(GENERIC, self._netns)

    def _number(self, netlink: Netlink) -> int:
        if not self._family:
            try:
                self._family = ipvs.decode_family(netlink.get(ipvs.get_family()))
            except NetlinkError as error:
                raise OSError(error.errno, "this kernel has no ip_vs") from error
        return self._family


def _virtual(service: ServiceMessage) -> VirtualServer:
    affinity = service.timeout if service.flags & PERSISTENT else 0
    protocol = _NAMES[service.protocol]
    return VirtualServer(protocol, service.address, service.port, service.scheduler, affinity)


def _real(service: ServiceMessage, server: ServerMessage) -> RealServer:
    protocol = _NAMES[service.protocol]
    return RealServer(protocol, service.address, service.port, server.address, server.port, server.weight)


def _identity(resource: Resource) -> ServiceMessage:
    """Which virtual server something is, or is behind."""
    assert isinstance(resource, VirtualServer | RealServer)
    return ServiceMessage(PROTOCOLS[resource.protocol], resource.address, resource.port)


def _busy(service: ServiceMessage, server: ServerMessage) -> bool:
    """Whether connections lead to a real server that are worth waiting for."""
    return service.protocol == _TCP and bool(server.active or server.inactive)


def _waits(service: ServiceMessage, server: ServerMessage) -> bool:
    """Whether a real server is only waiting for its last connection."""
    return server.weight == 0 and _busy(service, server)


def _put(family: int, resource: Resource, present: bool) -> Request:
    service = _identity(resource)
    if isinstance(resource, RealServer):
        server = ServerMessage(resource.to, resource.to_port, resource.weight)
        return ipvs.put_server(family, service, server, present)
    assert isinstance(resource, VirtualServer)
    flags = MARK | (PERSISTENT if resource.affinity else 0)
    whole = service._replace(scheduler=resource.scheduler, flags=flags, timeout=resource.affinity)
    return ipvs.put_service(family, whole, present)


def _end(family: int, service: ServiceMessage, servers: list[ServerMessage], resource: Resource) -> Request | None:
    """How something ends; None when it has, or has to wait for connections and only that."""
    if isinstance(resource, VirtualServer):
        waits = any(_busy(service, each) for each in servers)
        return None if waits else ipvs.delete_service(family, service)
    assert isinstance(resource, RealServer)
    server = next((each for each in servers if (each.address, each.port) == (resource.to, resource.to_port)), None)
    if server is None:
        return None
    if _busy(service, server):
        return ipvs.put_server(family, service, server._replace(weight=0), present=True)
    return ipvs.delete_server(family, service, server)


def split(steps: Iterable[Step]) -> tuple[list[Step], list[Step]]:
    """What is done before addresses come and go, and then the virtual servers that go after theirs."""
    own = [step for step in steps if step.resource.kind in KINDS]
    late = [step.verb == "delete" and step.resource.kind == "VirtualServer" for step in own]
    return [s for s, is_late in zip(own, late, strict=True) if not is_late], [*compress(own, late)]


def unkept(found: dict[Key, Resource], desired: NodeState, edge: Ipvs) -> dict[Key, Resource]:
    """What was read, without what nobody wants and only waits for connections to end. Raises OSError."""
    hidden = {each.key for each in _kept([each for key, each in found.items() if key not in desired], edge)}
    return {key: each for key, each in found.items() if key not in hidden} if hidden else found


def without_kept(steps: list[Step], edge: Ipvs, tally: Tally) -> list[Step]:
    """The steps that can be done now; what has to wait for connections is as good as gone. Raises OSError."""
    kept = _kept([step.resource for step in steps if step.verb == "delete"], edge)
    waiting = [step for step in steps if step.verb == "delete" and step.resource in kept] if kept else []
    for step in waiting:
        tally.succeed(step)
    return [step for step in steps if step not in waiting] if waiting else steps


def _kept(resources: list[Resource], edge: Ipvs) -> list[Resource]:
    """Those of the Services' addresses, and their link, that have to stay for connections that there are."""
    addresses = {each.address.partition("/")[0]: each for each in resources if _is_service_address(each)}
    link = [each for each in resources if isinstance(each, Link) and each.name == LINK]
    if not (addresses or link):
        return []
    busy = edge.lingering(lambda address: bool(link) or address in addresses)
    return [*(addresses[address] for address in busy if address in addresses), *(link if busy else [])]


def _is_service_address(resource: Resource) -> TypeGuard[Address]:
    return isinstance(resource, Address) and resource.dev == LINK
