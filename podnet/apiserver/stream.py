"""A watch: one line of JSON per event, for as long as the client listens.

Each object was encoded when it was written; a plain watch only joins those bytes. A Table watch (`kubectl get -w`)
makes its rows per event, for ages depend on the time. Bookmarks tell an idle client how far it has seen, so that it can
come back after any pause shorter than the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
from aiohttp import web

from podnet.apiserver.records import Event
from podnet.apiserver.status import ApiError, Document
from podnet.apiserver.store import Watcher
from podnet.apiserver.tables import table
from podnet.objects.kinds import Kind

BOOKMARK_SECONDS = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
_PREFIX = {
    name: b'{"type":"%s","object":' % name.encode() for name in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
}
_SUFFIX = b"}\n"

Render = Callable[[list[Event]], bytes]


def plain(events: Iterable[Event]) -> bytes:
    """The stored bytes, framed."""
    parts: list[bytes] = []
    for kind, record in events:
        parts += (_PREFIX[kind], record.value, _SUFFIX)
    return b"".join(parts)


def as_tables(kind: Kind, include: str, now: Callable[[], datetime]) -> Render:
    """Each event's object as a Table of one row; only the first has column definitions."""
    first = True

    def render(events: list[Event]) -> bytes:
        nonlocal first
        lines = []
        for type_, record in events:
            one = table(kind, [record], now(), include, {"resourceVersion": str(record.revision)}, columns=first)
            lines.append(_line(type_, one))
            first = False
        return b"".join(lines)

    return render


def _line(type_: str, document: Document) -> bytes:
    return _PREFIX[type_] + msgspec.json.encode(document) + _SUFFIX


def bookmark(kind: Kind, revision: int, tabular: bool, initial_end: bool = False) -> bytes:
    """How far the stream has come; `initial_end` ends the initial events."""
    metadata: Document = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    if tabular:
        document: Document = {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": None,
            "rows": [],
        }
        return _line("BOOKMARK", document)
    return _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})


def refuse(error: ApiError) -> web.StreamResponse:
    """A stream whose only event says why there are none: how 410 is told to a watcher."""
    return web.Response(body=_line("ERROR", error.status()), headers=_HEADERS)


async def follow(
    request: web.BaseRequest,
    watcher: Watcher,
    render: Render,
    seconds: float,
    mark: Callable[[bool], bytes] | None,
    initial: bool,
) -> web.StreamResponse:
    """Send the watcher's events for `seconds`.

    `mark` makes a bookmark (of the end of the initial events when True); None: the client wants none. `initial`: tell
    where the initial events end.
    """
    response = web.StreamResponse(headers=_HEADERS)
    if request.transport is not None:
        watcher.give_up = request.transport.abort
    try:
        await response.prepare(request)
        if initial:
            events = await watcher.events(0.0)
            await response.write(render(events) + (mark(True) if mark else b""))
        await _pump(response, watcher, render, seconds, (lambda: mark(False)) if mark else bytes)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has gone: the usual end of a watch
    return response


async def _pump(
    response: web.StreamResponse, watcher: Watcher, render: Render, seconds: float, mark: Callable[[], bytes]
) -> None:
    clock = asyncio.get_running_loop().time
    deadline, due = clock() + seconds, clock() + BOOKMARK_SECONDS
    over = False
    while not over:
        events = await watcher.events(max(min(due, deadline) - clock(), 0.0))
        over = clock() >= deadline or (watcher.closed and not events)
        chunk = render(events)
        if over or clock() >= due:
            chunk += mark()
            due = clock() + BOOKMARK_SECONDS
        if chunk:
            await response.write(chunk)
