"""The ear: at once after a silence, in gulps during a storm, and nothing is left unheard."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import pairwise

from podnet.agent.ear import PAUSE, Ear
from podnet.kernel.monitor import Event, Monitor


class Pipe(Monitor):
    """A monitor that hears bytes."""

    def __init__(self) -> None:
        self.there, self.here = os.pipe()

    @property
    def filenos(self) -> tuple[int, ...]:
        return (self.there,)

    def read(self) -> list[Event]:
        return [("dirty", os.read(self.there, 4096).decode())]


def test_a_storm_is_heard_in_gulps() -> None:
    async def story() -> list[tuple[float, str]]:
        pipe, heard = Pipe(), list[tuple[float, str]]()
        Ear(pipe, lambda events: heard.extend((time.monotonic(), str(text)) for _, text in events))
        start = time.monotonic()
        written = 0
        while time.monotonic() < start + 5 * PAUSE:
            written += os.write(pipe.here, b".")
            await asyncio.sleep(PAUSE / 20)
        await asyncio.sleep(2 * PAUSE)
        os.write(pipe.here, b"!")
        await asyncio.sleep(PAUSE / 2)
        assert sum(text.count(".") for _, text in heard) == written
        assert heard[-1][1] == "!", "after a silence it is heard at once"
        return heard

    heard = asyncio.run(story())
    assert len(heard) <= 8
    times = [when for when, _ in heard]
    assert all(later - earlier >= PAUSE * 0.99 for earlier, later in pairwise(times))


def test_what_says_nothing_is_not_told() -> None:
    """Our own changes are heard too, and reading them gives no events: a pass for them would be for nothing."""

    class Ours(Pipe):
        def read(self) -> list[Event]:
            return [event for event in super().read() if event != ("dirty", "ours")]

    async def story() -> list[list[Event]]:
        pipe, heard = Ours(), list[list[Event]]()
        Ear(pipe, heard.append)
        for text in (b"ours", b"theirs"):
            os.write(pipe.here, text)
            await asyncio.sleep(2 * PAUSE)
        return heard

    assert asyncio.run(story()) == [[("dirty", "theirs")]]
