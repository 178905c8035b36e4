"""iptables through its own programs: one iptables-restore a family makes what is wanted, another takes away.

There are two kinds of iptables, which do not see each other's rules: iptables-nft and iptables-legacy. We use the one
that the machine uses already, and stay with it. What changed is written in one go, whole chains at a time, and either
all of a table's changes are made or none. Chains that go are emptied together with that and removed after it, when
nothing leads to them; one that a stranger's rule still leads to stays, and holds up no other. When all of ours goes, it
is left to that stranger, without our rules and our mark.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from shutil import which

from podnet.kernel.netns import inside
from podnet.kernel.outcome import Outcome, Tally
from podnet.state.iptables import (
    CANARY,
    FAMILIES,
    JUMPS,
    KUBELET_CANARY,
    OWNER,
    SERVICES,
    TABLES,
    IptablesChain,
    IptablesJump,
    jumps,
    named,
    of_the_kubelet,
)
from podnet.state.plan import Step
from podnet.state.resource import Key, NodeState, Resource
from podnet.wire import iptables
from podnet.wire.netlink import Failure

KINDS = frozenset({"IptablesChain", "IptablesJump"})
VARIANTS = ("nft", "legacy")

_COMMANDS = {"ip": "iptables", "ip6": "ip6tables"}
_LEGACY_TABLES = {"ip": "/proc/thread-self/net/ip_tables_names", "ip6": "/proc/thread-self/net/ip6_tables_names"}
_HINTS = {("mangle", "KUBE-IPTABLES-HINT"), ("mangle", KUBELET_CANARY)}
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LOCK = ("-w", "5")
_LOCKED = 4
_ABSENT = 1
_LONGEST = 120.0
_LINE = re.compile(r"\bline:? (\d+)")
_LEADS = re.compile(r"(?:^| )-[jg] (\S+)")


class Iptables:
    """kube-proxy's chains in one namespace."""

    def __init__(self, netns: str, variant: str = "") -> None:
        """`variant` is the one to use when nothing of ours stands yet; "" means that of the machine."""
        self._netns = netns
        self._wish = variant
        self._chosen = ""
        self._alike: dict[Key, tuple[tuple[str, ...], int]] = {}

    @property
    def variant(self) -> str:
        """nft or legacy, decided once: where our rules stand, else as wished, else what this machine uses."""
        if not self._found():
            self._chosen = self._wish or self._usual()
        return self._chosen

    def _found(self) -> bool:
        """Whether it is decided, or our rules stand somewhere, which decides it."""
        self._chosen = self._chosen or next(filter(self._owns, VARIANTS), "")
        return bool(self._chosen)

    # -- reading

    def read(self, kinds: frozenset[str], desired: NodeState) -> Iterator[Resource]:
        """What is ours, or stands where something is wanted; nothing when there is no iptables. Raises OSError."""
        wanted = {key[2] for key in desired if key[0] in KINDS}
        for family in FAMILIES if wanted or self._found() else ():
            if self._installed(self.variant) and (family in wanted or self._owner(self.variant, family)):
                chains = iptables.parse(self._save(self.variant, family))
                yield from (found for found in self._resources(family, chains, desired) if found.kind in kinds)
        if wanted:
            self._alike = {key: known for key, known in self._alike.items() if key in desired}

    def _resources(self, family: str, chains: iptables.Chains, desired: NodeState) -> Iterator[Resource]:
        """What is ours of what was saved; rules that are as wished are reported in the wish's words."""
        with_kubelet = any(name == KUBELET_CANARY for _, name in chains)
        for found in (*_chains(family, chains), *_jumps(family, chains)):
            wish = desired.get(found.key)
            if isinstance(wish, IptablesChain) and isinstance(found, IptablesChain):
                yield wish if self._fulfilled(wish, found) else found
            elif wish is not None or not with_kubelet or not of_the_kubelet(found):
                yield found

    def _fulfilled(self, wish: IptablesChain, found: IptablesChain) -> bool:
        """Comparing words takes long, so what was found to be alike is remembered, by a hash of what was printed."""
        wanted, printed = wish.rules or (), found.rules or ()
        known, seen = self._alike.get(wish.key), hash(printed)
        if known is not None and known[0] is wanted and known[1] == seen:
            return True
        alike = iptables.same(wanted, printed)
        if alike:
            self._alike[wish.key] = (wanted, seen)
        return alike

    def intact(self, desired: NodeState) -> bool:
        """Whether every canary that is wanted is there; cheap, for a look now and then. If not, all is to be read."""
        wanted = [key for key in desired if key[0] == "IptablesChain" and key[4] == CANARY]
        return all(self._stands(self.variant, family, table, CANARY) for _, _, family, table, _ in wanted)

    def others(self) -> tuple[str, ...]:
        """The chains in which another kube-proxy's rules stand, of both variants and families. Raises OSError."""
        return tuple(
            f"the iptables-{variant} chain {family} nat {SERVICES}"
            for variant in VARIANTS
            for family in FAMILIES
            if self._listed(variant, family, "nat", OWNER) is None
            and "-A" in (self._listed(variant, family, "nat", SERVICES, "1") or "")
        )

    def _owns(self, variant: str) -> bool:
        return any(self._owner(variant, family) for family in FAMILIES)

    def _owner(self, variant: str, family: str) -> bool:
        return self._stands(variant, family, "nat", OWNER)

    def _stands(self, variant: str, family: str, table: str, chain: str) -> bool:
        return self._asked(variant, family, table, chain).returncode == 0

    def _listed(self, variant: str, family: str, table: str, chain: str, *number: str) -> str | None:
        """A chain, or its rule of that number, in iptables' words; None when there is no such chain. Raises OSError."""
        done = self._asked(variant, family, table, chain, *number)
        if done.returncode > _ABSENT:
            raise OSError(errno.EIO, f"{_COMMANDS[family]}-{variant}: {_words(done.stderr)}")
        return None if done.returncode else done.stdout

    def _asked(
        self, variant: str, family: str, table: str, chain: str, *number: str
    ) -> subprocess.CompletedProcess[str]:
        """Asks about one chain. A table that legacy has not yet must not be named, or it would be made."""
        if not self._installed(variant) or (variant == "legacy" and table not in self._legacy_tables(family)):
            return subprocess.CompletedProcess((), _ABSENT, "", "")
        return self._run(f"{_COMMANDS[family]}-{variant}", (*_LOCK, "-t", table, "-S", chain, *number))

    def _legacy_tables(self, family: str) -> list[str]:
        with inside(self._netns):
            try:
                with open(_LEGACY_TABLES[family], encoding="ascii") as file:
                    return file.read().split()
            except OSError:
                return []

    def _usual(self) -> str:
        """As the packaged iptables of Kubernetes images decides: the kubelet's, else the one with more rules."""
        if not self._installed("legacy"):
            return "nft"
        found = {variant: [iptables.parse(self._save(variant, family)) for family in FAMILIES] for variant in VARIANTS}
        for variant, families in found.items():
            if any(not _HINTS.isdisjoint(chains) for chains in families):
                return variant
        rules = {
            variant: sum(len(rules) for chains in families for rules in chains.values())
            for variant, families in found.items()
        }
        return "legacy" if rules["legacy"] > rules["nft"] or not self._installed("nft") else "nft"

    @staticmethod
    def _installed(variant: str) -> bool:
        return which(f"iptables-{variant}-restore", path=_PATH) is not None

    def _save(self, variant: str, family: str) -> str:
        """All tables that there are."""
        if not self._installed(variant) or (variant == "legacy" and not self._legacy_tables(family)):
            return ""
        command = f"{_COMMANDS[family]}-{variant}-save"
        done = self._run(command)
        if done.returncode:
            raise OSError(errno.EIO, f"{command}: {_words(done.stderr)}")
        return done.stdout

    # -- writing

    def apply(self, steps: Iterable[Step], tally: Tally) -> None:
        """Carry out these steps; those of a family are made together or fail together, with iptables' reason."""
        steps = tuple(steps)
        for family in FAMILIES:
            mine = [step for step in steps if step.resource.key[2] == family]
            if mine:
                self._apply(family, mine, tally)

    def _apply(self, family: str, steps: Sequence[Step], tally: Tally) -> None:
        failure = self._restore(family, partial(self._made, family, steps))
        if failure is not None:
            for step in steps:
                tally.fail(step, failure)
            return
        for step in steps:
            if not _goes(step):
                tally.succeed(step)
        self._take_away(family, [step for step in steps if _goes(step)], tally)

    def _made(self, family: str, steps: Sequence[Step]) -> Iterator[str]:
        """Chains as they should be, those that go emptied, and the jumps; what is there already is looked at only when
        something depends on it."""
        careful = any(isinstance(step.resource, IptablesJump) or _unmanaged(step) for step in steps)
        present = iptables.parse(self._save(self.variant, family)) if careful else {}
        for table in TABLES:
            chains: dict[str, tuple[str, ...]] = {}
            commands: list[str] = []
            for step in sorted(steps, key=_place):
                match step.resource:
                    case IptablesChain(table=place) as chain if place == table:
                        if not _unmanaged(step) or (table, chain.name) not in present:
                            chains[chain.name] = () if step.verb == "delete" else chain.rules or ()
                    case IptablesJump(table=place) as jump if place == table:
                        commands += _jump(step.verb, jump, present.get((table, jump.chain), []))
            if chains or commands:
                yield from iptables.write(table, chains, commands)

    def _take_away(self, family: str, steps: Sequence[Step], tally: Tally) -> None:
        """Our mark goes last, and only when all else did, but for what somebody else has taken into use by then."""
        marks = [step for step in steps if step.resource.key[4] == OWNER]
        attempt = Tally()
        self._delete(family, [step for step in steps if step not in marks], attempt)
        outcome = attempt.outcome()
        if outcome.failed and marks:
            outcome = self._left(family, outcome)
        tally.take(outcome)
        for step in marks:
            if outcome.failed:
                tally.fail(step, Failure(errno.EBUSY, "it marks what could not be deleted"))
            else:
                self._delete(family, [step], tally)

    def _left(self, family: str, outcome: Outcome) -> Outcome:
        """With chains that others' rules lead to counted as done: they are empty, and no longer ours."""
        try:
            chains = iptables.parse(self._save(self.variant, family))
        except OSError:
            return outcome
        used = {(table, to) for (table, _), rules in chains.items() for rule in rules for to in _LEADS.findall(rule)}
        left = [error for error in outcome.failed if error.resource.key[3:5] in used]
        done = (*outcome.done, *(Step("delete", error.resource) for error in left))
        return Outcome(done, tuple(error for error in outcome.failed if error not in left))

    def _delete(self, family: str, steps: Sequence[Step], tally: Tally) -> None:
        """All at once; when that is refused, in halves, until it is known which can't go."""
        failure = self._restore(family, lambda: _deleted(steps)) if steps else None
        if failure is not None and len(steps) > 1:
            half = len(steps) // 2
            self._delete(family, steps[:half], tally)
            self._delete(family, steps[half:], tally)
            return
        for step in steps:
            if failure is None:
                tally.succeed(step)
            else:
                tally.fail(step, failure)

    def _restore(self, family: str, write: Callable[[], Iterator[str]]) -> Failure | None:
        """Why it could not be done; None when it is."""
        try:
            lines = list(write())
            command = f"{_COMMANDS[family]}-{self.variant}-restore"
            done = self._run(command, ("--noflush", "--counters", *_LOCK), "\n".join((*lines, "")))
        except OSError as error:
            return Failure(error.errno or errno.EIO, error.strerror or str(error))
        return _failure(done, lines) if done.returncode else None

    def _run(self, command: str, words: Sequence[str] = (), given: str = "") -> subprocess.CompletedProcess[str]:
        """Raises FileNotFoundError when it is not installed, OSError."""
        program = which(command, path=_PATH)
        if program is None:
            raise FileNotFoundError(errno.ENOENT, f"there is no {command}: install the package iptables")
        with inside(self._netns):
            try:
                return subprocess.run(
                    (program, *words),
                    input=given,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    check=False,
                    timeout=_LONGEST,
                )
            except subprocess.TimeoutExpired:
                raise TimeoutError(errno.ETIMEDOUT, f"{command} did not end") from None


