"""A DNS server for tests: addresses from a file of "name address" lines, which it reads anew for each question.

`python -m tests.lab.dns_standin FILE PORT`. What it has not, is not there, for 30 seconds (RFC 2308). Every address has
a name.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import sys
import threading
from pathlib import Path

from podnet.wire import dns

NEGATIVE = 30
TTL = 30


def answer(query: dns.Query, known: dict[str, str]) -> bytes:
    """What the file says."""
    name = dns.text(query.name)
    if query.type == dns.PTR:
        return dns.answer(query, dns.piece([dns.record(dns.PTR, TTL, dns.name("somebody.cluster.local"))]))
    address = known.get(name)
    kind, data = dns.address(address) if address else (0, b"")
    if kind == query.type:
        return dns.answer(query, dns.piece([dns.record(kind, TTL, data)]))
    apex = dns.name("cluster.local")
    soa = dns.record(dns.SOA, NEGATIVE, dns.soa(apex, apex, 1, NEGATIVE), apex)
    return dns.answer(query, dns.piece([], [soa]), dns.NOERROR if address else dns.NXDOMAIN)


def said(message: bytes) -> bytes:
    """To any question."""
    lines = (line.split() for line in Path(sys.argv[1]).read_text().splitlines())
    return answer(dns.read_query(message), {name: address for name, address in lines})  # noqa: C416


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        message, channel = self.request
        channel.sendto(said(message), self.client_address)


class Stream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(2):
            found = said(self.rfile.read(struct.unpack(">H", size)[0]))
            self.wfile.write(struct.pack(">H", len(found)) + found)


class Tcp(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


class Udp(socketserver.ThreadingUDPServer):
    address_family = socket.AF_INET6


if __name__ == "__main__":
    place = ("::", int(sys.argv[2]))
    threading.Thread(target=Tcp(place, Stream).serve_forever, daemon=True).start()
    Udp(place, Datagram).serve_forever()
