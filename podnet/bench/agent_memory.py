"""How much memory a real agent needs in a cluster of a given size, measured from outside."""

from __future__ import annotations

import time

from podnet.bench import pods
from podnet.bench.cluster import Cluster
from podnet.bench.figures import say
from podnet.bench.programs import resident
from podnet.bench.synthetic import node

SETTLE = 5.0
SAMPLES = 5


def at(size: int) -> list[float]:
    """Resident memory (10^6 bytes) of an agent that knows `size` nodes and has ten pods; a few samples, 1 s apart."""
    say(f"an agent in a cluster of {size:,} nodes")
    cluster = Cluster("memory", nodes=1, others=[node(number) for number in range(256, 256 + size - 1)])
    me = cluster.lab.nodes[0]
    chain = cluster.chain(me)
    for number in range(10):
        chain.add(pods.make(f"memory{number}"))
    time.sleep(SETTLE)
    return [_sample(cluster.agents[me.name].pid) for _ in range(SAMPLES)]


def _sample(pid: int) -> float:
    time.sleep(1)
    return resident(pid)
