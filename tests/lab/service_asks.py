"""Questions to Services from any namespace, many at once, and flows that stay: all in the test's own process.

A socket belongs to the namespace it was made in, so no program need be started to ask from a pod. An answer is told in
words that a table can hold: "a from near" (server a saw the address of near), "refused", "lost", or another error.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import NamedTuple

from podnet.kernel.netns import socket_in
from tests.lab.talk import RESET

QUIET = 0.5
"""When nothing more has come for so long (seconds), what is unanswered is lost. A second SYN would leave after 1 s."""

AT_ONCE = 0.3
"""Within so many seconds one is refused at once; a second SYN leaves after one."""

_TWO_SECONDS = struct.pack("ll", 2, 0)

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Client(NamedTuple):
    """Somewhere to ask from; `node` is where its packets meet Services first, "" outside; `bind`: from its address."""

    name: str
    netns: str
    addresses: tuple[str, ...]
    node: str = ""
    bind: bool = False
    mark: int = 0

    def socket(self, protocol: str, v6: bool) -> socket.socket:
        """One in its namespace that does not block."""
        made = socket_in(self.netns, socket.AF_INET6 if v6 else socket.AF_INET, KINDS[protocol])
        made.setblocking(False)
        if self.mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        if self.bind:
            made.bind((self.addresses[v6], 0))
        return made


class Ask(NamedTuple):
    """Who asks whom."""

    client: Client
    host: str
    port: int
    protocol: str = "tcp"


class Answer(NamedTuple):
    """The server's name and the address it saw, or the error; and after how many seconds."""

    server: str = ""
    source: str = ""
    error: str = ""
    seconds: float = 0.0


def ask_all(asks: Sequence[Ask], quiet: float = QUIET) -> list[Answer]:
    """Ask all of them at once; the answers are in the same order."""
    answers: dict[int, Answer] = {}
    waiting: dict[int, tuple[int, socket.socket, float]] = {}
    poll = select.poll()
    try:
        for place, ask in enumerate(asks):
            began, connection = time.monotonic(), ask.client.socket(ask.protocol, ":" in ask.host)
            try:
                _begin(connection, ask)
            except OSError as error:
                connection.close()
                answers[place] = Answer(error=_word(error), seconds=time.monotonic() - began)
                continue
            waiting[connection.fileno()] = (place, connection, began)
            poll.register(connection, select.POLLIN)
        while waiting and (events := poll.poll(1000 * quiet)):
            for fd, _ in events:
                place, connection, began = waiting[fd]
                if answer := _end(connection, began):
                    answers[place] = answer
                    poll.unregister(fd)
                    waiting.pop(fd)[1].close()
    finally:
        for _, connection, _ in waiting.values():
            connection.close()
    return [answers.get(place, Answer(error="lost")) for place in range(len(asks))]


def _begin(connection: socket.socket, ask: Ask) -> None:
    if ask.protocol == "tcp":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    with suppress(BlockingIOError):
        connection.connect((ask.host, ask.port))
    if ask.protocol == "udp":
        with suppress(PermissionError):  # dropped on the way out; a refusal still comes
            connection.send(b"?")


def _end(connection: socket.socket, began: float) -> Answer | None:
    """None: only an ICMP error that came too early to count, as it comes while connect() is at work."""
    try:
        server, source = connection.recv(2048).decode().split()
    except BlockingIOError:
        with suppress(BlockingIOError):
            connection.recv(2048, socket.MSG_ERRQUEUE)
        return None
    except OSError as error:
        return Answer(error=_word(error), seconds=time.monotonic() - began)
    return Answer(server, source, seconds=time.monotonic() - began)


def _word(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return errno.errorcode.get(error.errno or 0, str(error))


def connected(client: Client, host: str, port: int) -> tuple[float, int]:
    """By one connect() that blocks: after how many seconds it was over, and its error number."""
    with client.socket("tcp", v6=":" in host) as connection:
        connection.setblocking(True)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TWO_SECONDS)
        began = time.monotonic()
        error = connection.connect_ex((host, port))
        return time.monotonic() - began, error


class Flow:
    """A TCP connection, or a UDP client that keeps its port."""

    def __init__(self, ask: Ask, wait: bool = True) -> None:
        self._socket = ask.client.socket(ask.protocol, ":" in ask.host)
        try:
            if not wait:
                self._socket.setblocking(False)
                self._socket.connect_ex((ask.host, ask.port))
                return
            self._socket.settimeout(2.0)
            self._socket.connect((ask.host, ask.port))
            address, port = self._socket.getsockname()[:2]
            self.place = (str(address), str(port), ask.host)
            self.server = self._socket.recv(2048).decode().split()[0] if ask.protocol == "tcp" else ""
        except BaseException as error:
            error.add_note(str(ask))
            self.close()
            raise

    def connects(self, seconds: float) -> bool:
        """Whether an attempt that was not waited for succeeds after all; the connection is over then."""
        with closing(self._socket):
            try:
                self._socket.settimeout(seconds)
                return bool(self._socket.recv(2048))
            except OSError:
                return False

    def say(self, seconds: float = 0.5) -> str:
        """Who answers a datagram now; "" for nobody. Meant for UDP."""
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                with suppress(ConnectionRefusedError):
                    self._socket.recv(2048)
        self._socket.settimeout(seconds)
        with suppress(OSError):
            self._socket.send(b"?")
            return self._socket.recv(2048).decode().split()[0]
        return ""

    def echoes(self) -> bool:
        """Whether the other end still hears and is heard. Meant for TCP."""
        said = os.urandom(4).hex().encode()
        with suppress(OSError):
            self._socket.send(said)
            return self._socket.recv(2048) == said
        return False

    def close(self) -> None:
        """Give it up."""
        self._socket.close()


def sctp_init(client: Client, host: str, port: int, source: int) -> bytes:
    """Send an SCTP INIT by hand: kernels without SCTP sockets translate it all the same."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x11223344, 65536, 1, 1, 7)
    packet = struct.pack("!HHI", source, port, 0) + struct.pack("<I", _crc32c(_zeroed(source, port) + chunk)) + chunk
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket_in(client.netns, family, socket.SOCK_RAW, socket.IPPROTO_SCTP) as raw:
        if client.mark:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, client.mark)
        raw.sendto(packet, (host, 0))
    return packet


def sctp_heard(listener: socket.socket) -> Iterator[tuple[str, int, int, bool]]:
    """(source address, source port, port, whether the checksum is right) of the SCTP packets that came so far."""
    with suppress(BlockingIOError):
        while True:
            data, address = listener.recvfrom(2048, socket.MSG_DONTWAIT)
            if listener.family == socket.AF_INET:
                data = data[4 * (data[0] & 15) :]
            source, port, _, checksum = struct.unpack("!HHI4s", data[:12])
            right = struct.pack("<I", _crc32c(data[:8] + bytes(4) + data[12:])) == checksum
            yield address[0], source, port, right


def _zeroed(source: int, port: int) -> bytes:
    return struct.pack("!HHII", source, port, 0, 0)


def _crc32c(data: bytes) -> int:
    """RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def told(answers: Iterable[Answer], owner: Callable[[str], str]) -> str:
    """What a set of answers says, sorted: "a from near | b from near"."""
    return " | ".join(sorted({a.error or f"{a.server} from {owner(a.source)}" for a in answers}))
