"""Network namespaces, entered by a thread.

setns(2) changes only the calling thread, so no child process is needed to work in a pod's namespace: a thread goes
there, opens a socket, and comes back; the socket stays bound to the namespace it was made in. Python 3.11 has no
setns, so libc is called through ctypes.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HERE = "/proc/thread-self/ns/net"
"""The namespace of the calling thread. (/proc/self is the main thread's.)"""

_NEWNET = 0x40000000
_BIND, _DETACH = 0x1000, 0x2
_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespace(Exception):
    """There is no network namespace at that path, or not any more."""


def open_namespace(path: str) -> int:
    """A file descriptor of the namespace at `path`, which the caller closes. Raises NoNamespace."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise NoNamespace(path) from error


@contextmanager
def inside(path: str) -> Iterator[None]:
    """Run the block with the calling thread in the namespace at `path` ("": where it is). Raises NoNamespace.

    The block must not await, and no other thread notices.
    """
    if not path:
        yield
        return
    home = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(path)
        try:
            yield
        finally:
            _setns(home)  # when this fails the thread must not go on, so the error is left to fly
    finally:
        os.close(home)


def _enter(path: str) -> None:
    target = open_namespace(path)
    try:
        _setns(target)
    except OSError as error:
        # A name whose mount is gone is an ordinary file.
        raise NoNamespace(path) if error.errno == 22 else error from error
    finally:
        os.close(target)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _NEWNET) != 0:
        raise _error("setns")


def socket_in(path: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in the namespace at `path` ("": the thread's own). Raises NoNamespace."""
    with inside(path):
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)


def create(path: str) -> None:
    """Make a namespace and name it by a bind mount, as `ip netns add` does. Raises FileExistsError."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        with fresh():
            _bind(HERE, path)
    except BaseException:
        os.unlink(path)
        raise


@contextmanager
def fresh() -> Iterator[None]:
    """Run the block with the calling thread in a new namespace, which goes with its last user."""
    home = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_NEWNET) != 0:
            raise _error("unshare")
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def remove(path: str) -> None:
    """Take the name from a namespace; it goes when nothing else uses it. A missing one is no error."""
    _libc.umount2(path.encode(), _DETACH)
    with suppress(FileNotFoundError):
        os.unlink(path)


def _bind(source: str, target: str) -> None:
    if _libc.mount(source.encode(), target.encode(), None, _BIND, None) != 0:
        raise _error(f"bind mount on {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
