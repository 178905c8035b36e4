"""host-gw: no tunnel at all; every node routes to every other node's pods directly.

From a packet's point of view: pod -> node's routing finds `10.244.2.0/24 via 192.168.77.12 dev eth0` -> the wire,
unchanged -> the other node's routing -> pod. It costs nothing and needs all nodes on one link: a router in between
would not know the pods' addresses.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.view import NodeView
from podnet.network.view import Options as Base
from podnet.state.resource import Resource
from podnet.state.routes import Route


class Options(Base, frozen=True, forbid_unknown_fields=True):
    """host-gw has nothing to set."""

    type: str = "host-gw"


def overhead(options: Options, v6: bool) -> int:
    """Bytes that the scheme takes from each packet: none."""
    return 0


def connect(view: NodeView) -> Iterator[Resource]:
    """Each node is the next hop for its own pods; works where the nodes share a link."""
    for peer in view.peers:
        for cidr in peer.pod_cidrs:
            if address := peer.address(cidr):
                yield Route(cidr, via=address, dev=view.facts.uplink)
