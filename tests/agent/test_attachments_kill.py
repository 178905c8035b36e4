"""kill -9 at random moments: nothing acknowledged is lost, nothing released comes back, no address is given twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from podnet.agent.attachments import Attachments
from tests.agent import churn

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
ROUNDS = 12


def run_until_killed(state_dir: Path, seed: str, lines: int, seconds: float) -> list[list[str]]:
    """What the program said in its life, which ends a moment after so many lines."""
    command = [sys.executable, churn.__file__, str(state_dir), seed]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        said = b"".join(process.stdout.readline() for _ in range(lines))
        time.sleep(seconds)
        process.kill()
        said += process.stdout.read()
    assert process.wait(10) == -9
    whole = said[: said.rfind(b"\n") + 1]
    return [line.split() for line in whole.decode().splitlines()]


async def records(state_dir: Path) -> dict[str, tuple[str, ...]]:
    store = await Attachments.open(str(state_dir), "boot", lambda netns: True)
    assert store.report == ()
    found = {record.container_id: record.addresses for record in store.all()}
    await store.close()
    return found


def test_kills(tmp_path: Path) -> None:
    chance = random.Random(3)
    certain: dict[str, tuple[str, ...]] = {}
    for turn in range(ROUNDS):
        said = run_until_killed(tmp_path, str(turn), chance.randrange(150), chance.uniform(0, 0.003))
        unsure = {words[1] for words in said if words[0] == "?"}
        gone = {words[1] for words in said if words[0] == "-"}
        certain |= {words[1]: tuple(words[2:]) for words in said if words[0] == "+"}
        found = asyncio.run(records(tmp_path))

        for name, addresses in certain.items():
            if name not in unsure:
                assert found.get(name) == addresses, f"round {turn}: {name} was acknowledged and is lost"
        assert gone.isdisjoint(found), f"round {turn}: a released attachment is back"
        given = Counter(address for addresses in found.values() for address in addresses)
        assert not [address for address, times in given.items() if times > 1]
        # Besides what it told, each worker may have been in the middle of one ADD.
        assert len(found.keys() - certain.keys()) <= churn.WORKERS
        certain = found
