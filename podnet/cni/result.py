"""What a successful ADD answers, in the form of each version, and whether a later prevResult still tells the same.

The result is read off the resources that were applied: the same values that went into the kernel, so it can't promise
anything else. Interfaces are listed as the reference bridge plugin does: bridge, node's end, container's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from podnet.network.view import Attachment, base_address, is_v6
from podnet.state.links import Bridge, PodLink, Veth
from podnet.state.resource import Resource
from podnet.state.routes import Address, Route

SCOPE_LINK = 253

Words = tuple[Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]+\Z", max_length=255)], ...]


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """Base of what a result lists; fields at their default are left out."""


class Interface(Entry, frozen=True, rename="camel", omit_defaults=True):
    """A link; `sandbox` is the namespace of a container's one. mtu, socketPath and pciID came with 1.1.0."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = msgspec.field(default="", name="pciID")


class Ip(Entry, frozen=True, rename="camel", omit_defaults=True):
    """An address as ip/prefix on the interface with that index. `version` ("4", "6") went with 1.0.0."""

    address: str
    version: str | None = None
    gateway: str | None = None
    interface: int | None = None


class Gateway(Entry, frozen=True, rename="camel", omit_defaults=True):
    """A route; everything after `gw` came with 1.1.0."""

    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(Entry, frozen=True, rename="camel", omit_defaults=True):
    """Resolver settings, which podnet passes on and does not set."""

    nameservers: Words = ()
    domain: str = ""
    search: Words = ()
    options: Words = ()


NO_DNS = Dns()


class Result(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """An ADD's result, or a prevResult."""

    cni_version: str = ""
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Gateway, ...] = ()
    dns: Dns = NO_DNS

    def document(self) -> bytes:
        """The JSON for stdout."""
        return msgspec.json.encode(self) + b"\n"


def result(
    version: str, attachment: Attachment, applied: Iterable[Resource], previous: Result | None = None, dns: Dns = NO_DNS
) -> Result:
    """The result of an ADD in the form of `version`, appended to that of the plugins before."""
    resources = tuple(applied)
    previous = previous or Result()
    interfaces = (*previous.interfaces, *_interfaces(attachment, resources, version == "1.1.0"))
    gateways = tuple(_gateways(attachment, resources, version == "1.1.0"))
    ips = _ips(attachment, resources, gateways, len(interfaces) - 1, version < "1.0.0")
    return Result(
        cni_version=version,
        interfaces=interfaces,
        ips=(*previous.ips, *ips),
        routes=(*previous.routes, *gateways),
        dns=dns if dns != NO_DNS else previous.dns,
    )


def _interfaces(attachment: Attachment, resources: Iterable[Resource], with_mtu: bool) -> Iterator[Interface]:
    """In the order of creation: bridge, node's end, container's end (last)."""
    for kind in (Bridge, Veth):
        for link in resources:
            if isinstance(link, kind):
                yield Interface(link.name, link.mac or "", link.mtu or 0 if with_mtu else 0)
    mtu = next((each.mtu for each in resources if isinstance(each, PodLink)), None)
    yield Interface(attachment.ifname, attachment.mac, mtu or 0 if with_mtu else 0, attachment.netns)


def _gateways(attachment: Attachment, resources: Iterable[Resource], with_scope: bool) -> Iterator[Gateway]:
    for route in resources:
        if isinstance(route, Route) and route.netns == attachment.netns:
            yield Gateway(route.dst, route.via, scope=SCOPE_LINK if route.scope_link and with_scope else None)


def _ips(
    attachment: Attachment, resources: Iterable[Resource], gateways: Iterable[Gateway], interface: int, versioned: bool
) -> Iterator[Ip]:
    default = {is_v6(each.dst): each.gw for each in gateways if each.dst.endswith("/0")}
    for each in resources:
        if isinstance(each, Address) and each.netns == attachment.netns:
            v6 = is_v6(each.address)
            version = ("6" if v6 else "4") if versioned else None
            yield Ip(each.address, version, default.get(v6), interface)


def disagreements(attachment: Attachment, previous: Result) -> Iterator[str]:
    """Where a prevResult given to CHECK tells other things than the record; plugins after us may have added to it."""
    names = (attachment.ifname, attachment.netns)
    interface = next((each for each in previous.interfaces if (each.name, each.sandbox) == names), None)
    if interface is None:
        yield f"prevResult has no interface {attachment.ifname} in {attachment.netns}"
    elif interface.mac and interface.mac.lower() != attachment.mac:
        yield f"prevResult says MAC {interface.mac} where {attachment.mac} was given"
    listed = {base_address(each.address) for each in previous.ips}
    for address in map(base_address, attachment.addresses):
        if address not in listed:
            yield f"prevResult lacks the address {address}"
