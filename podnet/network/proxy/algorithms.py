"""Which endpoint the next connection gets, where a Service asks for another way than chance.

source-hash   a client's address decides. Its hash is one of HASHED slots, and each slot belongs to the endpoint that
              bids most for it (rendezvous hashing), so an endpoint that comes or goes moves its own share and no more,
              and every node decides alike.
round-robin   one after the other, by weight. The slots are TURNS, which whole rounds of 1 to 8 endpoints fill exactly;
              one of COUNTERS counters in the kernel walks them, that of the ServicePort's name.
least-connections   by chance, with weights that the agent makes anew every few seconds from the connections it finds.

All three are per node. Source: D. G. Thaler, C. V. Ravishankar, "Using name-based mappings to increase hit rates".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import shake_128
from math import log
from zlib import crc32

import msgspec

from podnet.network.service_port import Endpoint, ServicePort
from podnet.objects.cluster import Key

RANDOM, ROUND_ROBIN, SOURCE_HASH, LEAST = "random", "round-robin", "source-hash", "least-connections"
ALGORITHMS = (RANDOM, ROUND_ROBIN, SOURCE_HASH, LEAST)

HASHED = 1024
TURNS = 840
COUNTERS = 64
_WORD = 4  # bytes of a bid
_RANGE = 1 << 8 * _WORD

HEAVIEST = 16
"""The most that a weight of least-connections can be; the least is 1, the usual USUAL."""
USUAL = 4

Flows = Mapping[tuple[int, str, int, str], int]
"""How many connections, by protocol, address and port they were meant for, and the address that answers."""
Place = tuple[int, str, int]
"""Protocol, address and port of a frontend."""
Loads = Mapping[Key, Mapping[str, int]]
"""Weights by Service and endpoint's address; what is missing has the usual one."""


def way(port: ServicePort, slots: int) -> str:
    """The end of the names of chains that pick one of so many slots as the port asks (nft_chains.py)."""
    if port.algorithm == SOURCE_HASH:
        return "-hash"
    if port.algorithm == ROUND_ROBIN:
        return f"-turn-{crc32(f'{port.label} {port.protocol}'.encode()) % COUNTERS}"
    return str(slots)


def hashed(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoint of each of HASHED slots."""
    if len(endpoints) == 1:
        return endpoints * HASHED
    bids = [_bids(endpoint.address, endpoint.port) for endpoint in endpoints]
    if len({endpoint.weight for endpoint in endpoints}) > 1:
        weights = [endpoint.weight for endpoint in endpoints]
        return tuple(endpoints[_highest(offers, weights)] for offers in zip(*bids, strict=True))
    return tuple(endpoints[offers.index(max(offers))] for offers in zip(*bids, strict=True))


def _highest(offers: tuple[int, ...], weights: list[int]) -> int:
    """With weights: the logarithmic method (Schindelhauer, Schomaker) makes shares proportional to them."""
    scores = [weight / -log((offer + 0.5) / _RANGE) for offer, weight in zip(offers, weights, strict=True)]
    return scores.index(max(scores))


@lru_cache(maxsize=4096)
def _bids(address: str, port: int) -> tuple[int, ...]:
    """What an endpoint offers for each slot, whoever else is there."""
    stream = shake_128(f"{address} {port}".encode()).digest(_WORD * HASHED)
    return tuple(memoryview(stream).cast("I"))


def turns(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """The endpoint of each of TURNS slots: everybody is owed its weight a turn, and who is owed most has it."""
    whole = sum(endpoint.weight for endpoint in endpoints)
    owed = [0] * len(endpoints)
    made: list[Endpoint] = []
    for _ in range(TURNS):
        for place, endpoint in enumerate(endpoints):
            owed[place] += endpoint.weight
        chosen = owed.index(max(owed))
        owed[chosen] -= whole
        made.append(endpoints[chosen])
    return tuple(made)


def loads(frontends: Iterable[tuple[ServicePort, Place]], flows: Flows) -> Loads:
    """The weights of endpoints under least-connections, which the ports at these frontends ask for."""
    met: dict[Place, dict[str, int]] = {}
    for (protocol, address, number, answers), count in flows.items():
        met.setdefault((protocol, address, number), {})[answers] = count
    counts: dict[Key, Counter[str]] = {}
    for port, place in frontends:
        of = counts.setdefault((port.namespace, port.service), Counter())
        here = met.get(place, {})
        for address in {endpoint.address for endpoint in port.endpoints}:
            of[address] += here.get(address, 0)
    return {key: found for key, of in counts.items() if (found := weights(of))}


def weights(counts: Mapping[str, int]) -> Mapping[str, int]:
    """More for those with less than the mean; nothing when all are alike."""
    mean = sum(counts.values()) / len(counts) if counts else 0
    found = {
        address: min(max(round(USUAL * (mean + 2) / (count + 2)), 1), HEAVIEST) for address, count in counts.items()
    }
    return found if len(set(found.values())) > 1 else {}


def weighed(port: ServicePort, by_address: Mapping[str, int]) -> ServicePort:
    """The port with these weights on top of those that it has."""
    if port.algorithm != LEAST or not by_address:
        return port

    def heavier(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return tuple(
            msgspec.structs.replace(each, weight=each.weight * by_address.get(each.address, USUAL))
            for each in endpoints
        )

    fields = {name: heavier(getattr(port, name)) for name in _CHOICES}
    segments = tuple(
        msgspec.structs.replace(each, **{name: heavier(getattr(each, name)) for name in _CHOICES})
        for each in port.segments
    )
    return msgspec.structs.replace(port, segments=segments, **fields)


_CHOICES = ("internal", "external", "cluster")
