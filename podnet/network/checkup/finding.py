"""A finding: what is wrong, why it matters, what to do."""

from __future__ import annotations

from typing import Literal

import msgspec

from podnet.network.value import Value

Severity = Literal["ok", "info", "warning", "error"]
RANK: dict[str, int] = {"error": 0, "warning": 1, "info": 2, "ok": 3}


class Finding(Value, frozen=True):
    """`fix` is a command or a sentence; `check` and `node` say who found it where, "" for all nodes together."""

    severity: Severity
    what: str
    why: str = ""
    fix: str = ""
    check: str = ""
    node: str = ""

    def at(self, check: str, node: str) -> Finding:
        """The same, with its place."""
        return msgspec.structs.replace(self, check=check, node=node)


def error(what: str, why: str, fix: str) -> Finding:
    """Pods can't reach what they should."""
    return Finding("error", what, why, fix)


def warning(what: str, why: str, fix: str) -> Finding:
    """It will break, or breaks for some."""
    return Finding("warning", what, why, fix)


def info(what: str, why: str, fix: str) -> Finding:
    """Good to know."""
    return Finding("info", what, why, fix)
