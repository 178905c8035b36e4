"""Kernel parameters, and what they were before us.

/proc/sys/net shows the namespace of the thread that opens it, so a pod's parameters are read and written by a thread
that is inside. A parameter of the node that is not one of our links' has no mark and no owner: its value before our
first change is kept in sysctl.json, which is the mark. Deleting such a parameter gives it that value back, unless
someone has changed ours since. The file is of one boot; a reboot undoes every change by itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

import msgspec

from podnet.kernel.files import load, store
from podnet.state.host import Sysctl
from podnet.state.plan import Step
from podnet.state.resource import LINK_PREFIX

ROOT = "/proc/sys"
_BOOT = "/proc/sys/kernel/random/boot_id"


class Changed(msgspec.Struct, frozen=True):
    """A parameter that we changed: what it was, what we made of it, and the link it belongs to."""

    before: str
    after: str
    dev: str = ""


class Memory(msgspec.Struct):
    """What sysctl.json holds."""

    boot: str
    changed: dict[str, Changed]


class Sysctls:
    """The parameters of one node. Its methods work in the namespace that the thread is in."""

    def __init__(self, state_dir: str) -> None:
        self._file = os.path.join(state_dir, "sysctl.json")
        boot = _read_file(_BOOT) or ""
        memory = load(self._file, Memory)
        self._memory = memory if memory is not None and memory.boot == boot else Memory(boot, {})

    def read(self, wanted: Iterable[Sysctl]) -> Iterator[Sysctl]:
        """The present values of these; a parameter that does not exist is left out."""
        for sysctl in wanted:
            value = value_of(sysctl.name)
            if value is not None:
                yield msgspec.structs.replace(sysctl, value=value)

    def remembered(self) -> list[Sysctl]:
        """The node's parameters that we changed."""
        return [Sysctl(name, changed.after, dev=changed.dev) for name, changed in self._memory.changed.items()]

    def apply(self, step: Step) -> None:
        """Set a parameter, or give it back. Raises OSError, FileNotFoundError when there is no such parameter."""
        sysctl = step.resource
        assert isinstance(sysctl, Sysctl)
        if step.verb == "delete":
            self._give_back(sysctl)
            return
        if not sysctl.netns and not sysctl.dev.startswith(LINK_PREFIX):
            self._remember(sysctl)
        _write(sysctl.name, sysctl.value)

    def _remember(self, sysctl: Sysctl) -> None:
        """Before the change, so that a crash in between only remembers too much."""
        present = value_of(sysctl.name)
        known = self._memory.changed.get(sysctl.name)
        if present is None or present == sysctl.value:
            return
        before = known.before if known else present
        self._memory.changed[sysctl.name] = Changed(before, sysctl.value, sysctl.dev)
        store(self._file, self._memory)

    def _give_back(self, sysctl: Sysctl) -> None:
        known = self._memory.changed.get(sysctl.name) if not sysctl.netns else None
        if known is None:
            return
        if value_of(sysctl.name) == known.after:
            _write(sysctl.name, known.before)
        del self._memory.changed[sysctl.name]
        store(self._file, self._memory)


def value_of(name: str) -> str | None:
    """A parameter by its path below /proc/sys, its words separated by one space; None when there is none."""
    text = _read_file(_path(name))
    return None if text is None else " ".join(text.split())


def _read_file(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _write(name: str, value: str) -> None:
    descriptor = os.open(_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _path(name: str) -> str:
    """A name stays below /proc/sys."""
    if ".." in name.split("/"):
        raise OSError(errno.EINVAL, f"{name} is not a kernel parameter")
    return f"{ROOT}/{name}"
