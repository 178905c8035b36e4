"""The first load of Services: from a synced cache to an empty kernel, and the same set as other proxies write it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from podnet.bench import service_others
from podnet.bench.figures import Figure, at_most, figure, in_turns, ratios, say
from podnet.bench.service_node import Node
from podnet.bench.service_objects import cluster
from podnet.objects.cluster import Cluster

TURNS = 3
MANY, FEW_EACH = 10_000, 4
WIDE, MANY_EACH = 5_000, 50
CHAINED = (2_000, MANY)
"""Services in kube-proxy's nftables structure, whose cost grows with the square of their number: a minute and more."""

LINEAR = 1.1
_numbers = itertools.count()


def first(name: str) -> Iterator[Figure]:
    """Every figure of the first load, for the suite of this name."""
    many, wide = cluster(MANY, FEW_EACH), cluster(WIDE, MANY_EACH)
    said = f"first load, {size(WIDE, MANY_EACH)} and {size(MANY, FEW_EACH)}"
    turns = in_turns(lambda: _load(wide), lambda: _load(many), TURNS, said, warm_up=0)
    yield figure(name, f"first load, {size(MANY, FEW_EACH)}", "s", [seconds for _, seconds in turns], at_most(3))
    yield figure(name, f"first load, {size(WIDE, MANY_EACH)}", "s", [seconds for seconds, _ in turns])
    more = WIDE * MANY_EACH / (MANY * FEW_EACH)
    grown = [ratio / more for ratio in ratios(turns)]
    yield figure(name, "time for an endpoint, of the latter to the former", "ratio", grown, at_most(LINEAR))
    yield _restored(name, many)
    yield from _chained(name)


def size(services: int, endpoints: int) -> str:
    """How figures name it."""
    return f"{services:,} Services x {endpoints}"


def _load(nodes: Cluster) -> float:
    """Seconds into the kernel of a fresh node, with nothing remembered."""
    node = Node(f"load{next(_numbers)}")
    start = time.perf_counter()
    node.take(nodes)
    seconds = time.perf_counter() - start
    node.dataplane.close()
    return seconds


def _restored(name: str, nodes: Cluster) -> Figure:
    said = f"iptables-legacy-restore, {size(MANY, FEW_EACH)}"
    say(said)
    seen = Node("rendered").see(nodes)
    text = service_others.iptables_text(port for ports in seen.services.values() for port in ports)
    return figure(name, said, "s", [service_others.restore(text)])


def _chained(name: str) -> Iterator[Figure]:
    for services in CHAINED:
        said = f"chains as kube-proxy's in nftables, {size(services, FEW_EACH)}"
        say(said)
        seconds = service_others.nft(service_others.nft_text(services, FEW_EACH))
        yield figure(name, said, "s", [seconds])
        ours = _load(cluster(services, FEW_EACH))
        yield figure(name, f"podnet to that, {size(services, FEW_EACH)}", "ratio", [ours / seconds])
