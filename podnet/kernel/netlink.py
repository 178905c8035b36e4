"""A netlink socket that writes in bulk and reads whole dumps.

Writing: many requests go out in one send, and only the last asks for an acknowledgement. The kernel works through
them in order and reports errors whether asked or not, so silence up to that last answer means that all the others
were done, and an error's sequence number says which request it is about.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Self

from podnet.kernel.netns import socket_in
from podnet.wire.netlink import ACK, DONE, DUMP_INTERRUPTED, ERROR, Failure, Request, failure, frame, messages

ROUTE, NETFILTER, GENERIC = 0, 12, 16
"""Netlink families."""

BATCH = 1000
"""Requests in one send: as many errors fit into the receive buffer."""

READ = 1 << 16
"""Bytes of one receive: more than the kernel ever sends at once."""

BURST = 4096
"""Datagrams that a listener takes at a time, so that others get their turn in an endless storm."""

_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _STRICT = 270, 1, 10, 11, 12
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20
_LISTEN_BUFFER = 16 << 20
_PATIENCE = 8  # dumps that were disturbed before the last is taken as it is; the event of what disturbed it follows


class NetlinkError(OSError):
    """A request that has one answer was refused."""


class Netlink:
    """A socket of one netlink family in one network namespace; used by one thread at a time."""

    def __init__(self, family: int, netns: str = "", port: int = 0) -> None:
        """Raises NoNamespace when there is no namespace at `netns` ("": the thread's own). `port` is the address
        to have if it is free; 0: any."""
        self.socket = socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW, family)
        try:
            _prepare(self.socket, port)
        except BaseException:
            self.socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; a namespace lives on as long as a socket in it is open."""
        self.socket.close()

    def port(self) -> int:
        """The address of this socket, which the kernel names as the author of what it asked for."""
        port: int = self.socket.getsockname()[0]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, requests: Sequence[Request]) -> dict[int, Failure]:
        """Carry out requests in order; returns what failed, by position. One failure does not stop the others."""
        failures: dict[int, Failure] = {}
        for start in range(0, len(requests), BATCH):
            for place, problem in self._write(requests[start : start + BATCH]):
                failures[start + place] = problem
        return failures

    def _write(self, requests: Sequence[Request]) -> Iterator[tuple[int, Failure]]:
        first, last = self._sequence + 1, self._sequence + len(requests)
        self._sequence = last
        frames = [frame(request, first + place) for place, request in enumerate(requests[:-1])]
        frames.append(frame(requests[-1], last, ACK))
        self.socket.sendall(b"".join(frames))
        while True:
            for message in messages(self.socket.recv(READ)):
                if message.kind != ERROR or not first <= message.sequence <= last:
                    continue
                problem = failure(message)
                if problem is not None:
                    yield message.sequence - first, problem
                if message.sequence == last:
                    return

    def get(self, request: Request) -> bytes:
        """The one object asked for. Raises NetlinkError."""
        self._sequence += 1
        self.socket.sendall(frame(request, self._sequence))
        while True:
            for message in messages(self.socket.recv(READ)):
                if message.sequence != self._sequence:
                    continue
                if message.kind == ERROR:
                    _raise(failure(message))
                return message.body

    def dump(self, request: Request) -> list[bytes]:
        """All objects asked for, from one moment if the kernel can be brought to it. Raises NetlinkError."""
        bodies, whole = self._dump(request)
        for _ in range(_PATIENCE):
            if whole:
                break
            bodies, whole = self._dump(request)
        return bodies

    def _dump(self, request: Request) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self.socket.sendall(frame(request, self._sequence))
        bodies: list[bytes] = []
        whole = True
        while True:
            for message in messages(self.socket.recv(READ)):
                if message.sequence != self._sequence:
                    continue
                whole = whole and not message.flags & DUMP_INTERRUPTED
                if message.kind in (DONE, ERROR):
                    problem = failure(message)
                    if problem is not None and problem.errno == errno.ENOENT:
                        return [], True  # no routing table yet: nothing was ever put into it
                    _raise(problem)
                    return bodies, whole
                bodies.append(message.body)


def listen(netns: str, family: int, groups: Iterable[int]) -> socket.socket:
    """A socket that hears what these multicast groups are told, and never blocks. Raises NoNamespace."""
    channel = socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, family)
    channel.bind((0, 0))
    enlarge(channel, _LISTEN_BUFFER)
    for group in groups:
        channel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return channel


def _prepare(channel: socket.socket, port: int) -> None:
    try:
        channel.bind((port, 0))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        channel.bind((0, 0))
    enlarge(channel, _BUFFER)
    for option in (_CAP_ACK, _EXT_ACK, _STRICT):
        with suppress(OSError):  # kernels before 4.3, 4.12, 4.20: less said in errors, more sent in dumps
            channel.setsockopt(_SOL_NETLINK, option, 1)


def enlarge(channel: socket.socket, size: int) -> None:
    """Give a socket buffers of `size` bytes both ways, beyond the system's limit where that is allowed."""
    for forced, asked in ((_SNDBUFFORCE, socket.SO_SNDBUF), (_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            channel.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            channel.setsockopt(socket.SOL_SOCKET, asked, size)


def _raise(problem: Failure | None) -> None:
    if problem is not None:
        raise NetlinkError(problem.errno, problem.text or errno.errorcode.get(problem.errno, "unknown error"))
