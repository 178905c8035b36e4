"""Clusters of any size, as the API server would tell of them."""

from __future__ import annotations

from podnet.network.view import Attachment, LocalFacts, PortMapping
from podnet.objects.cluster import Cluster
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NETWORK_NAME, NetworkConfig, NetworkSpec

POD_CIDR = "10.0.0.0/10"


def node(number: int) -> Node:
    """The node of this number (1 to 65,535): node-258 has the pods 10.1.2.0/24 and the address 172.16.1.2."""
    high, low = number >> 8, number & 255
    return Node(
        metadata=ObjectMeta(name=f"node-{number}"),
        spec=NodeSpec(pod_cidr=f"10.{high}.{low}.0/24", pod_cidrs=(f"10.{high}.{low}.0/24",)),
        status=NodeStatus(addresses=(NodeAddress("InternalIP", f"172.{16 + (high >> 4)}.{high & 15}.{low}"),)),
    )


def cluster(size: int, backend: str = "vxlan") -> Cluster:
    """A cluster with this many nodes and one NetworkConfig."""
    spec = NetworkSpec(pod_cidrs=(POD_CIDR,), backend={"type": backend})
    network = NetworkConfig(metadata=ObjectMeta(name=NETWORK_NAME), spec=spec)
    nodes = {("", f"node-{number}"): node(number) for number in range(1, size + 1)}
    return Cluster(nodes=nodes, networkconfigs={("", NETWORK_NAME): network})


def facts() -> LocalFacts:
    """What node-1 read of itself."""
    return LocalFacts("node-1", "eth0", 1500, ("172.16.0.1/20",))


def pods(count: int) -> tuple[Attachment, ...]:
    """Attachments of node-1, each with a host port; at most 250."""
    return tuple(_pod(number) for number in range(count))


def _pod(number: int) -> Attachment:
    return Attachment(
        container_id=f"container-{number}",
        ifname="eth0",
        netns=f"/run/netns/pod-{number}",
        addresses=(f"10.0.1.{number + 2}/24",),
        mac=f"0a:58:0a:00:01:{number + 2:02x}",
        pod=f"default/pod-{number}",
        ports=(PortMapping(8000 + number, 80),),
    )
