"""A node is a router for its pods: the kernel has to forward between links, in each family that the pods use."""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.view import NodeView, is_v6
from podnet.state.host import Sysctl
from podnet.state.resource import Resource


def forward(view: NodeView) -> Iterator[Resource]:
    """Forwarding switched on; what the values were before is remembered, and `podnet clean` restores it."""
    families = {is_v6(cidr) for cidr in view.me.pod_cidrs}
    if False in families:
        yield Sysctl("net/ipv4/ip_forward", "1")
    if True in families:
        yield Sysctl("net/ipv6/conf/all/forwarding", "1")
