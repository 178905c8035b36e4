"""Which changes are our own, so that the monitor need not report them.

Of most changes the kernel tells which netlink socket asked for them. Of a deleted link it does not, and such a link
makes everything that might have been on it suspect; so the dataplane announces the links that it is about to remove.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from podnet.state.links import Link
from podnet.state.plan import Step

INSIDE = 0x50000000 | (os.getpid() & 0xFFFFFF)
"""The netlink port of our sockets in pods, which live too shortly to be asked. The kernel by itself gives process ids
and negative numbers."""


class Own:
    """Shared by a dataplane and a monitor of the same node. `port` functions tell the netlink port of a socket."""

    def __init__(self, *ports: Callable[[], int]) -> None:
        self._ports = ports
        self._removed: set[str] = set()

    def ports(self) -> frozenset[int]:
        """The netlink ports that our changes come from."""
        return frozenset((INSIDE, *(port() for port in self._ports))) - {0}

    def announce(self, steps: Iterable[Step]) -> None:
        """These steps are about to be carried out."""
        for step in steps:
            if isinstance(step.resource, Link):
                going = step.verb in ("delete", "replace")
                (self._removed.add if going else self._removed.discard)(step.resource.name)

    def removes(self, name: str, gone: bool) -> bool:
        """Whether it is we who remove this link, which goes down first and is then `gone`."""
        ours = name in self._removed
        if gone:
            self._removed.discard(name)
        return ours
