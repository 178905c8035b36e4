"""Suite cni: what a runtime waits for, from its exec to the result.

podnet's side is the real executable and a real agent in a node; the other side is the reference chain of Debian's
containernetworking-plugins in another node. Both get the same pods, one after the other in turns, then a hundred at
once. Both keep their records below /run of the arena, which is memory: what a disk costs is not in these figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from podnet.bench import pods, reference
from podnet.bench.chain import Chain
from podnet.bench.cluster import Cluster
from podnet.bench.figures import Figure, at_most, figure, in_turns, ratios
from podnet.lab.libcni import Runtime

NAME = "cni"
TURNS = 40
ROUNDS = 5
AT_ONCE = 100

_numbers = itertools.count(1)


def suite() -> Iterator[Figure]:
    """Every figure of the suite; runs in the arena. Raises UserError without the reference plugins."""
    other = reference.chain()
    cluster = Cluster("bench", nodes=1)
    ours = cluster.chain(cluster.lab.nodes[0])
    yield from _one_by_one(ours, other, "", ())
    yield from _one_by_one(ours, other, " with a host port", ((8080, 80),))
    yield from _at_once(ours, other)


def _one_by_one(ours: Chain, other: Chain, what: str, ports: tuple[tuple[int, int], ...]) -> Iterator[Figure]:
    turns = in_turns(
        lambda: _there_and_back(ours, ports), lambda: _there_and_back(other, ports), TURNS, f"ADD and DEL{what}", 2
    )
    for place, verb in enumerate(("ADD", "DEL")):
        pairs = [(mine[place], theirs[place]) for mine, theirs in turns]
        yield figure(NAME, f"{verb}{what}, podnet", "ms", [mine * 1e3 for mine, _ in pairs])
        yield figure(NAME, f"{verb}{what}, reference", "ms", [theirs * 1e3 for _, theirs in pairs])
        yield figure(NAME, f"{verb}{what}, podnet to reference", "ratio", ratios(pairs), at_most(1 / 3))


def _there_and_back(chain: Chain, ports: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    pod = pods.make(f"pod{next(_numbers)}", ports)
    try:
        return chain.add(pod), chain.delete(pod)
    finally:
        pods.remove(pod)


def _at_once(ours: Chain, other: Chain) -> Iterator[Figure]:
    turns = in_turns(lambda: _crowd(ours), lambda: _crowd(other), ROUNDS, f"{AT_ONCE} ADDs at once")
    yield figure(NAME, f"{AT_ONCE} ADDs at once, podnet", "s", [mine for mine, _ in turns])
    yield figure(NAME, f"{AT_ONCE} ADDs at once, reference", "s", [theirs for _, theirs in turns])
    yield figure(NAME, f"{AT_ONCE} ADDs at once, podnet to reference", "ratio", ratios(turns), at_most(1 / 4))


def _crowd(chain: Chain) -> float:
    made: list[Runtime] = [pods.make(f"pod{next(_numbers)}") for _ in range(AT_ONCE)]
    try:
        seconds = chain.add_at_once(made)
        chain.delete_at_once(made)
        return seconds
    finally:
        for pod in made:
            pods.remove(pod)
