"""A place to measure in, which the machine does not notice and which nothing survives.

`enter` forks. The child is the first process of a PID namespace and has a mount and a network namespace of its own, a
fresh /proc and an empty /run, and goes on with the caller's program; the parent waits and ends as the child does. All
that is made in there (nodes, pods, mounts, sockets, processes) goes with the child, by the kernel's hand: when it is
done, and just so when it or its parent is killed. So there is nothing to sweep.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

from podnet.errors import UserError

_NEWNS, _NEWPID, _NEWNET = 0x20000, 0x20000000, 0x40000000
_PRIVATE = 0x4000 | 1 << 18
_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

NETNS = "/run/netns"
"""Where namespaces get their names, as with `ip netns`."""


def enter() -> None:
    """Go on in the arena; returns only there. Raises UserError without root."""
    if os.geteuid() != 0:
        raise UserError("benches make network namespaces of their own and need root: run this as root or with sudo")
    sys.stdout.flush()
    _check("unshare", _libc.unshare(_NEWNS | _NEWPID | _NEWNET))
    child = os.fork()
    if child:
        os._exit(_wait(child))
    _check("prctl", _libc.prctl(_PDEATHSIG, signal.SIGKILL))
    _furnish()


def _wait(child: int) -> int:
    while True:
        with suppress(KeyboardInterrupt):  # the child got it too, and ends
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


def _furnish() -> None:
    _mount(b"none", b"/", None, _PRIVATE)
    _mount(b"proc", b"/proc", b"proc")
    _mount(b"tmpfs", b"/run", b"tmpfs")
    os.mkdir(NETNS)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int = 0) -> None:
    _check(f"mount {target.decode()}", _libc.mount(source, target, kind, flags, None))


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
