"""Cluster DNS: kubedns alone and behind dnsmasq, what it needs, and how soon it knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median

from podnet.bench import dns_change
from podnet.bench.dns_load import Run, load, names, sampled
from podnet.bench.dns_objects import EACH
from podnet.bench.dns_world import BARE, CACHE, FOLDER, KUBEDNS, World
from podnet.bench.figures import Figure, at_least, at_most, figure, in_turns, ratios, say
from podnet.bench.programs import children, cpu_seconds, resident
from podnet.bench.service_change import worst
from podnet.wire import dns

NAME = "dns"
SERVICES = 10_000
CACHED = 500
"""Names that are asked through dnsmasq, whose cache holds 1,000 as it comes."""

TURNS, SECONDS = 5, 3.0
MEGABYTES = 60


class Wrong(Exception):
    """A server said something else than the records that are there."""


def suite() -> Iterator[Figure]:
    """Each on one core, asked from the other."""
    world = World(SERVICES)
    kubedns = world.kubedns()
    time.sleep(1)
    size = f"{SERVICES:,} Services x {EACH}"
    yield figure(NAME, f"resident memory of kubedns, {size}", "MB", [resident(kubedns.pid)], at_most(MEGABYTES))
    every = names(f"{FOLDER}/every", [world.name(number) for number in range(SERVICES)])
    say(f"kubedns alone, {TURNS} turns")
    turns = [_measured(KUBEDNS, [kubedns.pid], every) for _ in range(TURNS)]
    rates = [rate for rate, _ in turns]
    yield figure(NAME, f"kubedns alone, A, {SERVICES:,} Services", "answers/s", rates, at_least(30_000))
    yield figure(NAME, "its resident memory when each was asked for", "MB", [resident(kubedns.pid)], at_most(MEGABYTES))
    yield figure(NAME, "its CPU for an answer", "us", [spent for _, spent in turns], at_most(1e6 / 30_000))
    bare = world.bare()
    yield from _half_load(every, median(rates) / 2, dns.question(7, dns.name(world.name(0)), dns.A))
    yield from _in_front(world, bare.pid)
    bare.terminate()
    bare.wait()
    yield from dns_change.changes(NAME, world)
    left = f"resident memory of kubedns after that, {SERVICES + dns_change.more():,} Services"
    yield figure(NAME, left, "MB", [resident(kubedns.pid)])


def _measured(port: int, pids: Sequence[int], questions: str) -> tuple[float, float]:
    """Answers in a second, and microseconds of CPU of these processes for each."""
    before = sum(map(cpu_seconds, pids))
    run = _right(load(port, questions, SECONDS))
    return run.rate, (sum(map(cpu_seconds, pids)) - before) / run.answers * 1e6


def _half_load(questions: str, rate: float, single: bytes) -> Iterator[Figure]:
    """What 99 of 100 answers take at most."""
    ours, theirs = (partial(_p99, port, questions, rate, single) for port in (KUBEDNS, BARE))
    pairs = in_turns(ours, theirs, TURNS, "half load")
    yield figure(NAME, "p99 at half of that load", "ms", [mine for mine, _ in pairs], at_most(2))
    yield figure(NAME, "the same of dnsmasq with a hosts file", "ms", [other for _, other in pairs])


def _p99(port: int, questions: str, rate: float, question: bytes) -> float:
    runs: list[Run] = []
    asking = threading.Thread(target=lambda: runs.append(load(port, questions, SECONDS, rate)))
    asking.start()
    time.sleep(SECONDS / 10)
    taken = sampled(port, question, SECONDS * 0.8)
    asking.join()
    _right(runs[0])
    return worst(taken) * 1e3


def _in_front(world: World, bare: int) -> Iterator[Figure]:
    """dnsmasq with kubedns behind it, and with a file of the same names."""
    cache = world.cache()
    some = names(f"{FOLDER}/some", [world.name(number) for number in range(min(CACHED, SERVICES))])
    ours, theirs = [cache.pid, *children(cache.pid)], [bare]
    pairs = in_turns(
        lambda: _measured(CACHE, ours, some), lambda: _measured(BARE, theirs, some), TURNS, "dnsmasq in front, and bare"
    )
    cache.terminate()
    cache.wait()
    what = "dnsmasq in front of kubedns, names cached"
    by_rate, by_cpu = ([(mine[of], other[of]) for mine, other in pairs] for of in (0, 1))
    yield figure(NAME, what, "answers/s", [mine for mine, _ in by_rate])
    yield figure(NAME, f"{what}, to dnsmasq with a hosts file", "ratio", ratios(by_rate), at_least(0.9))
    yield figure(NAME, "the same of CPU for an answer", "ratio", ratios(by_cpu), at_most(1 / 0.9))


def _right(run: Run) -> Run:
    if run.wrong or not run.answers:
        raise Wrong(f"{run.wrong} of {run.answers} answers had no record")
    return run
