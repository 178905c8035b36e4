"""`podnet dns skydns`: the older form of cluster DNS, a server of the names that stand in etcd.

    etcd ──watch──► Mirror ──► Names (a tree) ──network/dns/skydns_answers.py──► SkyAnswers ──► UDP and TCP

It takes SkyDNS's flags and variables and says what SkyDNS said, out of a copy of etcd's records: no question waits for
etcd, and while etcd is away the last known answers stand. Before etcd was read once, it says SERVFAIL.
Source: skynetservices/skydns 2.5.3 main.go, server/config.go, README.md.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_address

import click
import msgspec
import uvloop
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podnet import __version__
from podnet.client.etcd import Change, Etcd, Mirror
from podnet.client.etcd_dialects import ETCD, connect
from podnet.daemons.dns_client import DnsClient, Server
from podnet.daemons.dns_server import DnsServer
from podnet.dns.ending import Ending
from podnet.dns.flags import DURATION, Command
from podnet.dns.skydns_answering import REGISTRY, Reading, SkyAnswers
from podnet.errors import UserError
from podnet.network.dns import settings
from podnet.network.dns.skydns_answers import Options
from podnet.network.dns.skydns_config import Settings
from podnet.network.dns.skydns_records import PREFIX
from podnet.wire import dns

log = logging.getLogger(__name__)

RESOLV_CONF = "/etc/resolv.conf"
RESYNC = 60.0
"""Seconds from one reading of all that is in etcd to the next; the watch tells of changes meanwhile."""


class Flags(msgspec.Struct, frozen=True):
    """What the command line says; times in seconds."""

    addr: str
    machines: str
    domain: str
    rtimeout: float
    nameservers: str
    no_rec: bool
    ns_rotate: bool
    round_robin: bool
    ndots: int
    ttl: int
    min_ttl: int
    priority: int
    hostmaster: str
    local: str
    path_prefix: str
    etcd_api: str
    ca_cert: str
    tls_pem: str
    tls_key: str
    healthz_port: int
    lameduck: float


@click.command(cls=Command)
@click.option("--addr", envvar="SKYDNS_ADDR", default="127.0.0.1:53", show_default=True, help="UDP and TCP.")
@click.option("--machines", envvar="ETCD_MACHINES", default="http://127.0.0.1:2379", show_default=True,
              help="URLs of etcd, with commas between.")  # fmt: skip
@click.option("--domain", envvar="SKYDNS_DOMAIN", default="skydns.local.", show_default=True, help="It answers for it.")
@click.option("--rtimeout", default=2.0, type=DURATION, show_default="2s", help="How long others may take to answer.")
@click.option("--nameservers", envvar="SKYDNS_NAMESERVERS", default="",
              help="For other names: ip:port,...  Default: those of resolv.conf.")  # fmt: skip
@click.option("--no-rec", is_flag=True, help="Ask nobody for other names.")
@click.option(
    "--ns-rotate/--no-ns-rotate", default=True, show_default=True, help="Begin with another of them each time."
)
@click.option("--round-robin/--no-round-robin", default=True, show_default=True, help="Addresses take turns.")
@click.option(
    "--ndots", default=2, show_default=True, type=click.IntRange(0), help="Labels of a name that is passed on."
)
@click.option("--ttl", default=3600, show_default=True, type=click.IntRange(0, 0x7FFFFFFF), help="Where none is given.")
@click.option(
    "--min-ttl", default=60, show_default=True, type=click.IntRange(0, 0x7FFFFFFF), help="Of what is missing."
)
@click.option("--priority", default=10, show_default=True, type=click.IntRange(0, 0xFFFF), help="Where none is given.")
@click.option("--hostmaster", default="", help="Address of who cares for the domain.  [default: hostmaster.DOMAIN]")
@click.option("--local", default="", help="The name that local.dns.DOMAIN stands for.")
@click.option("--path-prefix", envvar="SKYDNS_PATH_PREFIX", default=PREFIX, show_default=True, help="Of every key.")
@click.option(
    "--etcd-api", default="3", show_default=True, type=click.Choice(sorted(ETCD)), help="2 needs --enable-v2."
)
@click.option("--ca-cert", envvar="ETCD_CACERT", default="", help="PEM of the authority of etcd's certificate.")
@click.option("--tls-pem", envvar="ETCD_TLSPEM", default="", help="PEM of our certificate for etcd.")
@click.option("--tls-key", envvar="ETCD_TLSKEY", default="", help="PEM of its key.")
@click.option("--healthz-port", default=0, show_default=True, type=click.IntRange(0, 65535),
              help="HTTP: /readiness and /healthz; 0 for none.")  # fmt: skip
@click.option("--lameduck", default=5.0, type=DURATION, show_default="5s", help="Goes on answering after SIGTERM.")
def command(**flags: object) -> None:
    """Answer for the names that stand in etcd, as SkyDNS does.

    \b
    Example:
      podnet dns skydns --machines http://127.0.0.1:2379 --addr 0.0.0.0:53 --domain cluster.local.
    Metrics are at port $PROMETHEUS_PORT, if that is set.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    uvloop.run(run(msgspec.convert(flags, Flags)))


