"""kill -9 at any moment loses no acknowledged write: a process writes, says what was acknowledged, and is shot."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podnet.apiserver.database import Database
from podnet.apiserver.records import Key

WRITER = """
import asyncio, os, sys
from podnet.apiserver.database import Database
from podnet.apiserver.records import Key
from podnet.apiserver.store import Store
import podnet.apiserver.store as module

module.HISTORY_CHANGES = 200  # compact often

async def main():
    store = Store(Database(sys.argv[1]))
    async def writer(number):
        for count in range(10**9):
            name = f"{number}-{count % 7}"
            key = Key("pods", "default", name)
            record = await store.change(key, lambda _: {"metadata": {"name": name}, "count": count})
            os.write(1, f"{name} {count} {record.revision}\\n".encode())
    await asyncio.gather(*map(writer, range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("round_", range(3))
def test_acknowledged_writes_survive_a_kill(tmp_path: Path, round_: int) -> None:
    path = str(tmp_path / "test.db")
    acknowledged: dict[str, tuple[int, int]] = {}
    for _ in range(2):  # the second life writes on what the first left behind
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(random.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
            text = (first + process.stdout.read()).decode()
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                name, *numbers = line.split()
                acknowledged[name] = (int(numbers[0]), int(numbers[1]))
        database = Database(path)
        newest, objects, changes = database.load()
        for name, (count, revision) in acknowledged.items():
            record = objects[Key("pods", "default", name)]
            later = record.revision > revision
            assert later or (record.revision, record.document()["count"]) == (revision, count)
        assert acknowledged
        assert newest >= max(revision for _, revision in acknowledged.values())
        assert [change.revision for change in changes] == sorted({change.revision for change in changes})
