"""kill -9 at random moments: nothing acknowledged is lost, nothing released comes back, no address is given twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from podnet.agent.attachments import Attachments
from tests.agent import churn

ROUNDS = 12


def run_until_killed(state_dir: Path, seed: str, seconds: float) -> list[list[str]]:
    """What the program said in its life of some seconds, from the moment it was ready."""
    process = subprocess.Popen(
        [sys.executable, churn.__file__, str(state_dir), seed], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    time.sleep(seconds)
    process.kill()
    said = process.stdout.read()
    process.stdout.close()
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
    acknowledged = 0
    for turn in range(ROUNDS):
        said = run_until_killed(tmp_path, str(turn), chance.uniform(0.01, 0.12))
        acknowledged += len(said)
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
    assert acknowledged > 20 * ROUNDS
