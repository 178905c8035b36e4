"""What kubedns says: from its zone at once, or from other servers when the name is not the cluster's.

Until the zone is there every answer is SERVFAIL, so that nobody takes a half-known cluster for the whole. Names outside
go to the servers of the longest stub domain that holds them, else to the upstream servers. A server that leads back to
us is noticed by a name that only we know, and not asked any more (loop detection).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from time import perf_counter
from typing import Any

from podnet.daemons.dns_client import DnsClient, NoAnswer, Server
from podnet.network.dns.answers import FLAGS, Elsewhere, answer, quick
from podnet.network.dns.zone import Zone
from podnet.wire import dns
from podnet.wire.dns import AA, NOERROR, RA, SERVFAIL, Malformed, Query

LOOP, ARPA = dns.name("loop.podnet.dev"), dns.name("arpa")
_TRANSFER = 60_000
"""Bytes of records in one message of a zone transfer."""

Namespaces = Callable[[str], str]
"""By a client's address: its pod's namespace if its searches are to be completed, else ""."""


class Servers:
    """Who is asked for names outside: by domain as on the wire, and for the rest. `looping` lead back to us.

    `cache` is asked before them, but not for the names of addresses, of which it would ask us.
    """

    def __init__(
        self, stubs: Mapping[bytes, tuple[Server, ...]], upstreams: tuple[Server, ...], cache: tuple[Server, ...] = ()
    ) -> None:
        self.stubs = stubs
        self.upstreams = upstreams
        self.cache = cache
        self.looping: set[Server] = set()

    def of(self, name: bytes) -> list[Server]:
        """Those for a name in lower case."""
        cache = () if dns.below(name, ARPA) else self.cache
        while name not in self.stubs and name[0]:
            name = dns.parent(name)
        return [each for each in (*cache, *self.stubs.get(name, self.upstreams)) if each not in self.looping]

    @property
    def all(self) -> set[Server]:
        """Each once."""
        return {*self.cache, *self.upstreams, *(each for servers in self.stubs.values() for each in servers)}


class Answers:
    """Answers for a DnsServer (daemons/dns_server.py).

    zone        what is answered from; None: nothing is known yet
    servers     who else is asked
    transfers   the CIDRs of clients that may have the whole zone
    namespaces  whose searches are completed
    quick       answers that took one look; `others`: that took more
    seen        called after each answer that took more than a look: (RCODE, size in bytes, seconds)
    """

    def __init__(self, client: DnsClient, transfers: Iterable[str] = ()) -> None:
        self.zone: Zone | None = None
        self.servers = Servers({}, ())
        self.namespaces: Namespaces | None = None
        self.quick = self.others = 0
        self.seen: Callable[[int, int, float], None] = lambda rcode, size, seconds: None
        self._client = client
        self._transfers = tuple(map(ip_network, transfers))
        self._tokens: dict[bytes, Server] = {}

    # -- what a server asks of it

    def datagram(self, message: bytes, client: str) -> bytes | Coroutine[Any, Any, bytes | None] | None:
        """See Answering."""
        if self.zone is not None and (said := quick(self.zone, message, self.quick)):
            self.quick += 1
            return said
        start = perf_counter()
        query = self._query(message)
        if not isinstance(query, Query):
            return self._counted(query, start)
        found = self._answer(query, None, client)
        if isinstance(found, Elsewhere):
            return self._asked_elsewhere(query, message, found, None, start)
        return self._counted(found, start)

    async def stream(self, message: bytes, client: str) -> Iterable[bytes]:
        """See Answering."""
        start = perf_counter()
        query = self._query(message)
        if not isinstance(query, Query):
            return [query] if query else []
        if query.type == dns.AXFR and self.zone is not None and query.name == self.zone.apex and self._may(client):
            return transfer(self.zone, query)
        found = self._answer(query, 0, client)
        if isinstance(found, Elsewhere):
            return filter(None, [await self._asked_elsewhere(query, message, found, 0, start)])
        return filter(None, [self._counted(found, start)])

    def busy(self, message: bytes) -> bytes | None:
        """See Answering."""
        query = self._query(message)
        return _servfail(query) if isinstance(query, Query) else query

    # -- loops

    async def find_loops(self) -> set[Server]:
        """Ask each server for a name that only we know; one that brings us the question is not asked any more."""
        servers = self.servers
        for server in servers.all:
            token = dns.name(secrets.token_hex(8))[:-1] + LOOP
            self._tokens[token] = server
            try:
                await self._client.ask(dns.question(0, token, dns.HINFO), [server])
            except NoAnswer:
                pass
            finally:
                self._tokens.pop(token, None)
        return servers.looping

    # -- inside

    def _query(self, message: bytes) -> Query | bytes | None:
        try:
            return dns.read_query(message)
        except Malformed:
            return dns.refusal(message)

    def _answer(self, query: Query, size: int | None, client: str) -> bytes | Elsewhere:
        if self.zone is None:
            return _servfail(query)
        if query.name in self._tokens:
            self.servers.looping.add(self._tokens[query.name])
            return _servfail(query)
        namespace = self.namespaces(client) if self.namespaces else ""
        return answer(self.zone, query, size, self.others, namespace)

    async def _asked_elsewhere(
        self, query: Query, message: bytes, found: Elsewhere, size: int | None, start: float
    ) -> bytes | None:
        said = await self._elsewhere(query, message, found, size)
        return self._counted(said, start)

    async def _elsewhere(self, query: Query, message: bytes, found: Elsewhere, size: int | None) -> bytes:
        servers = self.servers.of(dns.lower(found.name))
        if not servers or not query.flags & dns.RD:
            return found.missing or dns.answer(query, dns.piece(found.chain), dns.REFUSED, RA, size)
        try:
            if not found.chain:
                return await self._client.ask(message, servers, whole=size == 0)
            asked = dns.question(query.id, found.name, query.type)
            heard = dns.read(await self._client.ask(asked, servers, whole=True))
        except (NoAnswer, Malformed):
            return found.missing or _servfail(query)
        if heard.rcode != NOERROR and found.missing:
            return found.missing
        return _behind(query, found.chain, heard, size)

    def _may(self, client: str) -> bool:
        address = ip_address(client.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._transfers if network.version == mapped.version)

    def _counted(self, said: bytes | None, start: float) -> bytes | None:
        if said is not None:
            self.others += 1
            self.seen(said[3] & 0xF, len(said), perf_counter() - start)
        return said


def transfer(zone: Zone, query: Query) -> Iterator[bytes]:
    """The whole zone, between two SOA records (RFC 5936): names of the domain, not those of addresses."""
    held, size = [zone.soa], len(zone.soa)
    for record in (*_records(zone), zone.soa):
        if size + len(record) > _TRANSFER:
            yield dns.answer(query, dns.piece(held), NOERROR, AA, 0)
            held, size = [], 0
        held.append(record)
        size += len(record)
    yield dns.answer(query, dns.piece(held), NOERROR, AA, 0)


def _records(zone: Zone) -> Iterator[bytes]:
    for name, node in sorted(zone.names.items()):
        if dns.below(name, zone.apex):
            for _, piece in node:
                yield from dns.owned(piece, name)


def _behind(query: Query, chain: tuple[bytes, ...], heard: dns.Message, size: int | None) -> bytes:
    """What others said of the name at the end of a chain."""
    records = [dns.record(each.type, each.ttl, each.data, each.name, each.cls) for each in heard.answers]
    authority = [dns.record(each.type, each.ttl, each.data, each.name, each.cls) for each in heard.authority]
    made = dns.piece([*chain, *records], authority if not records else ())
    return dns.answer(query, made, heard.rcode, FLAGS, size)


def _servfail(query: Query) -> bytes:
    return dns.answer(query, dns.NONE, SERVFAIL, RA)
