"""How `podnet check` shows what it found: a matrix and sentences for people, plain values for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from podnet.cli.output import table
from podnet.network.reach import Endpoint, Failure, Report
from podnet.network.view import is_v6

if TYPE_CHECKING:
    from podnet.daemons.watch import Interval, Watched
    from podnet.network.losses import Burst

WIDEST = 26
"""Endpoints up to which each has a row and a column of its own; beyond, nodes stand for theirs."""

SHOWN = 12
"""Failures that are listed one by one."""


def document(report: Report) -> dict[str, Any]:
    """A check for programs."""
    return {
        "ok": report.ok,
        "probes": report.probes,
        "failed": [msgspec.to_builtins(failure) for failure in report.failed],
        "seconds": round(report.seconds, 3),
        "endpoints": [
            {"name": each.name, "kind": each.kind, "node": each.node, "addresses": list(each.addresses)}
            for each in report.endpoints
        ],
    }


def render(report: Report) -> str:
    """A check for people."""
    body = _matrix(report) if len(report.endpoints) <= WIDEST else _by_node(report)
    return "\n".join([body, "", *_failures(report.failed), _summary(report)])


def _matrix(report: Report) -> str:
    """A row and a column each; `|` where another node begins."""
    ordered = sorted(report.endpoints, key=lambda each: (each.node, each.kind, each.name))
    first = [not at or ordered[at - 1].node != each.node for at, each in enumerate(ordered)]
    named = max(len(each.name) for each in ordered)
    noded = max(len(each.node) for each in ordered)

    def line(node: str, number: str, name: str, cells: Iterable[str]) -> str:
        row = "".join(f"{' |' if new else ''}{cell:>5}" for cell, new in zip(cells, first, strict=True))
        return f"{node:<{noded}} {number:>2} {name:<{named}}{row}"

    lines = [line("", "", "from, to:", (str(at + 1) for at in range(len(ordered))))]
    for at, source in enumerate(ordered):
        cells = (_cell(report, source, target) for target in ordered)
        lines.append(line(source.node if first[at] else "", str(at + 1), source.name, cells))
    return "\n".join(lines)


def _cell(report: Report, source: Endpoint, target: Endpoint) -> str:
    passed = report.cells.get((source.key, target.key))
    return "." if passed is None else "ok" if passed else "FAIL"


def _by_node(report: Report) -> str:
    """Passed and all pairs from node to node."""
    node = {each.key: each.node for each in report.endpoints}
    passed: dict[tuple[str, str], list[bool]] = {}
    for (source, target), good in report.cells.items():
        passed.setdefault((node[source], node[target]), []).append(good)
    nodes = sorted(set(node.values()))
    rows = [[one, *(_share(passed.get((one, other), [])) for other in nodes)] for one in nodes]
    return table(["from, to:", *nodes], rows)


def _share(results: Sequence[bool]) -> str:
    if not results:
        return "."
    return f"{sum(results)} ok" if all(results) else f"{results.count(False)} of {len(results)} FAIL"


def _failures(failed: Sequence[Failure]) -> list[str]:
    """A line for each pair and address, with the most telling reason of its probes."""
    grouped: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failed:
        grouped.setdefault((failure.source, failure.target, failure.address), []).append(failure)
    shown = list(grouped.values())[:SHOWN]
    lines = [_line(failures) for failures in shown]
    if len(grouped) > SHOWN:
        lines.append(f"... and {len(grouped) - SHOWN} more, all in podnet check -o json")
    looks = dict.fromkeys(failures[0].look for failures in shown)
    return [*lines, *(f"look at  {look}" for look in looks), *([""] if lines else [])]


def _line(failures: Sequence[Failure]) -> str:
    best = max(failures, key=lambda failure: not failure.reason.startswith("no answer"))
    whither = f"{best.source} -> {best.target}" if best.target != best.source else best.source
    probes = ", ".join(dict.fromkeys(failure.probe for failure in failures))
    return f"FAIL  {whither} {best.address} ({probes}): {best.reason}"


def _summary(report: Report) -> str:
    pods = [each for each in report.endpoints if each.kind == "pod"]
    families = {is_v6(address) for each in report.endpoints for address in each.addresses}
    over = " and ".join(name for v6, name in ((False, "IPv4"), (True, "IPv6")) if v6 in families)
    what = f"{_number(len(pods), 'pod')} and {_number(len(report.endpoints) - len(pods), 'node')}"
    where = f"between {what}, {over}, {report.seconds:.2f} s"
    if not report.ok:
        return f"check FAILED: {len(report.failed)} of {report.probes} probes {where}"
    several = sum(len(pod.containers) > 1 for pod in pods)
    localhost = f"across the containers of {_number(several, 'pod')}, within {_number(len(pods) - several, 'other')}"
    return f"check passed: {report.probes} probes {where};\nfull MTU, no NAT anywhere, localhost {localhost}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def interval(now: Interval, started: float) -> str:
    """One second of a watch."""
    line = f"{_clock(time.time())}  sent {now.sent:5}  lost {now.lost:4}  endpoints {now.endpoints}"
    bursts = [f"  {_burst(burst, started)}" for burst in now.bursts[:SHOWN]]
    more = [f"  ... and {len(now.bursts) - SHOWN} more"] if len(now.bursts) > SHOWN else []
    return "\n".join([line, *bursts, *more])


def _burst(burst: Burst, started: float) -> str:
    pair = f"{burst.pair.source.name} -> {burst.pair.target.name} {burst.pair.address}"
    lost = f"lost {burst.lost} in {burst.seconds * 1000:.0f} ms"
    at = started + burst.start
    return f"{_clock(at)}.{at % 1 * 1000:03.0f}  {pair}  {lost}: {burst.reason}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def watched_document(watched: Watched, started: float) -> dict[str, Any]:
    """A watch for programs; times in Unix seconds."""
    return {
        "ok": not watched.failed,
        "probes": watched.sent,
        "failed": [msgspec.to_builtins(failure) for failure in watched.failed],
        "lost": watched.lost,
        "longest_gap_ms": round(watched.longest_gap * 1000),
        "streams": watched.streams,
        "longest_stall_ms": round(watched.longest_stall * 1000),
        "bursts": [
            {
                "from": burst.pair.source.name,
                "to": burst.pair.target.name,
                "address": burst.pair.address,
                "start": round(started + burst.start, 3),
                "ms": round(burst.seconds * 1000),
                "lost": burst.lost,
                "reason": burst.reason,
            }
            for burst in watched.bursts
        ],
    }


def render_watched(watched: Watched) -> str:
    """A watch for people, at its end."""
    verdict = "watch FAILED" if watched.failed else "watch passed"
    gap = f", longest gap {watched.longest_gap * 1000:.0f} ms" if watched.lost else ""
    streams = f"{watched.streams} TCP streams, slowest echo {watched.longest_stall * 1000:.0f} ms"
    return "\n".join(
        [*_failures(watched.failed), f"{verdict}: {watched.lost} of {watched.sent} probes lost{gap}; {streams}"]
    )
