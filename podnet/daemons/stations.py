"""Open ends in other namespaces: the sockets between which `podnet check` sends its packets.

A socket belongs to the namespace its maker was in, for good. So one worker thread goes into each endpoint's namespace,
opens what is needed there and comes back; the sockets are then used from the program's one event loop like any others,
and no process of ours ever runs in a pod. The answering ends note what they saw of each numbered packet and send it
back unchanged: UDP as it came, TCP up to the client's end of file.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from podnet.kernel.netns import NoNamespace, inside
from podnet.network.reach import Endpoint, Seen

T = TypeVar("T")
Arrived = Callable[[int, Seen], None]
Address = tuple[str, int]

HEADER = struct.Struct("!8sQ")
"""Of every packet: this run's nonce, the probe's number."""

BACKLOG = 1024
_BUFFER = 1 << 20
_RCVBUFFORCE = 33
_SIOCGIFMTU = 0x8921
_DF_WHATEVER_IS_KNOWN = 3  # IP_PMTUDISC_PROBE, and IPV6_PMTUDISC_PROBE
_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_MTU = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}


class Spaces:
    """The one thread that visits namespaces."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "spaces")

    async def visit(self, netns: str, make: Callable[[], T]) -> T:
        """`make()`, called in the namespace at `netns` ("": this process's). Raises NoNamespace, and what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._inside, netns, make)

    @staticmethod
    def _inside(netns: str, make: Callable[[], T]) -> T:
        with inside(netns):
            return make()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def family(address: str) -> socket.AddressFamily:
    """AF_INET6 for an address with a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def make_socket(address: str, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket of the address's family, in the namespace of the calling thread."""
    made = socket.socket(family(address), kind)
    made.setblocking(False)
    if kind is socket.SOCK_DGRAM:
        made.setsockopt(*_DISCOVER[made.family], _DF_WHATEVER_IS_KNOWN)
        with suppress(PermissionError):
            made.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
    return made


def bound(address: str, kind: socket.SocketKind) -> socket.socket:
    """The same, bound to the address at a free port. Raises OSError."""
    made = make_socket(address, kind)
    try:
        made.bind((address, 0))
        if kind is socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def path_mtu(connected: socket.socket) -> int:
    """What the kernel believes a packet to the socket's peer may have; 0 when it can't say."""
    with suppress(OSError):
        return connected.getsockopt(*_MTU[socket.AddressFamily(connected.family)])
    return 0


def device_mtu(any_socket: socket.socket, device: str) -> int:
    """MTU of a link in the socket's namespace; 0 when there is no such link."""
    with suppress(OSError):
        request = struct.pack("16si12x", device.encode(), 0)
        return int(struct.unpack("16si12x", fcntl.ioctl(any_socket, _SIOCGIFMTU, request))[1])
    return 0


def errno_name(error: OSError | NoNamespace) -> str:
    """ECONNREFUSED and the like; `timeout` for those the kernel gave up on."""
    if isinstance(error, NoNamespace):
        return "NoNamespace"
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


def allow_many_files() -> None:
    """As many descriptors as may be had without asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Station:
    """What one endpoint answers with: at each of its addresses a TCP listener and a UDP socket, at free ports."""

    def __init__(self, endpoint: Endpoint, nonce: bytes, arrived: Arrived) -> None:
        """Call in the endpoint's namespace. Raises OSError when an address is not there."""
        self.endpoint = endpoint
        self.mtu = 0
        self._nonce = nonce
        self._arrived = arrived
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tcp: dict[str, Address] = {}
        """Where to connect to, for each address."""
        self.udp: dict[str, Address] = {}
        """Where to send to."""
        self._listeners: dict[str, socket.socket] = {}
        self._echoes: dict[str, socket.socket] = {}
        self._accepted: set[socket.socket] = set()
        try:
            for address in endpoint.addresses:
                self._listeners[address] = bound(address, socket.SOCK_STREAM)
                self._echoes[address] = bound(address, socket.SOCK_DGRAM)
                self.tcp[address], self.udp[address] = _name(self._listeners[address]), _name(self._echoes[address])
                self.mtu = self.mtu or device_mtu(self._echoes[address], endpoint.device)
        except OSError:
            self.close()
            raise

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from now on."""
        self._loop = loop
        for address, listener in self._listeners.items():
            loop.add_reader(listener, self._accept, address, listener)
        for address, bound_socket in self._echoes.items():
            loop.add_reader(bound_socket, self._echo, address, bound_socket)

    def close(self) -> None:
        """Stop answering."""
        for each in (*self._listeners.values(), *self._echoes.values(), *self._accepted):
            self._drop(each)

    def _drop(self, gone: socket.socket) -> None:
        if self._loop:
            self._loop.remove_reader(gone)
        self._accepted.discard(gone)
        gone.close()

    def _echo(self, address: str, bound_socket: socket.socket) -> None:
        with suppress(OSError):  # nothing more to read, or an ICMP error about an earlier answer
            while True:
                data, peer = bound_socket.recvfrom(65536)
                if self._note(address, peer, data):
                    bound_socket.sendto(data, peer)

    def _note(self, address: str, peer: Address, data: bytes) -> bool:
        """Whether a packet is one of this run's; if so it is reported."""
        if len(data) < HEADER.size:
            return False
        nonce, number = HEADER.unpack_from(data)
        if nonce != self._nonce:
            return False
        self._arrived(number, Seen(self.endpoint.key, peer[0], peer[1], address))
        return True

    def _accept(self, address: str, listener: socket.socket) -> None:
        assert self._loop
        with suppress(OSError):
            while True:
                made, peer = listener.accept()
                made.setblocking(False)
                self._accepted.add(made)
                self._loop.add_reader(made, self._answer, made, peer[:2])

    def _answer(self, made: socket.socket, peer: Address) -> None:
        try:
            data = made.recv(65536)
            if data and self._note(_name(made)[0], peer, data):
                made.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset: the usual end, see prober.py
        self._drop(made)


async def open_station(spaces: Spaces, endpoint: Endpoint, run: bytes, arrived: Arrived) -> Station:
    """An answering station in the endpoint's namespace. Raises OSError, NoNamespace."""
    made = await spaces.visit(endpoint.netns, lambda: Station(endpoint, run, arrived))
    made.start(asyncio.get_running_loop())
    return made


def _name(own: socket.socket) -> Address:
    return own.getsockname()[:2]  # type: ignore[no-any-return]


def nonce() -> bytes:
    """What tells this run's packets from any others."""
    return os.urandom(8)
