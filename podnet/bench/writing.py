"""Writing objects to an API server, many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import msgspec

from podnet.bench.figures import say
from podnet.client.api import Api
from podnet.objects.kinds import Kind
from podnet.objects.meta import Object

AT_ONCE = 64


def body(kind: Kind, made: Object) -> bytes:
    """What is sent of an object."""
    return msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.kind, **msgspec.to_builtins(made)})


async def create(api: Api, objects: Iterable[tuple[Kind, Object]], what: str) -> None:
    """Create all of them; `what` they are, for whoever waits."""
    left, done, start = iter(objects), 0, time.monotonic()

    async def some() -> None:
        nonlocal done
        for kind, made in left:
            await api.request("POST", kind.path(made.metadata.namespace), body=body(kind, made))
            done += 1
            if done % 500 == 0:
                say(f"{done:,} {what} made", again=True)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some())
    say(f"{done:,} {what} made in {time.monotonic() - start:.0f} s")
