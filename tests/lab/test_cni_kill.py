"""kill -9 of the real agent, or of the plugin, in the midst of ADDs: DEL alone, or GC alone, leaves nothing behind."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cni_storm
from tests.lab.hands import needs_root
from tests.lab.runtimes import BIN, Machine

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.timeout(180)]
ROUNDS = 8


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def test_storm(machine: Machine) -> None:
    lab = machine.lab("--nodes", "1", "--no-demo", "--no-check")
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = machine.run(sys.executable, cni_storm.__file__, lab.folder, "1", str(ROUNDS), env=env).stdout
    rounds = [json.loads(line) for line in said.splitlines()]
    assert len(rounds) == ROUNDS
    for number, each in enumerate(rounds):
        assert (each["failed"], each["left"]) == ([], []), f"round {number}: {each}"
    assert {(each["victim"], each["by"]) for each in rounds} == {
        (a, b) for a in ("agent", "plugins") for b in ("GC", "DEL")
    }
    assert sum(each["recorded"] for each in rounds if each["victim"] == "agent"), "no agent died with a record written"
    ends: Counter[str] = sum((Counter(each["adds"]) for each in rounds), Counter())
    assert len(ends) > 1, f"every ADD ended alike, so nobody was killed in the midst of one: {ends}"
    assert machine.run(f"{BIN}/podnet", "ipam", "check").stdout == "every record agrees with what is there\n"
