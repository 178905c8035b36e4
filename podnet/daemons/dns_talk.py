"""Questions to one DNS server from inside a pod's network namespace, all of one flow, for whoever wants to know more
than the answer: how long it took, what the server counted meanwhile, and who it was.

A Service leads each flow to one of its endpoints, and to the same one as long as the flow goes on. So a question and
what is asked about the server before and after it, from one socket, are heard by the very same server.
"""

from __future__ import annotations

import secrets
import socket
import time
from typing import Self

from podnet.kernel.netlink import NETFILTER, Netlink
from podnet.kernel.netns import NoNamespace, inside, socket_in
from podnet.network.dns.tracing import Counters, Heard, heard
from podnet.wire import conntrack, dns
from podnet.wire.dns import Malformed

COUNTERS_SECONDS = 1.0
_LARGEST = 65535


class DnsTalk:
    """One server, asked from the namespace at `netns` ("": this thread's). Use as a context."""

    def __init__(self, netns: str, address: str, port: int = 53) -> None:
        """Raises NoNamespace, and OSError when the namespace has no way there."""
        self._netns = netns
        self._server = (address, port)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket_in(netns, self._family, socket.SOCK_DGRAM)
        try:
            self._socket.connect(self._server)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, name: str, type_: int, seconds: float, tries: int = 1) -> Heard:
        """The answer, by TCP when it is too long for UDP; one without an RCODE says in `error` why there is none."""
        found = Heard(error="no answer")
        for _ in range(tries):
            found = self._ask(name, type_, dns.IN, seconds)
            if found.rcode is not None:
                break
        return found

    def counters(self) -> Counters | None:
        """What a dnsmasq counts; None when the server is another."""
        texts = []
        for name in ("hits.bind", "misses.bind", "servers.bind"):
            said = self._ask(name, dns.TXT, dns.CHAOS, COUNTERS_SECONDS)
            if not said.answers:
                return None
            texts.append([each.strip('"') for each in said.answers[0].text.split('" "')])
        (hits,), (misses,), servers = texts
        if not hits.isdecimal() or not misses.isdecimal():
            return None
        return Counters(int(hits), int(misses), tuple(each.partition(" ")[0] for each in servers))

    def behind(self, node_netns: str) -> str:
        """The address of the endpoint that connection tracking of a node leads this flow to, "" when it doesn't say."""
        source = self._socket.getsockname()[:2]
        try:
            with Netlink(NETFILTER, node_netns) as netlink:
                flow = conntrack.decode(netlink.get(conntrack.named(socket.IPPROTO_UDP, source, self._server)))
        except (OSError, NoNamespace):
            return ""
        return flow.answered_by if flow and flow.answered_by != self._server[0] else ""

    def _ask(self, name: str, type_: int, cls: int, seconds: float) -> Heard:
        size = dns.EDNS_SIZE if cls == dns.IN else 0
        sent = dns.question(secrets.randbits(16), dns.name(name), type_, cls=cls, size=size)
        start = time.monotonic()
        try:
            message = self._by_udp(sent, start + seconds)
            if message.flags & dns.TC:
                message = self._by_tcp(sent, seconds)
        except (OSError, NoNamespace, Malformed, EOFError) as error:
            said = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", "") or str(error)
            return Heard(seconds=time.monotonic() - start, error=said)
        return heard(message, time.monotonic() - start)

    def _by_udp(self, sent: bytes, end: float) -> dns.Message:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        self._socket.send(sent)
        while True:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            said = self._socket.recv(_LARGEST)
            if said[:2] == sent[:2] and len(said) >= 12:
                return dns.read(said)

    def _by_tcp(self, sent: bytes, seconds: float) -> dns.Message:
        with inside(self._netns), socket.socket(self._family) as stream:
            stream.settimeout(seconds)
            stream.connect(self._server)
            stream.sendall(len(sent).to_bytes(2, "big") + sent)
            with stream.makefile("rb") as file:
                said = file.read(int.from_bytes(file.read(2), "big"))
        return dns.read(said)
