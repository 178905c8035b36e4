"""What upstream runs as a program of its own beside dnsmasq: its counters, asked of it, and probes of whole answers.

    /metrics              kubedns_dnsmasq_*, kubedns_probe_<label>_*, and what podnet counts beyond that
    /healthcheck/<label>  200 or 503 and JSON: how the last probe with this label went
    /healthz, /readiness  whether this program lives; whether dnsmasq answers
    POST /purge           [{"name": ..., "type": ..., "answers": [...]}]: names of which the answer is now another (no
                          "answers": any), from this machine or pod only

dnsmasq's counters begin anew when it does.
Source: kubernetes/dns pkg/sidecar (names, JSON, ports); dnsmasq(8) for hits.bind and the like. Names without `_total`,
which upstream's counters have not, are told as gauges, and a probe's histogram has fewer buckets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.daemons.purging import Purging
from podnet.network.dns.records import Expected
from podnet.network.dns.settings import server
from podnet.wire import dns

COUNTERS = {
    "hits": "Number of DNS cache hits (from start of process)",
    "misses": "Number of DNS cache misses (from start of process)",
    "evictions": "Counter of DNS cache evictions (from start of process)",
    "insertions": "Counter of DNS cache insertions (from start of process)",
    "max_size": "Maximum size of the DNS cache",
}
BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Milliseconds."""

NOT_YET = "waiting for first probe"


class Probe(msgspec.Struct, frozen=True):
    """A question that is asked every `interval` seconds."""

    label: str
    asking: Asking
    name: str
    interval: float
    type: str


class Purged(msgspec.Struct, frozen=True):
    """A name that answers otherwise than before; `answers` as records.Expected."""

    name: str
    type: str = "A"
    answers: Expected = None


class Health(msgspec.Struct, frozen=True, rename="pascal"):
    """How a probe went, as upstream says it."""

    is_ok: bool = False
    latency_seconds: float = 0.0
    err: str = NOT_YET


def probe(text: str) -> Probe:
    """Of LABEL,SERVER,NAME,SECONDS[,TYPE]. Raises ValueError, whose text says what is right."""
    label, *rest = text.split(",")
    if len(rest) not in (3, 4) or not re.fullmatch(r"[A-Za-z0-9_]+", label):
        raise ValueError(
            f"{text} is no probe: write LABEL,SERVER,NAME,SECONDS[,TYPE], as dns,127.0.0.1:53,web.demo,5,A"
        )
    found, name, interval = server(rest[0]), rest[1], rest[2].removesuffix("s")
    type_ = (rest[3:] or ["A"])[0].upper()
    if type_ not in dns.TYPES:
        raise ValueError(f"{text}: {type_} is no type of record that is known: {', '.join(dns.TYPES)}")
    if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", interval) or not float(interval):
        raise ValueError(f"{text}: {rest[2]} is no interval: write seconds, as 5")
    dns.name(name)
    return Probe(label, Asking(found.address, found.port, tries=1), name, float(interval), type_)


class Sidecar:
    """All this for one dnsmasq.

    asking  where dnsmasq is asked
    ready   "" when it is to be sent questions, else why not, as far as others know
    period  seconds between two looks at its counters
    """

    def __init__(
        self, asking: Asking, probes: Sequence[Probe], purging: Purging, ready: Callable[[], str], period: float = 5.0
    ) -> None:
        self.registry = CollectorRegistry()
        self.health = {each.label: Health() for each in probes}
        self._asking = asking
        self._probes = probes
        self._purging = purging
        self._ready = ready
        self._period = period
        made = [("errors", "Number of errors that have occurred getting metrics"), *COUNTERS.items()]
        self._counters = {key: self._gauge(f"kubedns_dnsmasq_{key}", text) for key, text in made}
        self._latency = {
            each.label: Histogram(
                f"kubedns_probe_{each.label}_latency_ms", f"Latency of the DNS probe request {each.label}",
                buckets=BUCKETS, registry=self.registry,
            )
            for each in probes
        }  # fmt: skip
        self._errors = {
            each.label: self._gauge(
                f"kubedns_probe_{each.label}_errors", f"Count of errors in name resolution of {each.label}"
            )
            for each in probes
        }
        self.asked = Counter("podnet_dns_purges", "Names whose answers changed, as told.", registry=self.registry)
        self.loops = self._gauge("podnet_dns_looping_servers", "Servers that lead back to dnsmasq.")
        self._gauge("podnet_dns_purging", "Names of which the cache may still be wrong.").set_function(purging.__len__)
        self._gauge("podnet_dns_cache_clears", "Times it was cleared so that it forgets.").set_function(
            lambda: purging.cleared
        )
        self.starts = self._gauge("podnet_dns_dnsmasq_starts", "Times dnsmasq was started.")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    async def run(self) -> None:
        """Look and probe for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            for each in self._probes:
                group.create_task(self._keep_probing(each))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            for key in COUNTERS:
                try:
                    self._counters[key].set(await self._counter("cachesize" if key == "max_size" else key))
                except (NoAnswer, ValueError):
                    self._counters["errors"].inc()
                    break

    async def _counter(self, name: str) -> int:
        answer = await self._asking.ask(f"{name}.bind", dns.TXT, dns.CHAOS)
        texts = [text for record in answer.answers for text in dns.strings(record.data)]
        return int(texts[0] if texts else b"")

    async def _keep_probing(self, each: Probe) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            health = await self._probe(each)
            self.health[each.label] = health
            if health.is_ok:
                self._latency[each.label].observe(health.latency_seconds * 1000)
            else:
                self._errors[each.label].inc()
            await asyncio.sleep(max(0.0, each.interval - (loop.time() - started)))

    async def _probe(self, each: Probe) -> Health:
        started = asyncio.get_running_loop().time()
        try:
            answer = await each.asking.ask(each.name, dns.TYPES[each.type])
        except NoAnswer as error:
            return Health(err=str(error))
        if not answer.answers:
            return Health(err=f'no RRs for domain "{each.name}"')
        return Health(True, asyncio.get_running_loop().time() - started, "")

    # -- HTTP

    def application(self) -> web.Application:
        """The HTTP side."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readiness", self._readiness),
                web.get("/healthcheck/{label}", self._healthcheck),
                web.post("/purge", self._purge),
            ]
        )
        return app

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        reason = self._ready()
        if not reason:
            try:
                await msgspec.structs.replace(self._asking, seconds=0.5).ask("cachesize.bind", dns.TXT, dns.CHAOS)
            except NoAnswer as error:
                reason = str(error)
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def _healthcheck(self, request: web.Request) -> web.Response:
        health = self.health.get(request.match_info["label"])
        if health is None:
            raise web.HTTPNotFound
        body = msgspec.json.encode(health)
        return web.Response(body=body, status=200 if health.is_ok else 503, content_type="application/json")

    async def _purge(self, request: web.Request) -> web.Response:
        if not _near(request.remote):
            return web.Response(status=403, text="names are purged for programs of this pod or machine only\n")
        try:
            told = msgspec.json.decode(await request.read(), type=list[Purged])
            for each in told:
                dns.name(each.name)
        except (msgspec.MsgspecError, dns.Malformed, UnicodeError) as error:
            return web.Response(status=400, text=f"{error}\n")
        names = [(each.name, each.type, each.answers) for each in told if each.type in dns.TYPES]
        self.asked.inc(len(names))
        self._purging.add(names)
        return web.Response(status=202)


def _near(remote: str | None) -> bool:
    with suppress(ValueError):
        address = ip_address(remote or "")
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False
