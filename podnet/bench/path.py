"""Suite path: what podnet's paths carry between pods of two nodes, against the same paths made by hand.

For each backend there are four clusters of two nodes: two where agents and the CNI executable made the paths, two where
`ip` did (by_hand.py). One of each translates addresses (masquerading, Services) and so tracks connections, which costs
every packet something, whoever asks for it; like is compared with like, and podnet's default with the barest path.
Blocks of data go over podnet's path and another in turns, until the median of the ratios is sure to a hundredth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from podnet.bench import by_hand, pods
from podnet.bench.cluster import Cluster
from podnet.bench.figures import Figure, Goal, at_least, figure, ratios, until_sure
from podnet.bench.programs import NotReady
from podnet.bench.stream import Stream
from podnet.network.backends import BACKENDS
from podnet.network.view import base_address

NAME = "path"
ERROR = 0.01
SECONDS = 60.0
PATIENCE = 10.0
GOALS: Mapping[str, Goal] = {"host-gw": at_least(0.95), "vxlan": at_least(0.97)}


def suite() -> Iterator[Figure]:
    """Every figure of the suite; runs in the arena."""
    for backend in sorted(BACKENDS.keys() & by_hand.OVERHEAD.keys()):
        ours, hand = connect(_pods(backend)), connect(by_hand.build(backend, f"hand-{backend}"))
        turns = until_sure(ours.rate, hand.rate, ERROR, SECONDS, f"TCP over {backend}")
        yield figure(NAME, f"{backend}, podnet", "Gbit/s", [mine for mine, _ in turns])
        yield figure(NAME, f"{backend}, by hand", "Gbit/s", [theirs for _, theirs in turns])
        yield figure(NAME, f"{backend}, podnet to by hand", "ratio", ratios(turns), GOALS[backend])
        bare = connect(_pods(backend, nat=False))
        turns = until_sure(bare.rate, hand.rate, ERROR, SECONDS, f"TCP over {backend}, NAT on neither side")
        bare.close()
        hand.close()
        yield figure(NAME, f"{backend}, podnet to by hand, neither with NAT", "ratio", ratios(turns), GOALS[backend])
        nat = connect(by_hand.build(backend, f"nat-{backend}", masquerade=True))
        turns = until_sure(ours.rate, nat.rate, ERROR, SECONDS, f"TCP over {backend}, NAT on both sides")
        nat.close()
        ours.close()
        yield figure(NAME, f"{backend}, podnet to by hand, both with NAT", "ratio", ratios(turns), GOALS[backend])


def _pods(backend: str, nat: bool = True) -> by_hand.Pods:
    """One pod on each of two nodes, attached by podnet."""
    name = f"{'bench' if nat else 'bare'}-{backend}"
    cluster = Cluster(name, nodes=2, backend=backend, nat=nat)
    made = []
    for node in cluster.lab.nodes:
        pod, chain = pods.make(f"{name}-{node.name}"), cluster.chain(node)
        chain.add(pod)
        made.append((pod.netns, base_address(chain.results[pod.container_id]["ips"][0]["address"])))
    return tuple(made)


def connect(ends: by_hand.Pods) -> Stream:
    """A stream between two pods, as soon as the nodes have heard of each other. Raises NotReady."""
    (sender, _), (receiver, address) = ends
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return Stream(sender, receiver, address)
        except OSError as error:
            if time.monotonic() > end:
                raise NotReady(f"no path to {address}: {error}") from None
            time.sleep(0.1)
