"""Sockets of another process, shared: pidfd_getfd(2) gives a copy of its descriptors, which is the same socket.

Whoever holds a copy keeps the socket open, and what is queued in it, after the process that made it has died.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Collection
from contextlib import suppress

_GETFD = 438
"""pidfd_getfd on every architecture (Linux 5.6)."""

_libc = ctypes.CDLL(None, use_errno=True)
_TYPES = {socket.SOCK_DGRAM: "udp", socket.SOCK_STREAM: "tcp"}


def sockets_of(pid: int, wanted: Collection[str]) -> dict[str, int]:
    """Copies of those sockets of a process at which it is asked, by "protocol/address/port"; the caller closes them.
    Fewer when it has not got all, none when it is gone."""
    found: dict[str, int] = {}
    with suppress(OSError):
        there = os.pidfd_open(pid)
        try:
            for number in _socket_numbers(pid):
                with suppress(OSError):
                    _take(found, _copy(there, number), wanted)
        finally:
            os.close(there)
    return found


def _socket_numbers(pid: int) -> list[int]:
    folder = f"/proc/{pid}/fd"
    return sorted(int(name) for name in os.listdir(folder) if _is_socket(f"{folder}/{name}"))


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:  # closed by now
        return False


def _copy(process: int, number: int) -> int:
    copy: int = _libc.syscall(_GETFD, process, number, 0)
    if copy < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"pidfd_getfd: {os.strerror(error)}")
    return copy


def _take(found: dict[str, int], copy: int, wanted: Collection[str]) -> None:
    with socket.socket(fileno=copy) as channel:
        name = _name(channel)
        if name in wanted and name not in found:
            found[name] = channel.detach()


def _name(channel: socket.socket) -> str:
    """ "" for what nobody asks at: a connection, a socket of another family."""
    if channel.family not in (socket.AF_INET, socket.AF_INET6) or channel.type not in _TYPES:
        return ""
    listens = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if channel.type == socket.SOCK_STREAM and not listens:
        return ""
    address, port = channel.getsockname()[:2]
    return f"{_TYPES[channel.type]}/{address}/{port}"
