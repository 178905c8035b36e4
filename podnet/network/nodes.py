"""The texts of a Node object, as addresses and ranges that can be used, in the kernel's own spelling."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from podnet.objects.core import Node


def addresses_of(node: Node) -> Iterator[tuple[str, str]]:
    """(field, text) of each address the node is reached at."""
    for index, entry in enumerate(node.status.addresses):
        if entry.type == "InternalIP":
            yield f"status.addresses[{index}].address", entry.address


def ranges_of(node: Node) -> Iterator[tuple[str, str]]:
    """(field, text) of each range; the old single field only counts while the new one is empty."""
    for index, text in enumerate(node.spec.pod_cidrs):
        yield f"spec.podCIDRs[{index}]", text
    if node.spec.pod_cidr and not node.spec.pod_cidrs:
        yield "spec.podCIDR", node.spec.pod_cidr


def usable_address(text: str) -> str | None:
    """The address in the kernel's spelling; None for what no other node could send to."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return str(address) if _routable(address) else None


def usable_range(text: str) -> str | None:
    """The range in the kernel's spelling; None when it has no room for a gateway and a pod, or is no unicast range."""
    try:
        network = ip_network(text)
    except ValueError:
        return None
    fits = 0 < network.prefixlen <= network.max_prefixlen - 2
    return str(network) if fits and _routable(network[0]) and _routable(network[-1]) else None


def _routable(address: IPv4Address | IPv6Address) -> bool:
    local = address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast
    return not local and not (isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id))
