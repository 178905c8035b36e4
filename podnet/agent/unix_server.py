"""A unix socket that takes one request a connection: read to the end, answer, close. Root and ourselves may ask."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable

from podnet.errors import UserError

log = logging.getLogger(__name__)

BACKLOG = 1024
LONGEST_PATH = 107  # sun_path without its final zero, unix(7)
LARGEST_REQUEST = 2 << 20
READ_SECONDS = 10.0
CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class UnixServer:
    """Serves `answer` on `path`, a socket of mode 0600 in a directory of mode 0700."""

    def __init__(self, path: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; raises UserError when the path can't be used."""
        if len(os.fsencode(self.path)) > LONGEST_PATH:
            raise UserError(f"the socket path {self.path} is too long; choose a run directory with a shorter name")
        try:
            bound = _bind(self.path)
        except OSError as error:
            raise UserError(
                f"can't listen on {self.path}: {error.strerror}; is another podnet agent running?"
            ) from None
        self._server = await asyncio.start_unix_server(self._serve, sock=bound, backlog=BACKLOG)

    async def close(self, seconds: float = 10.0) -> None:
        """Accept no more requests, and give those being answered some time."""
        if self._server is None:
            return
        self._server.close()
        if os.path.exists(self.path):  # noqa: ASYNC240 (a look at a socket file)
            os.unlink(self.path)
        if self._serving:
            await asyncio.wait(self._serving, timeout=seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        try:
            uid = _peer(writer.get_extra_info("socket"))
            if uid not in (0, os.geteuid()):
                log.warning("refused a request of user %d", uid)
                return
            async with asyncio.timeout(READ_SECONDS):
                request = await _whole(reader)
            writer.write(await self._answer(request))
            await writer.drain()
        except (ConnectionError, TimeoutError) as error:
            log.warning("a caller went away: %s", str(error) or type(error).__name__)
        finally:
            self._serving.discard(task)
            writer.close()


def _bind(path: str) -> socket.socket:
    """A bound socket that was never, not even for a moment, open to others."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            bound.bind(path)
        finally:
            os.umask(mask)
    except OSError:
        bound.close()
        raise
    return bound


def _remove_stale(path: str) -> None:
    """Remove a socket at which nobody listens; raises OSError when it is none, or somebody does."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(errno.EEXIST, "another file has that name")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise FileExistsError(errno.EEXIST, "another podnet agent listens there")


def _peer(connection: socket.socket) -> int:
    """The user id at the other end."""
    uid: int = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1]
    return uid


async def _whole(reader: asyncio.StreamReader) -> bytes:
    parts, size = [], 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > LARGEST_REQUEST:
            raise ConnectionError(f"its request has more than {LARGEST_REQUEST} bytes")
    return b"".join(parts)
