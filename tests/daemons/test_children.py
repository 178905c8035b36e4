"""Real children: what they print, how they end, what they leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from podnet.daemons.children import Child
from tests.client.waiting import until


def sh(text: str, said: list[bytes]) -> Child:
    return Child(["sh", "-c", text], said.append)


def gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked how."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(("text", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", -9)])
async def test_how_it_ends(text: str, code: int) -> None:
    assert await sh(text, []).wait() == code


async def test_all_that_it_prints_is_heard_before_its_end() -> None:
    said: list[bytes] = []
    await sh("echo one; echo two >&2; head -c 300000 /dev/zero", said).wait()
    assert b"".join(said) == b"one\ntwo\n" + bytes(300000)


async def test_what_it_started_ends_with_it() -> None:
    said: list[bytes] = []
    assert await sh("sleep 600 & echo $!", said).wait() == 0
    await until(lambda: gone(int(b"".join(said))))


async def test_who_waits_no_longer_kills_it() -> None:
    said: list[bytes] = []
    child = sh("sleep 600 & echo $!; wait", said)
    await until(lambda: said)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await child.wait()
    assert await child.wait() == -signal.SIGKILL
    await until(lambda: gone(int(b"".join(said))))


async def test_signals_reach_it_while_it_runs() -> None:
    said: list[bytes] = []
    child = sh("sleep 600 & trap 'echo hup' HUP; echo ready; while :; do wait; done", said)
    await until(lambda: said == [b"ready\n"])
    child.signal(signal.SIGHUP)
    await until(lambda: b"".join(said) == b"ready\nhup\n")
    child.signal(signal.SIGTERM)
    assert await child.wait() == -signal.SIGTERM
    child.signal(signal.SIGTERM)
    child.kill()


async def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    await sh("true", []).wait()
    with pytest.raises(FileNotFoundError):
        Child(["/no/such/program"], bytearray().extend)
    assert len(os.listdir("/proc/self/fd")) == before
