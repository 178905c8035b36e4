"""What became of a plan: each step is done, failed with a reason, or held back until what it stands on is there."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from podnet.state.plan import Step
from podnet.state.resource import Resource
from podnet.state.text import describe
from podnet.wire.netlink import Failure


class ApplyError(Exception):
    """The kernel refused a step: which resource, which verb, the errno, and the kernel's own words if it had any."""

    def __init__(self, resource: Resource, verb: str, errno: int, text: str = "") -> None:
        super().__init__(resource, verb, errno, text)
        self.resource = resource
        self.verb = verb
        self.errno = errno
        self.text = text

    def __str__(self) -> str:
        what = describe(self.resource).partition("\n")[0].removesuffix(" {")
        why = os.strerror(self.errno)
        return f"cannot {self.verb} {what}: {why}{f' ({self.text})' if self.text else ''}"


def summed(failed: Iterable[ApplyError]) -> list[str]:
    """A sentence for each kind of refusal: a table that can't be had refuses each of its 50,000 elements."""
    groups: dict[object, list[ApplyError]] = {}
    for error in failed:
        groups.setdefault((error.resource.kind, error.verb, error.errno, error.text), []).append(error)
    return [
        f"{some[0]}" + (f" (and {len(some) - 1:,} more of kind {some[0].resource.kind})" if len(some) > 1 else "")
        for some in groups.values()
    ]


class Outcome(msgspec.Struct, frozen=True):
    """`held` steps wait for a link or namespace that is not there; everything else of the plan was tried."""

    done: tuple[Step, ...] = ()
    failed: tuple[ApplyError, ...] = ()
    held: tuple[Step, ...] = ()


class Tally:
    """Collects an Outcome, step by step."""

    def __init__(self) -> None:
        self._done: list[Step] = []
        self._failed: list[ApplyError] = []
        self._held: list[Step] = []

    def succeed(self, step: Step) -> None:
        """The kernel holds it now."""
        self._done.append(step)

    def fail(self, step: Step, why: Failure) -> None:
        """The kernel refused it."""
        self._failed.append(ApplyError(step.resource, step.verb, why.errno, why.text))

    def absent(self, step: Step) -> None:
        """The link or namespace it belongs to is not there: then deleting it is done, making it has to wait."""
        (self._done if step.verb == "delete" else self._held).append(step)

    def take(self, other: Outcome) -> None:
        """What became of steps that someone else carried out."""
        self._done += other.done
        self._failed += other.failed
        self._held += other.held

    def outcome(self) -> Outcome:
        """All of it."""
        return Outcome(tuple(self._done), tuple(self._failed), tuple(self._held))
