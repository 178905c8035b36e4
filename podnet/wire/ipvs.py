"""IPVS in generic netlink (linux/genetlink.h, linux/ip_vs.h): virtual servers, real servers, and the family's number.

Generic netlink families have numbers that differ from boot to boot, so the controller is asked for that of "IPVS"
first; it is the type of every message then. A message begins with a command, and attributes hold a service (a virtual
server) and a destination (a real server). Addresses are 16 bytes in both families, ports in network byte order.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from struct import Struct
from typing import NamedTuple

from podnet.wire.netlink import BE16, DUMP, Request, attribute, attributes, nest, number, string, text, u32
from podnet.wire.spelling import IPV4, IPV6, ip_text, pack_ip

PERSISTENT, HASHED, MARK = 0x1, 0x2, 0x20
"""Flags of a service (IP_VS_SVC_F_*): it has a timeout; the kernel holds it; SCHED3, which marks those of podnet."""

NEW_SERVICE, SET_SERVICE, DELETE_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_SERVER, SET_SERVER, DELETE_SERVER, GET_SERVER = 5, 6, 7, 8
"""Commands (IPVS_CMD_*)."""

_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_HEADER = Struct("=BBH")  # struct genlmsghdr
_VERSION = 1
_SERVICE, _SERVER = 1, 2
_AF, _PROTOCOL, _ADDRESS, _PORT, _SCHEDULER, _FLAGS, _TIMEOUT, _NETMASK = 1, 2, 3, 4, 6, 7, 8, 9
_TO, _TO_PORT, _METHOD, _WEIGHT, _UPPER, _LOWER, _ACTIVE, _INACTIVE = 1, 2, 3, 4, 5, 6, 7, 8
_TRANSLATE = 0  # IP_VS_CONN_F_MASQ
_PAIR, _ALL = Struct("=II"), 0xFFFFFFFF
_NUMBER16 = Struct("=H")


class ServiceMessage(NamedTuple):
    """A virtual server: protocol by number, `timeout` in seconds when it is persistent."""

    protocol: int
    address: str
    port: int
    scheduler: str = ""
    flags: int = 0
    timeout: int = 0


class ServerMessage(NamedTuple):
    """A real server, with its connections: `active` ones are established, the others begin or end."""

    address: str
    port: int
    weight: int = 0
    active: int = 0
    inactive: int = 0


def get_family(name: str = "IPVS") -> Request:
    """Ask for a family's number."""
    return Request(_CONTROLLER, 0, _HEADER.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, name))


def decode_family(body: bytes) -> int:
    """The number of the family asked for."""
    return number(attributes(body, 4)[_FAMILY_ID])


def put_service(family: int, service: ServiceMessage, present: bool = False) -> Request:
    """Make a virtual server, or change one that is `present`."""
    mask = u32(_NETMASK, 128) if ":" in service.address else attribute(_NETMASK, b"\xff" * 4)  # one client each
    whole = (
        text(_SCHEDULER, service.scheduler),
        attribute(_FLAGS, _PAIR.pack(service.flags, _ALL)),
        u32(_TIMEOUT, service.timeout),
        mask,
    )
    return _request(family, SET_SERVICE if present else NEW_SERVICE, 0, _service(service, *whole))


def delete_service(family: int, service: ServiceMessage) -> Request:
    """Remove a virtual server and all behind it."""
    return _request(family, DELETE_SERVICE, 0, _service(service))


def dump_services(family: int) -> Request:
    """Ask for all virtual servers."""
    return _request(family, GET_SERVICE, DUMP)


def put_server(family: int, service: ServiceMessage, server: ServerMessage, present: bool = False) -> Request:
    """Make a real server, or change the weight of one that is `present`."""
    whole = (u32(_METHOD, _TRANSLATE), u32(_WEIGHT, server.weight), u32(_UPPER, 0), u32(_LOWER, 0))
    command = SET_SERVER if present else NEW_SERVER
    return _request(family, command, 0, _service(service), _server(server, *whole))


def delete_server(family: int, service: ServiceMessage, server: ServerMessage) -> Request:
    """Remove a real server."""
    return _request(family, DELETE_SERVER, 0, _service(service), _server(server))


def dump_servers(family: int, service: ServiceMessage) -> Request:
    """Ask for all real servers behind a virtual server."""
    return _request(family, GET_SERVER, DUMP, _service(service))


def decode_service(body: bytes) -> ServiceMessage | None:
    """A virtual server; None for one that goes by a firewall mark instead of an address."""
    found = attributes(attributes(body, 4).get(_SERVICE, b""))
    if _ADDRESS not in found or _PORT not in found:
        return None
    return ServiceMessage(
        number(found[_PROTOCOL]),
        _ip(found[_ADDRESS], number(found[_AF])),
        BE16.unpack(found[_PORT])[0],
        string(found.get(_SCHEDULER)),
        _PAIR.unpack(found[_FLAGS])[0] if _FLAGS in found else 0,
        number(found.get(_TIMEOUT)),
    )


def decode_server(body: bytes, v6: bool) -> ServerMessage:
    """A real server; `v6`: of the family of its virtual server."""
    found = attributes(attributes(body, 4)[_SERVER])
    address = _ip(found[_TO], IPV6 if v6 else IPV4)
    port = BE16.unpack(found[_TO_PORT])[0]
    return ServerMessage(address, port, *(number(found.get(each)) for each in (_WEIGHT, _ACTIVE, _INACTIVE)))


def kept(text: str) -> Iterator[tuple[str, str, str, int, str]]:
    """(protocol, client, address, port, real server) of the clients that stay with one, from /proc/net/ip_vs_conn:
    those are its templates, connections from port 0."""
    for line in text.splitlines()[1:]:
        protocol, client, from_port, address, port, server, *_ = line.split()
        if from_port == "0000":
            yield protocol.lower(), _spelt(client), _spelt(address), int(port, 16), _spelt(server)


def _spelt(text: str) -> str:
    """Hexadecimal digits of IPv4, or IPv6 at full length."""
    return str(ip_address(text if ":" in text else int(text, 16)))


def _request(family: int, command: int, flags: int, *parts: bytes) -> Request:
    return Request(family, flags, _HEADER.pack(command, _VERSION, 0) + b"".join(parts))


def _service(service: ServiceMessage, *more: bytes) -> bytes:
    """Which one, and then what it is to be."""
    af = IPV6 if ":" in service.address else IPV4
    return nest(
        _SERVICE,
        attribute(_AF, _NUMBER16.pack(af)),
        attribute(_PROTOCOL, _NUMBER16.pack(service.protocol)),
        attribute(_ADDRESS, pack_ip(service.address).ljust(16, b"\0")),
        attribute(_PORT, BE16.pack(service.port)),
        *more,
    )


def _server(server: ServerMessage, *more: bytes) -> bytes:
    address = attribute(_TO, pack_ip(server.address).ljust(16, b"\0"))
    return nest(_SERVER, address, attribute(_TO_PORT, BE16.pack(server.port)), *more)


def _ip(data: bytes, af: int) -> str:
    return ip_text(data[:16] if af == IPV6 else data[:4])
