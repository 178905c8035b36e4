"""The bookkeeping of `podnet check --watch`: which probes were lost, and how long each gap lasted.

A probe is lost when no answer came within PATIENCE seconds. It counts only if both its ends still exist in a listing
of the pods that began after that, so a pod that was deleted meanwhile takes its probes with it. A pair that joined
later has GRACE seconds for its first answer. Answers overtake losses (those are known a second later), so every pair is
settled strictly in the order of sending. Times are seconds of any clock that never goes back; nothing here reads one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from podnet.network.reach import Failure, Measured, Pair, Seen, failure, judge, path
from podnet.network.value import Value
from podnet.network.view import is_v6

PATIENCE = 1.0
GRACE = 2.0

PairKey = tuple[str, str, str]


class Burst(Value, frozen=True):
    """Probes of one pair lost in a row: `start` is when the first was sent, the end when the next good one was."""

    pair: Pair
    start: float
    seconds: float
    lost: int
    reason: str


class Probe(msgspec.Struct, gc=False):
    """One probe under way, from `port` of the source. `error` is the errno with which it could not even be sent."""

    number: int
    pair: Pair
    port: int
    sent: float
    error: str = ""
    answered: bool = False
    arrived: bool = False

    @property
    def reason(self) -> str:
        """Where a lost one got to."""
        return self.error or ("its answer was lost" if self.arrived else "it never arrived")


class Flow(msgspec.Struct, gc=False):
    """What is known of one pair; `began`, `losing` and `reason` describe the burst that goes on, if `losing`."""

    pair: Pair
    joined: float
    proven: bool
    waiting: deque[Probe] = msgspec.field(default_factory=deque)
    began: float = 0.0
    losing: int = 0
    reason: str = ""
    lost: int = 0
    longest: float = 0.0


class Losses:
    """Counts the probes of a watch."""

    def __init__(self) -> None:
        self.sent = 0
        self.lost = 0
        self.longest = 0.0
        """Seconds of the longest burst."""
        self.translated: dict[PairKey, Failure] = {}
        self._flows: dict[PairKey, Flow] = {}
        self._lossy: dict[PairKey, Flow] = {}
        self._probes: dict[int, Probe] = {}

    def expect(self, pairs: Iterable[Pair], now: float, proven: bool = False) -> None:
        """These pairs exist now. New ones join (`proven`: without grace), missing ones leave with all under way."""
        before, self._flows = self._flows, {}
        for pair in pairs:
            known = before.pop(pair.key) if pair.key in before else None
            self._flows[pair.key] = known if known is not None else Flow(pair, now, proven)
        for gone in before.values():
            self.sent -= len(gone.waiting)
            for probe in gone.waiting:
                self._probes.pop(probe.number, None)

    def send(self, number: int, pair: Pair, port: int, now: float, error: str = "") -> None:
        """A probe left from a port; with an `error` it did not."""
        probe = Probe(number, pair, port, now, error)
        self._flows[pair.key].waiting.append(probe)
        self._probes[number] = probe
        self.sent += 1

    def arrived(self, number: int, seen: Seen) -> None:
        """The other end saw it, perhaps as somebody else's."""
        probe = self._probes.get(number)
        if probe is None:
            return
        probe.arrived = True
        found = judge(probe.pair, Measured("udp", (_client(probe.pair, seen), probe.port), seen))
        if found:
            self.translated.setdefault(probe.pair.key, found)

    def answered(self, number: int) -> None:
        """Its answer came; after it was counted as lost, that is too late."""
        if probe := self._probes.pop(number, None):
            probe.answered = True

    def settle(self, now: float, listed: float) -> list[Burst]:
        """Decide what can be decided; `listed` is when the newest listing of the pods began. Returns ended bursts."""
        due = min(now, listed) - PATIENCE
        return [burst for flow in self._flows.values() for burst in self._settle(flow, due)]

    def finish(self, now: float) -> list[Burst]:
        """The watch is over and the last answer had its time: decide the rest; bursts that go on end now."""
        ended = self.settle(now + PATIENCE, now + PATIENCE)
        return ended + [self._end(flow, now) for flow in self._flows.values() if flow.losing]

    def failures(self) -> tuple[Failure, ...]:
        """One for each pair that lost probes, and for each whose addresses are translated."""
        return (*map(_lossy, self._lossy.values()), *self.translated.values())

    def _settle(self, flow: Flow, due: float) -> Iterator[Burst]:
        while flow.waiting and (flow.waiting[0].answered or flow.waiting[0].sent <= due):
            probe = flow.waiting.popleft()
            if not probe.answered:
                self._lose(flow, probe)
                continue
            flow.proven = True
            if flow.losing:
                yield self._end(flow, probe.sent)

    def _lose(self, flow: Flow, probe: Probe) -> None:
        self._probes.pop(probe.number, None)
        if not flow.proven and probe.sent - flow.joined < GRACE:
            self.sent -= 1
            return
        if not flow.losing:
            flow.began, flow.reason = probe.sent, probe.reason
        flow.losing += 1
        flow.lost += 1
        self.lost += 1
        self._lossy[flow.pair.key] = flow

    def _end(self, flow: Flow, end: float) -> Burst:
        burst = Burst(flow.pair, flow.began, end - flow.began, flow.losing, flow.reason)
        flow.losing = 0
        flow.longest = max(flow.longest, burst.seconds)
        self.longest = max(self.longest, burst.seconds)
        return burst


def _client(pair: Pair, seen: Seen) -> str:
    """Which address the source may have used: a node any of its own, which are not all known here."""
    if pair.source.kind == "node" or seen.peer in pair.source.addresses:
        return seen.peer
    return next(address for address in pair.source.addresses if is_v6(address) == is_v6(seen.peer))


def _lossy(flow: Flow) -> Failure:
    reason = f"lost {flow.lost} probes, for up to {flow.longest * 1000:.0f} ms in a row; first: {flow.reason}"
    return failure(flow.pair, "udp", reason, path(flow.pair.source.node, flow.pair.target.node))
