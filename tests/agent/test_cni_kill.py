"""kill -9 of the agent at random moments of ADD and DEL: then DEL alone, or GC alone, leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podnet.agent.attachments import Attachments
from podnet.cni.errors import Code
from tests.agent import lifeless
from tests.agent.fakes import Answer
from tests.cni.calls import frame

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
ROUNDS = 10


def run_until_killed(folder: Path, seed: int, answers: int, seconds: float) -> None:
    """Let it answer some calls, and then live for a moment more."""
    command = [sys.executable, lifeless.__file__, str(folder), str(seed)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(answers):
            assert process.stdout.readline() == b"answered\n"
        time.sleep(seconds)
        process.kill()
        assert process.wait(10) == -9


async def clean_up(folder: Path, gc_alone: bool) -> None:
    server = await lifeless.serve(str(folder))
    store: Attachments = server._store
    await asyncio.gather(*map(server._finish_later, store.ended))  # as start() does
    told = {f"{record.container_id}-{record.addresses[0].partition('/')[0]}" for record in store.all()}
    assert set(os.listdir(folder / "kernel")) <= told, "the kernel holds what no record tells"
    if gc_alone:
        await server.answer(frame({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}, COMMAND="GC"))
    else:
        for name in lifeless.NAMES * 2:
            answer = await server.answer(frame(COMMAND="DEL", CONTAINERID=name, NETNS=None))
            assert answer == b"\0"
    assert os.listdir(folder / "kernel") == []
    assert store.all() == ()
    added = [await server.answer(frame(CONTAINERID=f"n{n}", NETNS=f"/run/netns/n{n}")) for n in range(30)]
    assert [Answer(each[0], each[1:]).code for each in added] == [0] * 29 + [Code.EXHAUSTED]
    await server.answer(frame({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}, COMMAND="GC"))
    await server.close()
    await store.close()


def test_kills(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    chance = random.Random(5)
    busy = 0
    for turn in range(ROUNDS):
        run_until_killed(tmp_path, turn, chance.randrange(100), chance.uniform(0, 0.003))
        busy += bool(os.listdir(tmp_path / "kernel"))
        asyncio.run(clean_up(tmp_path, gc_alone=turn % 2 == 0))
    assert busy > ROUNDS / 2, "the kills came before anything was done"
