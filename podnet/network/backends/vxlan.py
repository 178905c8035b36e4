"""vxlan: pods of other nodes are reached inside UDP, over any IP network between the nodes.

From a packet's point of view: pod -> node's routing finds `10.244.2.0/24 via 10.244.2.0 dev podnet.1 onlink` -> the
permanent neighbour entry turns 10.244.2.0 into the peer's VTEP MAC -> the permanent FDB entry turns that MAC into the
peer's address -> the packet leaves in UDP 8472, VNI 1 -> the peer's podnet.1 unpacks it -> routing -> pod.
On the wire and in kernel state this is flannel's vxlan. IPv6 pods travel over IPv6 between the nodes (podnet-v6.1).
Source: RFC 7348; flannel pkg/backend/vxlan.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from typing import Annotated, ClassVar

import msgspec

from podnet.network.pods import derived_mac
from podnet.network.view import NodeInfo, NodeView, base_address, is_v6, on_link
from podnet.network.view import Options as Base
from podnet.state.host import Sysctl
from podnet.state.links import Vxlan
from podnet.state.resource import LINK_PREFIX, Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Route


class Options(Base, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`vni` and UDP `port` as flannel's defaults; `direct_routing` skips the tunnel to peers on the same link."""

    WIRE: ClassVar[tuple[str, ...]] = ("vni", "port")

    type: str = "vxlan"
    vni: Annotated[int, msgspec.Meta(ge=1, le=2**24 - 1)] = 1
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8472
    direct_routing: bool = False


def overhead(options: Options, v6: bool) -> int:
    """Outer Ethernet 14, IP 20 or 40, UDP 8, VXLAN 8."""
    return 70 if v6 else 50


def vtep_mac(node: str) -> str:
    """The VTEP's MAC follows from the node's name, so nobody has to publish it."""
    return derived_mac(f"vtep/{node}")


def device(options: Options, v6: bool) -> str:
    """flannel's naming; another port, or a name too long for a link, gets another: all can exist in a migration."""
    name = f"{LINK_PREFIX}{'-v6' if v6 else ''}.{options.vni}"
    if options.port == 8472 and len(name) <= 15:
        return name
    return f"{LINK_PREFIX}-{sha1(f'{options.vni}/{options.port}/{v6}'.encode(), usedforsecurity=False).hexdigest()[:8]}"


def connect(view: NodeView) -> Iterator[Resource]:
    """One device a family; per peer a route, a neighbour and a forwarding entry."""
    options = msgspec.convert(view.network.backend, Options)
    for cidr in view.me.pod_cidrs:
        local = view.me.address(cidr)
        if local:
            yield from _family(view, options, cidr, local)


def _family(view: NodeView, options: Options, cidr: str, local: str) -> Iterator[Resource]:
    v6, facts = is_v6(cidr), view.facts
    dev = Vxlan(
        name=device(options, v6),
        vni=options.vni,
        port=options.port,
        local=local,
        dev=facts.uplink,
        mac=vtep_mac(view.me.name),
        mtu=facts.mtu - overhead(options, v6),
        alias="podnet tunnel to other nodes",
    )
    yield dev
    if v6:
        yield Sysctl(f"net/ipv6/conf/{dev.name}/accept_ra", "0", dev=dev.name)
    yield Address(dev.name, f"{base_address(cidr)}/{128 if v6 else 32}")
    for peer in view.peers:
        yield from _peer(view, options, dev.name, peer, v6)


def _peer(view: NodeView, options: Options, dev: str, peer: NodeInfo, v6: bool) -> Iterator[Resource]:
    for cidr in peer.pod_cidrs:
        address = peer.address(cidr)
        if is_v6(cidr) != v6 or address is None:
            continue
        if options.direct_routing and on_link(view.facts, address):
            yield Route(cidr, via=address, dev=view.facts.uplink)
            continue
        vtep, mac = base_address(cidr), vtep_mac(peer.name)
        yield Neighbour(dev, vtep, mac)
        yield FdbEntry(dev, mac, address)
        yield Route(cidr, via=vtep, dev=dev, onlink=True)
