"""What the SkyDNS-compatible server says: from its tree at once, or with what others say of names outside.

The tree is a copy of etcd's, so an answer asks etcd nothing. One exception is etcd 2, whose watch does not tell of
names that begin with `_`: whoever asks for such a name waits for one reading of that name.
Source: skynetservices/skydns server/server.go, server/forwarding.go, metrics/metrics.go (names, labels, buckets).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from podnet.client.etcd import Change, EtcdError
from podnet.daemons.dns_client import DnsClient, NoAnswer, Server
from podnet.network.dns.skydns_answers import Forward, Said, Wanted, answer, message
from podnet.network.dns.skydns_config import Settings, configured
from podnet.network.dns.skydns_names import WILD, Names
from podnet.network.dns.skydns_records import PREFIX, hidden, path
from podnet.wire import dns
from podnet.wire.dns import Malformed, Query

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()
_NAME = "skydns_skydns_dns"
REQUESTS = Counter(f"{_NAME}_request_count", "Counter of DNS requests made.", ["system"], registry=REGISTRY)
ERRORS = Counter(
    f"{_NAME}_error_count", "Counter of DNS requests resulting in an error.", ["system", "cause"], registry=REGISTRY
)
MISSES = Counter(
    f"{_NAME}_cachemiss_count", "Counter of DNS requests that result in a cache miss.", ["cache"], registry=REGISTRY
)
DURATION = Histogram(
    f"{_NAME}_request_duration_seconds",
    "Histogram of the time (in seconds) each request took to resolve.",
    ["system"],
    buckets=(0.001, 0.003, *Histogram.DEFAULT_BUCKETS),
    registry=REGISTRY,
)
SIZE = Histogram(
    f"{_NAME}_response_size_bytes",
    "Size of the returns response in bytes.",
    ["system"],
    buckets=(0, 512, 1024, 1500, 2048, *range(4096, 65537, 4096)),
    registry=REGISTRY,
)
CAUSES = {dns.SERVFAIL: "servfail", dns.REFUSED: "refused", dns.NXDOMAIN: "nxdomain"}
TOLD = 10
"""Unusable records that are logged at a time."""

Reading = Callable[[str], Awaitable[dict[str, str]]]
"""What etcd holds at a key and below it."""


class SkyAnswers:
    """Answers for a DnsServer (daemons/dns_server.py).

    names    what is answered from; None: etcd was not read yet
    given    what the command line says; `now` is that with what stands in etcd
    rotate   whether each question begins with another server
    reading  where the watch does not tell all: how to read what it does not tell
    """

    def __init__(
        self,
        given: Settings,
        client: DnsClient,
        *,
        rotate: bool = False,
        prefix: str = PREFIX,
        reading: Reading | None = None,
    ) -> None:
        self.names: Names | None = None
        self.now = given
        self._given, self._client, self._rotate, self._prefix, self._reading = given, client, rotate, prefix, reading
        self._config_key = f"/{prefix}/config"
        self._turn = 0

    def told(self, changes: Iterable[Change]) -> None:
        """What changed in etcd; at first that is everything."""
        names = self.names = self.names or Names()
        known = set(names.problems)
        for change in changes:
            if change.value is None:
                names.remove(change.key, change.below)
            else:
                names.put(change.key, change.value)
            if change.key == self._config_key or (change.below and self._config_key.startswith(f"{change.key}/")):
                self._configure(change.value or "{}")
        new = [(key, why) for key, why in names.problems.items() if key not in known and key.count("/") > 2]
        for key, why in new[:TOLD]:
            log.warning("%s is no record: %s", key, why)

    def _configure(self, text: str) -> None:
        try:
            self.now = configured(self._given, text)
        except ValueError as error:
            log.warning("%s can't be used: %s", self._config_key, error)

    # -- what a server asks of it

    def datagram(self, message: bytes, client: str) -> bytes | Coroutine[Any, Any, bytes | None] | None:
        """See Answering."""
        start = time.perf_counter()
        query = _query(message)
        if not isinstance(query, Query):
            return query
        if self._reading and self.names and _is_hidden(query.name):
            return self._read(query, message, None, start)
        return self._answered(query, message, None, start)

    async def stream(self, message: bytes, client: str) -> Iterable[bytes]:
        """See Answering."""
        start = time.perf_counter()
        query = _query(message)
        if not isinstance(query, Query):
            return [query] if query else []
        if self._reading and self.names and _is_hidden(query.name):
            return [await self._read(query, message, 0, start)]
        said = self._answered(query, message, 0, start)
        return [said if isinstance(said, bytes) else await said]

    def busy(self, message: bytes) -> bytes | None:
        """See Answering."""
        query = _query(message)
        return _failure(query) if isinstance(query, Query) else query

    # -- inside

    def _answered(
        self, query: Query, asked: bytes, size: int | None, start: float
    ) -> bytes | Coroutine[Any, Any, bytes]:
        if self.names is None:
            return _counted("auth", _failure(query), start)
        self._turn += 1
        found = self._found(query)
        if isinstance(found, Said):
            if found.system == "auth":
                MISSES.labels("response").inc()
            return _counted(found.system, message(query, found, size), start)
        if isinstance(found, Forward):
            return self._forward(query, asked, found, size, start)
        return self._complete(query, found, size, start)

    def _found(
        self, query: Query, outside: dict[tuple[bytes, int], tuple[dns.Record, ...]] | None = None
    ) -> Said | Forward | Wanted:
        assert self.names is not None
        hour = int(time.time()) // 3600 * 3600
        return answer(self.names, self.now.options, query, outside=outside, serial=hour, turn=self._turn)

    async def _read(self, query: Query, asked: bytes, size: int | None, start: float) -> bytes:
        """An answer from what etcd 2 tells only to who asks; the last known when it tells nothing."""
        labels = dns.text(query.name).split(".")[::-1]
        wild = next((at for at, label in enumerate(labels) if label in WILD), len(labels))
        key = path(".".join(labels[:wild][::-1]), self._prefix)
        assert self._reading
        try:
            values = await self._reading(key)
        except EtcdError as error:
            log.warning("etcd: %s", error)
        else:
            self._replace(key, values)
        said = self._answered(query, asked, size, start)
        return said if isinstance(said, bytes) else await said

    def _replace(self, key: str, values: dict[str, str]) -> None:
        assert self.names
        if hidden(key):
            self.names.remove(key, below=True)
        for each, text in values.items():
            self.names.put(each, text)

    async def _forward(self, query: Query, asked: bytes, found: Forward, size: int | None, start: float) -> bytes:
        """Pass a question on."""
        servers = self._asked_servers()
        if not servers or sum(1 for _ in dns.labels(query.name)) < self.now.options.ndots:
            return _counted(found.system, _failure(query), start)
        try:
            said = await self._client.ask(asked, servers, whole=size == 0)
        except (NoAnswer, Malformed):
            said = _failure(query)
        return _counted(found.system, said, start)

    async def _complete(self, query: Query, found: Wanted, size: int | None, start: float) -> bytes:
        """An answer of which others know a part."""
        heard = await asyncio.gather(*(self._heard(*question) for question in found.questions))
        outside = {question: said for question, said in zip(found.questions, heard, strict=True) if said is not None}
        said = self._found(query, outside)
        assert isinstance(said, Said)
        return _counted(said.system, message(query, said, size), start)

    async def _heard(self, name: bytes, type_: int) -> tuple[dns.Record, ...] | None:
        """What others say of a name; None when they know none."""
        servers = self._asked_servers()
        if not servers:
            return None
        try:
            said = dns.read(await self._client.ask(dns.question(0, name, type_), servers, whole=True))
        except (NoAnswer, Malformed):
            return None
        return said.answers if said.rcode == dns.NOERROR else None

    def _asked_servers(self) -> Sequence[Server]:
        servers = [(each.address, each.port) for each in self.now.servers]
        at = self._turn % len(servers) if self._rotate and servers else 0
        return servers[at:] + servers[:at]


def _query(asked: bytes) -> Query | bytes | None:
    try:
        return dns.read_query(asked)
    except Malformed:
        return dns.refusal(asked)


def _is_hidden(name: bytes) -> bool:
    return any(label.startswith(b"_") for label in dns.labels(name))


def _failure(query: Query) -> bytes:
    return dns.answer(query, dns.NONE, dns.SERVFAIL, dns.RA)


def _counted(system: str, said: bytes, start: float) -> bytes:
    REQUESTS.labels(system).inc()
    DURATION.labels(system).observe(time.perf_counter() - start)
    SIZE.labels(system).observe(len(said))
    cause = "truncated" if said[2] & dns.TC >> 8 else CAUSES.get(said[3] & 0xF)
    if cause:
        ERRORS.labels(system, cause).inc()
    return said
