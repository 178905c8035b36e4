"""Bandwidth limits of a pod, both enforced on the node's side, where the pod can't undo them.

To the pod: a token bucket on the node's end of the veth. From the pod: what arrives there is redirected through an ifb
device that carries the bucket. Same discipline, burst and 25 ms latency as the reference bandwidth plugin.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.pods import host_ifname
from podnet.network.view import Attachment, NodeView
from podnet.state.links import Ifb, Redirect, Shaper
from podnet.state.resource import LINK_PREFIX, Resource


def limit(view: NodeView, attachment: Attachment) -> Iterator[Resource]:
    """Shapers for the directions that have a rate."""
    limits = attachment.bandwidth
    if limits is None:
        return
    dev = host_ifname(attachment)
    if limits.ingress_rate:
        yield Shaper(dev, limits.ingress_rate, limits.ingress_burst)
    if limits.egress_rate:
        ifb = ifb_name(attachment)
        yield Ifb(name=ifb, mtu=view.mtu, alias=f"egress limit of {attachment.pod or attachment.container_id}"[:255])
        yield Shaper(ifb, limits.egress_rate, limits.egress_burst)
        yield Redirect(dev, ifb)


def ifb_name(attachment: Attachment) -> str:
    """Derived like the veth's name; `i` is no hex digit, so the two never meet."""
    return f"{LINK_PREFIX}i{host_ifname(attachment)[len(LINK_PREFIX) : -1]}"
