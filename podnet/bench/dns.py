"""Cluster DNS: kubedns alone and behind dnsmasq, what it needs, and how soon it knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from podnet.bench import dns_change
from podnet.bench.dns_load import Run, load, names
from podnet.bench.dns_objects import EACH
from podnet.bench.dns_world import BARE, CACHE, FOLDER, KUBEDNS, World
from podnet.bench.figures import Figure, at_least, at_most, figure, in_turns, ratios, say
from podnet.bench.programs import cpu_seconds, resident
from podnet.bench.service_change import worst

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
    rates, spent = _full_load(kubedns.pid, every)
    yield figure(NAME, f"kubedns alone, A, {SERVICES:,} Services", "answers/s", rates, at_least(30_000))
    yield figure(NAME, "its CPU for an answer", "us", spent, at_most(1e6 / 30_000))
    bare = world.bare()
    yield from _half_load(every, median(rates) / 2)
    yield from _in_front(world)
    bare.terminate()
    bare.wait()
    yield from dns_change.changes(NAME, world)
    yield figure(NAME, "resident memory of kubedns after that", "MB", [resident(kubedns.pid)], at_most(MEGABYTES))


def _full_load(pid: int, questions: str) -> tuple[list[float], list[float]]:
    """Answers in a second, and microseconds of CPU for each, by turn."""
    rates, spent = [], []
    for turn in range(TURNS):
        say(f"kubedns alone: turn {turn + 1} of {TURNS}", again=turn + 1 < TURNS)
        before = cpu_seconds(pid)
        run = _right(load(KUBEDNS, questions, SECONDS))
        rates.append(run.rate)
        spent.append((cpu_seconds(pid) - before) / run.answers * 1e6)
    return rates, spent


def _half_load(questions: str, rate: float) -> Iterator[Figure]:
    """What 99 of 100 answers take at most."""
    pairs = in_turns(lambda: _p99(KUBEDNS, questions, rate), lambda: _p99(BARE, questions, rate), TURNS, "half load")
    yield figure(NAME, "p99 at half of that load", "ms", [ours for ours, _ in pairs], at_most(2))
    yield figure(NAME, "the same of dnsmasq with a hosts file", "ms", [theirs for _, theirs in pairs])


def _p99(port: int, questions: str, rate: float) -> float:
    return worst(_right(load(port, questions, SECONDS, rate, each=True)).each) * 1e3


def _in_front(world: World) -> Iterator[Figure]:
    """dnsmasq with kubedns behind it, and with a file of the same names."""
    cache = world.cache()
    some = names(f"{FOLDER}/some", [world.name(number) for number in range(min(CACHED, SERVICES))])
    pairs = in_turns(lambda: _rate(CACHE, some), lambda: _rate(BARE, some), TURNS, "dnsmasq in front, and alone")
    cache.terminate()
    cache.wait()
    what = "dnsmasq in front of kubedns, names cached"
    yield figure(NAME, what, "answers/s", [ours for ours, _ in pairs])
    yield figure(NAME, f"{what}, to dnsmasq with a hosts file", "ratio", ratios(pairs), at_least(0.9))


def _rate(port: int, questions: str) -> float:
    return _right(load(port, questions, SECONDS)).rate


def _right(run: Run) -> Run:
    if run.wrong or not run.answers:
        raise Wrong(f"{run.wrong} of {run.answers} answers had no record")
    return run