def _chains(family: str, chains: iptables.Chains) -> Iterator[Resource]:
    for (table, name), rules in chains.items():
        if named(table, name):
            yield IptablesChain(family, table, name, tuple(rules))


def _jumps(family: str, chains: iptables.Chains) -> Iterator[Resource]:
    for jump in jumps(family):
        rules = chains.get((jump.table, jump.chain), ())
        if any(iptables.same((rule,), (jump.rule,)) for rule in rules):
            yield jump


def _goes(step: Step) -> bool:
    return step.verb == "delete" and isinstance(step.resource, IptablesChain)


def _unmanaged(step: Step) -> bool:
    """A chain that only has to be there: it must not be emptied."""
    return step.verb != "delete" and isinstance(step.resource, IptablesChain) and step.resource.rules is None


def _place(step: Step) -> tuple[int, tuple[str, ...]]:
    key = step.resource.key
    return (JUMPS.index((key[3], key[4], key[5])) if key[0] == "IptablesJump" and key[3:] in JUMPS else 0, key)


def _jump(verb: str, jump: IptablesJump, present: Sequence[str]) -> Iterator[str]:
    """There it is to be once, or not at all."""
    times = sum(iptables.same((rule,), (jump.rule,)) for rule in present)
    if verb == "delete":
        yield from [f"-D {jump.chain} {jump.rule}"] * times
    elif not times:
        yield f"-I {jump.chain} {jump.rule}"


def _deleted(steps: Sequence[Step]) -> Iterator[str]:
    """Naming a chain makes it, so that deleting it can't fail because it is not there."""
    for table in TABLES:
        names = [step.resource.key[4] for step in steps if step.resource.key[3] == table]
        if names:
            yield from iptables.write(table, dict.fromkeys(names, ()), (f"-X {name}" for name in names))


def _failure(done: subprocess.CompletedProcess[str], lines: Sequence[str]) -> Failure:
    """The reason in iptables' words, with the line that it is about."""
    words = _words(done.stderr)
    found = _LINE.search(words)
    if found and 0 < int(found[1]) <= len(lines):
        words = f"{words}: {lines[int(found[1]) - 1]}"
    if done.returncode == _LOCKED:
        return Failure(errno.EBUSY, words)
    for number in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EOPNOTSUPP, errno.EPERM, errno.ENOMEM):
        if os.strerror(number) in words:
            return Failure(number, words)
    return Failure(errno.EINVAL, words)


def _words(stderr: str) -> str:
    """Without warnings and advice."""
    lines = [line for line in stderr.splitlines() if not line.startswith(("#", "Warning", "Try "))]
    return " ".join(" ".join(lines).split())
