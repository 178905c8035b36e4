"""`podnet bench`: what needs no measuring."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from podnet.bench import arena
from podnet.bench.figures import Figure
from podnet.bench.suites import SUITES, load
from podnet.cli.bench import command
from podnet.cli.main import main
from podnet.errors import UserError


def test_list_names_every_suite() -> None:
    listed = CliRunner().invoke(command, ["--list"])
    assert listed.exit_code == 0
    named = [line.split()[0] for line in listed.output.splitlines()[1:]]
    assert named == list(SUITES) == ["cni", "path", "plan", "dns", "services"]


def test_list_as_json() -> None:
    listed = json.loads(CliRunner().invoke(command, ["--list", "-o", "json"]).output)
    assert [suite["suite"] for suite in listed["suites"]] == list(SUITES)


@pytest.mark.parametrize(("words", "said"), [([], "which suite? One or more of cni, path"), (["pathh"], "'pathh'")])
def test_a_wrong_suite_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="need root"):
        arena.enter()


def test_figures_are_printed_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Figure("plan", "a", 0.5, "ratio", 0.25, 0.75, 1 / 3, False),
        Figure("plan", "b", 0.97, "ratio", 0.9, 1.0, 0.95, True),
        Figure("plan", "c", 3.0, "ms", 2.0, 4.0),
    ]
    monkeypatch.setattr(arena, "enter", lambda: None)
    monkeypatch.setattr("podnet.cli.bench.load", lambda name: lambda: iter(made))
    printed = json.loads(CliRunner().invoke(command, ["plan", "plan", "-o", "json"]).stdout)
    assert list(printed) == ["figures"]
    assert [figure["name"] for figure in printed["figures"]] == ["a", "b", "c"]
    keys = ["suite", "name", "value", "unit", "low", "high", "goal", "met"]
    assert [list(figure) for figure in printed["figures"]] == [keys] * 3
    rows = [line.split("  ") for line in CliRunner().invoke(command, ["plan"]).stdout.splitlines()]
    goals = [[cell for cell in row if cell][-2:] for row in rows[1:]]
    assert [[cell.strip() for cell in goal] for goal in goals] == [
        ["at most 0.333333", "no"], ["at least 0.95", "yes"], ["-", "-"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_there(name: str) -> None:
    assert callable(load(name))
    assert (Path(__file__).parents[2] / "docs/bench.md").read_text().count(f"`{name}`") >= 1
