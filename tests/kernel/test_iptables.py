"""The iptables edge without iptables: which kind is chosen, what is said when it fails, what fails with what."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from podnet.kernel import iptables
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.iptables import Iptables
from podnet.kernel.outcome import Outcome, Tally
from podnet.state.iptables import CANARY, OWNER, SERVICES, IptablesChain, jumps
from podnet.state.plan import Plan, plan
from podnet.state.resource import NodeState, state

RULE = "-j KUBE-SEP-SXIVWICOYRO3J4NJ"
SVC = IptablesChain("ip", "nat", "KUBE-SVC-XPGD46QRK7WJZT7O", (RULE,))
SEP = IptablesChain("ip", "nat", "KUBE-SEP-SXIVWICOYRO3J4NJ", ("-j RETURN",))
MARK = IptablesChain("ip", "nat", OWNER, ())
WHOLE = state(iter((SVC, SEP, MARK, *(IptablesChain("ip", table, CANARY, ()) for table in ("nat", "filter")))))
JUMP = next(jump for jump in jumps("ip") if jump.table == "nat")


class Programs(Iptables):
    """Programs of which what they print is given: `holds` by command, what is refused by a word in the input."""

    def __init__(self, holds: dict[str, str] | None = None, variants: Sequence[str] = iptables.VARIANTS) -> None:
        super().__init__("")
        self.holds = holds or {}
        self.variants = variants
        self.refused = ""
        self.answer = (2, "iptables-restore v1.8.9 (nf_tables): line 1 failed")
        self.calls: list[tuple[str, ...]] = []
        self.inputs: list[list[str]] = []

    @property
    def lines(self) -> list[str]:
        """All that was written since it was last forgotten."""
        return [line for lines in self.inputs for line in lines]

    def _installed(self, variant: str) -> bool:  # type: ignore[override]
        return variant in self.variants

    def _legacy_tables(self, family: str) -> list[str]:
        return ["nat", "filter", "mangle"]

    def _run(self, command: str, words: Sequence[str] = (), given: str = "") -> subprocess.CompletedProcess[str]:
        self.calls.append((command, *words))
        code, out, error = 0, self.holds.get(command, ""), ""
        if command.endswith("-restore"):
            self.inputs.append(given.splitlines())
            if self.refused and self.refused in given:
                code, error = self.answer
        elif not command.endswith("-save"):
            code = 0 if " ".join(words[words.index("-S") :]) in out else 1
        return subprocess.CompletedProcess((command, *words), code, out, error)


def apply(edge: Iptables, steps: Plan) -> Outcome:
    tally = Tally()
    edge.apply(steps.steps, tally)
    return tally.outcome()


def errors(outcome: Outcome) -> list[tuple[str, str]]:
    return [(error.resource.key[4], error.text) for error in outcome.failed]


# -- which kind

RULES = "*nat\n:OUTPUT - [0:0]\n" + "-A OUTPUT -j RETURN\n" * 3 + "COMMIT\n"
ONE = "*nat\n-A OUTPUT -j RETURN\nCOMMIT\n"
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"


@pytest.mark.parametrize(
    "holds, variants, chosen",
    [
        ({}, ("nft", "legacy"), "nft"),
        ({"iptables-legacy-save": RULES, "iptables-nft-save": ONE}, ("nft", "legacy"), "legacy"),
        ({"ip6tables-legacy-save": RULES}, ("nft", "legacy"), "legacy"),
        ({"iptables-legacy-save": RULES, "iptables-nft-save": RULES}, ("nft", "legacy"), "nft"),
        ({"iptables-legacy-save": RULES, "iptables-nft-save": HINT}, ("nft", "legacy"), "nft"),
        ({"iptables-nft-save": RULES, "iptables-legacy-save": HINT}, ("nft", "legacy"), "legacy"),
        ({"iptables-nft-save": RULES, "iptables-legacy": f"-S {OWNER}"}, ("nft", "legacy"), "legacy"),
        ({"iptables-legacy-save": RULES}, ("nft",), "nft"),
        ({}, ("legacy",), "legacy"),
        ({}, (), "nft"),
    ],
)
def test_which_kind(holds: dict[str, str], variants: tuple[str, ...], chosen: str) -> None:
    assert Programs(holds, variants).variant == chosen


def test_it_is_decided_once() -> None:
    edge = Programs()
    assert edge.variant == "nft"
    edge.holds = {"iptables-legacy-save": RULES}
    assert edge.variant == "nft"


def test_without_wishes_and_rules_nothing_is_listed() -> None:
    edge = Programs({"iptables-nft-save": RULES})
    assert list(edge.read(iptables.KINDS, {})) == []
    assert not any(call[0].endswith("-save") for call in edge.calls)


# -- writing


def test_one_restore_makes_everything_and_another_takes_away() -> None:
    edge = Programs()
    assert len(apply(edge, plan(WHOLE, {})).done) == len(WHOLE)
    [made] = edge.inputs
    assert made[:5] == [
        "*nat",
        f":{CANARY} - [0:0]",
        f":{SEP.name} - [0:0]",
        f":{SVC.name} - [0:0]",
        f":{OWNER} - [0:0]",
    ]
    assert made[-3:] == ["*filter", f":{CANARY} - [0:0]", "COMMIT"]
    edge.inputs.clear()
    assert len(apply(edge, plan({SVC.key: SVC}, WHOLE)).done) == len(WHOLE) - 1
    emptied, removed, last = edge.inputs
    assert f":{SEP.name} - [0:0]" in emptied
    assert not any(line.startswith("-X") for line in emptied)
    gone = [line for line in removed if line.startswith("-X")]
    assert sorted(gone) == [f"-X {CANARY}", f"-X {CANARY}", f"-X {SEP.name}"]
    assert [line for line in last if line.startswith("-X")] == [f"-X {OWNER}"]
    assert not any(SVC.name in line for line in (*emptied, *removed))


def test_every_restore_keeps_what_it_does_not_name() -> None:
    edge = Programs()
    apply(edge, plan(WHOLE, {}))
    restores = [call for call in edge.calls if call[0].endswith("-restore")]
    assert restores == [("iptables-nft-restore", "--noflush", "--counters", "-w", "5")]


def test_a_change_lists_nothing() -> None:
    edge = Programs()
    apply(edge, plan(WHOLE, {}))
    edge.calls.clear()
    apply(edge, plan(WHOLE | {SVC.key: IptablesChain("ip", "nat", SVC.name, ())}, WHOLE))
    assert [call[0] for call in edge.calls] == ["iptables-nft-restore"]


@pytest.mark.parametrize("present, inserted", [(0, True), (1, False), (2, False)])
def test_a_jump_is_there_once(present: int, inserted: bool) -> None:
    saved = f"*nat\n:{JUMP.chain} - [0:0]\n" + f"-A {JUMP.chain} {JUMP.rule}\n" * present
    edge = Programs({"iptables-nft-save": saved})
    assert apply(edge, plan({JUMP.key: JUMP}, {})).failed == ()
    assert (f"-I {JUMP.chain} {JUMP.rule}" in edge.lines) is inserted
    edge.inputs.clear()
    assert apply(edge, plan({}, {JUMP.key: JUMP})).failed == ()
    assert edge.lines.count(f"-D {JUMP.chain} {JUMP.rule}") == present


# -- failing


def test_what_is_refused_fails_together_in_its_family_and_names_the_line() -> None:
    edge = Programs()
    edge.refused, edge.answer = SVC.name, (2, "# Warning: legacy\niptables-restore v1.8.9: line 7 failed\nTry `-h'")
    six = IptablesChain("ip6", "mangle", CANARY, ())
    outcome = apply(edge, plan(WHOLE | {six.key: six}, {}))
    assert [step.resource for step in outcome.done] == [six]
    assert len(outcome.failed) == len(WHOLE)
    assert {text for _, text in errors(outcome)} == {f"iptables-restore v1.8.9: line 7 failed: -A {SVC.name} {RULE}"}
    assert len(edge.inputs) == 2, "and nothing is tried in parts"


@pytest.mark.parametrize(
    "answer, number",
    [
        ((4, "Another app is currently holding the xtables lock."), errno.EBUSY),
        ((4, "line 4: RULE_APPEND failed (No such file or directory)"), errno.EBUSY),
        ((1, "line 4: RULE_APPEND failed (No such file or directory)"), errno.ENOENT),
        ((3, "Permission denied (you must be root)"), errno.EINVAL),
        ((1, "line 4000: what"), errno.EINVAL),
        ((1, ""), errno.EINVAL),
    ],
)
def test_errors(answer: tuple[int, str], number: int) -> None:
    edge = Programs()
    edge.refused, edge.answer = "*nat", answer
    outcome = apply(edge, plan({SVC.key: SVC}, {}))
    assert [error.errno for error in outcome.failed] == [number]


def test_one_that_can_not_go_holds_up_only_the_mark() -> None:
    edge = Programs()
    edge.refused, edge.answer = f"-X {SEP.name}", (4, "Device or resource busy")
    outcome = apply(edge, plan({}, WHOLE))
    assert errors(outcome) == [(SEP.name, "Device or resource busy"), (OWNER, "it marks what could not be deleted")]
    assert len(outcome.done) == len(WHOLE) - 2


def test_what_somebody_else_leads_to_is_left_when_all_of_ours_goes() -> None:
    edge = Programs({"iptables-nft-save": f"*nat\n-A OUTPUT -d 8.8.8.8/32 -j {SEP.name}\nCOMMIT\n"})
    edge.refused, edge.answer = f"-X {SEP.name}", (1, "iptables-restore: line 3 failed")
    assert apply(edge, plan({}, WHOLE)).failed == ()
    assert f"-X {OWNER}" in edge.inputs[-1]
    part = apply(edge, plan({MARK.key: MARK}, WHOLE))
    assert [name for name, _ in errors(part)] == [SEP.name], "ours stay, so it is still ours"


@pytest.mark.parametrize(
    "holds, found",
    [
        ({}, ()),
        ({"iptables-nft": f"-S {SERVICES}\n-S {SERVICES} 1\n-A"}, ("the iptables-nft chain ip nat KUBE-SERVICES",)),
        ({"ip6tables-legacy": f"-S {SERVICES} 1\n-A"}, ("the iptables-legacy chain ip6 nat KUBE-SERVICES",)),
        ({"iptables-nft": f"-S {SERVICES} 1\n"}, ()),
        ({"iptables-nft": f"-S {OWNER}\n-S {SERVICES} 1\n-A"}, ()),
    ],
    ids=["nothing", "nft", "legacy", "without rules", "ours"],
)
def test_another_kube_proxy(holds: dict[str, str], found: tuple[str, ...]) -> None:
    assert Programs(holds).others() == found


def test_what_can_not_be_asked_is_not_taken_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Programs()
    monkeypatch.setattr(edge, "_run", lambda *words: subprocess.CompletedProcess(words, 4, "", "xtables lock is held"))
    with pytest.raises(OSError, match="iptables-nft: xtables lock is held"):
        edge.others()


def test_nothing_is_taken_away_when_making_fails() -> None:
    edge = Programs()
    edge.refused = SVC.name
    new = IptablesChain("ip", "nat", SVC.name, ())
    outcome = apply(edge, plan({new.key: new}, WHOLE))
    assert outcome.done == ()
    assert not any(line.startswith("-X") for line in edge.lines)


def test_a_listing_that_fails_is_no_empty_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Programs()
    assert edge.variant
    monkeypatch.setattr(
        edge, "_run", lambda *words: subprocess.CompletedProcess(words, 4, "", "Fatal: can't open lock file")
    )
    with pytest.raises(OSError, match="iptables-nft-save: Fatal: can't open lock file"):
        list(edge.read(iptables.KINDS, WHOLE))
    outcome = apply(edge, plan({JUMP.key: JUMP}, {}))
    assert "lock file" in outcome.failed[0].text


# -- the real way to start programs, with others in their place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(iptables, "_PATH", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    os.chmod(folder / name, 0o755)


def test_not_installed(folder: Path) -> None:
    edge = Iptables("")
    assert list(edge.read(iptables.KINDS, WHOLE)) == []
    assert not edge.intact(WHOLE)
    outcome = apply(edge, plan({SVC.key: SVC}, {}))
    assert errors(outcome) == [(SVC.name, "there is no iptables-nft-restore: install the package iptables")]
    assert outcome.failed[0].errno == errno.ENOENT


def test_input_and_output_go_through(folder: Path) -> None:
    put(folder, "iptables-nft-restore", f"/bin/cat >{folder}/given")
    put(folder, "iptables-nft", "exit 1")
    put(folder, "ip6tables-nft", "exit 1")
    put(folder, "iptables-nft-save", f"printf '*nat\\n:{SVC.name} - [0:0]\\n-A {SVC.name} -j \\377\\nCOMMIT\\n'")
    edge = Iptables("")
    assert apply(edge, plan({SVC.key: SVC}, {})).failed == ()
    assert (folder / "given").read_text().endswith(f"-A {SVC.name} {RULE}\nCOMMIT\n")
    [found] = edge.read(iptables.KINDS, {SVC.key: SVC})
    assert found == IptablesChain("ip", "nat", SVC.name, ("-j �",))


def test_a_program_that_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "_LONGEST", 0.5)
    for family in ("iptables", "ip6tables"):
        put(folder, f"{family}-nft", "exit 1")
        put(folder, f"{family}-nft-restore", "exec /bin/sleep 20")
    outcome = apply(Iptables(""), plan({SVC.key: SVC}, {}))
    assert [error.errno for error in outcome.failed] == [errno.ETIMEDOUT]


# -- in memory


def test_the_kernel_in_memory_keeps_chains_and_jumps() -> None:
    plane = FakeDataplane()
    desired: NodeState = WHOLE | {JUMP.key: JUMP}
    assert plane.apply(plan(desired, {})).failed == ()
    assert plane.read({}, iptables.KINDS) == desired
    assert plane.apply(plan({}, desired)).failed == ()
    assert plane.read({}) == {}
