"""How much memory a real agent needs in a cluster of a given size, measured from outside."""

from __future__ import annotations

import re
import time

from podnet.bench import pods
from podnet.bench.cluster import Cluster
from podnet.bench.figures import say
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
    return [_resident(cluster.agents[me.name].pid) for _ in range(SAMPLES)]


def _resident(pid: int) -> float:
    time.sleep(1)
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", file.read(), re.MULTILINE)
    assert found, "a live process has a VmRSS"
    return int(found[1]) * 1024 / 1e6
