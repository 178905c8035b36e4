"""Reading what a podnet-shim wrote: CRI log lines, filtered as `kubectl logs` asks, and followed across rotation.

    2006-01-02T15:04:05.000000000Z stdout F text     F: a whole line, P: a part of one that goes on

Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/logs/logs.go.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import BinaryIO

import msgspec

from podnet.lab.status import unix

FOLLOW_SECONDS = 0.1


class Options(msgspec.Struct, frozen=True):
    """What `kubectl logs` may ask for; `since` is a Unix time, `limit` in bytes."""

    follow: bool = False
    tail: int | None = None
    timestamps: bool = False
    previous: bool = False
    since: float = 0.0
    limit: int | None = None


def options(query: Mapping[str, str], now: float) -> Options:
    """From the parameters of a request. Raises ValueError that names the parameter."""
    since = now - _number(query, "sinceSeconds") if "sinceSeconds" in query else 0.0
    if "sinceTime" in query:
        since = unix(query["sinceTime"])
    return Options(
        follow=_flag(query, "follow"),
        tail=_number(query, "tailLines") if "tailLines" in query else None,
        timestamps=_flag(query, "timestamps"),
        previous=_flag(query, "previous"),
        since=since,
        limit=_number(query, "limitBytes") if "limitBytes" in query else None,
    )


def _number(query: Mapping[str, str], name: str) -> int:
    if not query[name].isdecimal():
        raise ValueError(f"{name}: {query[name]!r} is not a number of 0 or more")
    return int(query[name])


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true")


def render(entry: bytes, wanted: Options) -> bytes:
    """One CRI line as people want it; b"" for one that is too old or torn."""
    parts = entry.split(b" ", 3)
    if len(parts) < 4 or (wanted.since and unix(parts[0].decode()) < wanted.since):
        return b""
    text = parts[3] if parts[2] == b"F" else parts[3].rstrip(b"\n")
    return parts[0] + b" " + text if wanted.timestamps else text


def tail(entries: Iterable[bytes], count: int | None) -> Iterable[bytes]:
    """The last entries that make `count` whole lines."""
    if count is None:
        return entries
    kept: deque[bytes] = deque()
    lines = 0
    for entry in entries:
        kept.append(entry)
        lines += entry.split(b" ", 3)[2:3] == [b"F"]
        while lines > count or (kept and not count):
            lines -= kept.popleft().split(b" ", 3)[2:3] == [b"F"]
    return kept


async def read(path: str, wanted: Options, over: Callable[[], bool] = lambda: True) -> AsyncGenerator[bytes, None]:
    """The log at `path` as asked for; with `follow` until `over()`, which is asked before each look."""
    left = wanted.limit
    async for entry in _entries(path, wanted, over):
        text = render(entry, wanted)
        yield text if left is None else text[:left]
        left = None if left is None else left - len(text)
        if left is not None and left <= 0:
            return


async def _entries(path: str, wanted: Options, over: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """What is there, the rotated file first, then what comes."""
    with ExitStack() as files:
        old, file = _open(files, f"{path}.1"), _open(files, path)
        for entry in tail((*_whole(old), *_whole(file)), wanted.tail):
            yield entry
        while wanted.follow:
            last = over()
            for entry in _whole(file):
                yield entry
            if file is None or _rotated(file, path):
                file = _open(files, path)
            elif last:
                return
            if file is None and last:
                return
            await asyncio.sleep(FOLLOW_SECONDS)


def _open(files: ExitStack, path: str) -> BinaryIO | None:
    return files.enter_context(open(path, "rb")) if os.path.exists(path) else None


def _whole(file: BinaryIO | None) -> Iterator[bytes]:
    """The entries that are complete; the start of another one is left for the next time."""
    for line in iter(file.readline, b"") if file else ():
        if not line.endswith(b"\n"):
            assert file
            file.seek(-len(line), os.SEEK_CUR)
            return
        yield line


def _rotated(file: BinaryIO, path: str) -> bool:
    return os.path.exists(path) and not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