async def run(flags: Flags) -> None:
    """Everything, until told to end. Raises UserError."""
    machines = [*filter(None, flags.machines.split(","))]
    if not machines:
        raise UserError("--machines names no etcd: write it as http://127.0.0.1:2379")
    etcd = connect(flags.etcd_api, machines, 10.0, ca=flags.ca_cert, certificate=flags.tls_pem, key=flags.tls_key)
    where, options = _address(flags.addr), _options(flags)
    given = Settings(options, tuple(each for each in _others(flags) if not _same(each, where)))
    ending = Ending(flags.lameduck)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(etcd)
        answers = SkyAnswers(
            given, DnsClient(flags.rtimeout), rotate=flags.ns_rotate, prefix=flags.path_prefix,
            reading=_reading(etcd) if etcd.hides else None,
        )  # fmt: skip
        server = DnsServer(answers)
        stack.push_async_callback(server.close)
        try:
            await server.listen(*where)
        except OSError as error:
            raise UserError(f"can't listen on {flags.addr}: {error.strerror}; choose another --addr") from None
        await _serve_http(flags, answers, ending, stack)
        log.info("ready for queries on %s at %s", dns.text(options.domain), server.addresses)
        await _follow(etcd, flags.path_prefix, answers, ending)


async def _follow(etcd: Etcd, prefix: str, answers: SkyAnswers, ending: Ending) -> None:
    def told(changes: tuple[Change, ...]) -> None:
        first = answers.names is None
        answers.told(changes)
        if first:
            gc.collect()
            gc.freeze()  # what stays need not be looked through again and again

    mirror = Mirror(etcd, f"/{prefix}", RESYNC, told)
    running, over = asyncio.create_task(mirror.run()), asyncio.create_task(ending.wait())
    await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
    for task in (running, over):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _reading(etcd: Etcd) -> Reading:
    async def read(key: str) -> dict[str, str]:
        return (await etcd.read(key)).values

    return read


def _address(text: str) -> Server:
    """Of ip:port, where the server listens."""
    host, _, port = text.rpartition(":")
    try:
        address = str(ip_address(host.strip("[]")))
    except ValueError:
        address = ""
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--addr {text}: write it as ip:port, as in 127.0.0.1:53 or [::1]:53")
    return address, int(port)


def _same(server: settings.Server, where: Server) -> bool:
    """Whether a server is this one, as far as addresses tell: asking it would lead in a circle."""
    here, there = ip_address(where[0]), ip_address(server.address)
    return server.port == where[1] and (here == there or (here.is_unspecified and there.is_loopback))


def _options(flags: Flags) -> Options:
    try:
        domain = dns.lower(dns.name(flags.domain))
        hostmaster = dns.name((flags.hostmaster or f"hostmaster.{flags.domain}").replace("@", "."))
        local = dns.lower(dns.name(flags.local)) if flags.local else b""
    except dns.Malformed as error:
        raise UserError(f"--domain, --hostmaster or --local: {error}") from None
    return Options(
        domain, hostmaster, local, flags.ttl, flags.min_ttl, flags.priority, flags.ndots, flags.round_robin,
        f"podnet {__version__}",
    )  # fmt: skip


def _others(flags: Flags) -> tuple[settings.Server, ...]:
    """Who is asked for names outside."""
    if flags.no_rec:
        return ()
    if flags.nameservers:
        try:
            return tuple(map(settings.server, filter(None, flags.nameservers.split(","))))
        except ValueError as error:
            raise UserError(f"--nameservers: {error}") from None
    with suppress(OSError), open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:
        return settings.resolvers(file.read())
    return ()


async def _serve_http(flags: Flags, answers: SkyAnswers, ending: Ending, stack: AsyncExitStack) -> None:
    async def readiness(_: web.Request) -> web.Response:
        reason = "ending" if ending.begun else "etcd was not read yet" if answers.names is None else ""
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def counted(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = [web.get("/readiness", readiness), web.get("/healthz", alive)]
    port = os.environ.get("PROMETHEUS_PORT", "")
    if port and not port.isdecimal():
        raise UserError(f"PROMETHEUS_PORT={port} is no port: set a number, or nothing")
    for number, routes in ((flags.healthz_port, health), (int(port or 0), [web.get("/metrics", counted)])):
        if number:
            await _listen(routes, number, stack)


async def _listen(routes: list[web.RouteDef], port: int, stack: AsyncExitStack) -> None:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, None, port).start()
    except OSError as error:
        raise UserError(f"can't listen on port {port}: {error.strerror}; choose another one") from None
