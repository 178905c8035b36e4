"""How a pod joins its node: a veth pair, and then either a bridge or a point-to-point link.

bridge (cni0 style): the pod is on the node's own layer 2 segment; its default gateway is the bridge's address.
From a packet's point of view: pod eth0 -> veth -> bridge podnet0 -> another pod's veth, or up into the node's routing.

ptp (Calico style): the pod has a /32, knows nothing but 169.254.1.1, and every packet is routed by the node, even to
its neighbour. From a packet's point of view: pod eth0 -> veth -> node's routing -> veth of the other pod, or away.
Neighbour entries on both sides are permanent, since both MACs are known beforehand: nobody has to answer ARP or NDP.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from ipaddress import IPv4Address

from podnet.network.view import Attachment, NodeView, base_address, first_address, is_v6
from podnet.state.host import Sysctl
from podnet.state.links import Bridge, Link, PodLink, Veth, VethPeer
from podnet.state.resource import LINK_PREFIX, Resource
from podnet.state.routes import Address, Neighbour, Proxied, Route

BRIDGE = f"{LINK_PREFIX}0"
PTP_MAC = "ee:ee:ee:ee:ee:ee"
PTP_GATEWAYS = {False: "169.254.1.1", True: "fe80::ecee:eeff:feee:eeee"}
DEFAULT = {False: "0.0.0.0/0", True: "::/0"}


def host_ifname(attachment: Attachment) -> str:
    """Name of the node's end: 15 characters, derived, so that nobody has to remember it."""
    digest = sha1("/".join(attachment.id).encode(), usedforsecurity=False).hexdigest()
    return f"{LINK_PREFIX}{digest[:9]}"


def pod_mac(addresses: tuple[str, ...], identity: tuple[str, str]) -> str:
    """The pod's MAC, derived from its IPv4 address: when an address is reused, no neighbour cache is ever wrong."""
    for address in addresses:
        if not is_v6(address):
            return _mac(b"\x0a\x58" + IPv4Address(base_address(address)).packed)
    return derived_mac("/".join(identity))


def derived_mac(name: str) -> str:
    """A locally administered unicast MAC that only depends on `name`."""
    digest = bytearray(sha1(name.encode(), usedforsecurity=False).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return _mac(bytes(digest))


def _mac(raw: bytes) -> str:
    return raw.hex(":")


def bridges(view: NodeView) -> bool:
    """Whether pods of this node are on the bridge, or new ones will be."""
    return view.network.attachment == "bridge" or any(each.mode == "bridge" for each in view.attachments)


def segment(view: NodeView) -> Iterator[Resource]:
    """What the node needs once for all its bridged pods: the bridge and the gateway addresses of its ranges.

    The network address of an IPv4 range is the node's own as well. A tunnel's device has it too, as flannel's, and then
    it is the source of connections from the node to other nodes' pods: here it stays when a migration ends the tunnel,
    and they go on. (IPv6 goes on sending from an address that is gone.)

    It answers their ARP for pods of their range that are not on the bridge but have point-to-point links, at once; and
    their neighbour solicitations, where there are bridged pods, but only for addresses that it is told.
    """
    yield Bridge(name=BRIDGE, mtu=view.mtu, mac=derived_mac(f"bridge/{view.me.name}"), alias="podnet pods of this node")
    for cidr in view.me.pod_cidrs:
        yield Address(BRIDGE, f"{first_address(cidr)}/{cidr.partition('/')[2]}")
        if not is_v6(cidr):
            yield Address(BRIDGE, f"{base_address(cidr)}/32")
    yield Sysctl(f"net/ipv4/conf/{BRIDGE}/proxy_arp", "1", dev=BRIDGE)
    yield Sysctl(f"net/ipv4/neigh/{BRIDGE}/proxy_delay", "0", dev=BRIDGE)
    if view.bridged and any(map(is_v6, view.me.pod_cidrs)):
        yield Sysctl(f"net/ipv6/conf/{BRIDGE}/proxy_ndp", "1", dev=BRIDGE)
        yield Sysctl(f"net/ipv6/neigh/{BRIDGE}/proxy_delay", "0", dev=BRIDGE)


def attach(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """Connect one pod; its MTU is what the schemes in use leave, unless the attachment asks for less."""
    mtu = min(view.mtu, attachment.mtu or view.mtu)
    peer = VethPeer(attachment.netns, attachment.ifname, attachment.mac, mtu)
    yield _node_end(attachment, peer, mtu)
    yield PodLink(netns=attachment.netns, name=attachment.ifname, mtu=mtu, mac=attachment.mac)
    for address in attachment.addresses:
        if attachment.mode == "bridge":
            yield from _bridged(view, attachment, address)
        else:
            yield from _point_to_point(attachment, address)
            if view.bridged and is_v6(address):
                yield Proxied(BRIDGE, base_address(address))


def _node_end(attachment: Attachment, peer: VethPeer, mtu: int) -> Link:
    bridged = attachment.mode == "bridge"
    return Veth(
        name=host_ifname(attachment),
        mtu=mtu,
        mac=None if bridged else PTP_MAC,
        alias=f"{attachment.pod or attachment.container_id} {attachment.ifname}"[:255],
        master=BRIDGE if bridged else None,
        hairpin=True if bridged else None,
        peer=peer,
    )


def _bridged(view: NodeView, attachment: Attachment, address: str) -> Iterator[Resource]:
    yield Address(attachment.ifname, address, attachment.netns)
    gateway = _gateway(view, address)
    if gateway and attachment.default_route:
        yield Route(DEFAULT[is_v6(address)], via=gateway, dev=attachment.ifname, netns=attachment.netns)
    yield Neighbour(BRIDGE, base_address(address), attachment.mac)


def _gateway(view: NodeView, address: str) -> str | None:
    return next((first_address(cidr) for cidr in view.me.pod_cidrs if is_v6(cidr) == is_v6(address)), None)


def _point_to_point(attachment: Attachment, address: str) -> Iterator[Resource]:
    v6, ip, node_end = is_v6(address), base_address(address), host_ifname(attachment)
    host, gateway = f"{ip}/{128 if v6 else 32}", PTP_GATEWAYS[v6]
    yield Address(attachment.ifname, host, attachment.netns)
    if not v6:
        yield Sysctl(f"net/ipv4/conf/{node_end}/proxy_arp", "1", dev=node_end)
    yield Neighbour(attachment.ifname, gateway, PTP_MAC, attachment.netns)
    if attachment.default_route:
        yield from _by_gateway(attachment, gateway, v6)
    yield Neighbour(node_end, ip, attachment.mac)
    yield Route(host, dev=node_end, scope_link=not v6)


def _by_gateway(attachment: Attachment, gateway: str, v6: bool) -> Iterator[Resource]:
    dev, netns = attachment.ifname, attachment.netns
    if not v6:
        yield Route(f"{gateway}/32", dev=dev, scope_link=True, netns=netns)
    yield Route(DEFAULT[v6], via=gateway, dev=dev, netns=netns)
