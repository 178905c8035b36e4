"""`podnet dns kubedns`: answers for the cluster's names out of the API's watch.

It listens from the first moment and says SERVFAIL until every kind was listed once (naming.py). Flags and ports are
kube-dns' (kubernetes/dns cmd/kube-dns/app/options), and so are the metrics' names. Unlike it, it ends when it is told
to, in a way that nobody notices (ending.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import click
import msgspec
import uvloop
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podnet.client.api import Api
from podnet.client.config import Credentials, load
from podnet.client.informer import Pace
from podnet.client.reflector import Informers, Watch
from podnet.daemons.dns_client import DnsClient, Server
from podnet.daemons.dns_server import DnsServer
from podnet.dns import metrics, outside
from podnet.dns.answering import Answers, Servers
from podnet.dns.ending import Ending
from podnet.dns.flags import DURATION, Command
from podnet.dns.naming import Naming
from podnet.errors import UserError
from podnet.network.dns import settings
from podnet.network.dns.named import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES, needed
from podnet.network.dns.zone import Options
from podnet.wire import dns

log = logging.getLogger(__name__)

RESOLV_CONF = "/etc/resolv.conf"


class Flags(msgspec.Struct, frozen=True):
    """What the command line says."""

    domain: str
    dns_port: int
    dns_bind_address: tuple[str, ...]
    healthz_port: int
    kubeconfig: str | None
    kube_master_url: str
    config_map: str
    config_map_namespace: str
    config_dir: str
    config_period: float
    nameservers: str
    initial_sync_timeout: float
    pods: str
    service: str
    transfer_to: tuple[str, ...]
    complete_searches: str
    via_cache: str
    purge: str
    lameduck: float


@click.command(cls=Command)
@click.option("--domain", default="cluster.local", show_default=True, help="The cluster's domain.")
@click.option("--dns-port", default=53, show_default=True, type=click.IntRange(0, 65535), help="UDP and TCP.")
@click.option("--dns-bind-address", multiple=True, default=("0.0.0.0",), show_default=True, help="Repeatable.")
@click.option("--healthz-port", default=8081, show_default=True, help="HTTP: /readiness, /healthz, /cache; 0: none.")
@click.option("--kubeconfig", "--kubecfg-file", default=None, help="Default: $KUBECONFIG, ~/.kube/config, in-cluster.")
@click.option("--kube-master-url", default="", help="Another server than the kubeconfig's.")
@click.option("--config-map", default="", help="A ConfigMap with stubDomains and upstreamNameservers.")
@click.option("--config-map-namespace", default="kube-system", show_default=True)
@click.option("--config-dir", default="", help="The same as files in a folder.")
@click.option("--config-period", default="10s", type=DURATION, show_default=True, help="Between looks into it.")
@click.option("--nameservers", default="", help="For other names: ip:port,...  Default: those of resolv.conf.")
@click.option("--initial-sync-timeout", default="60s", type=DURATION, show_default=True, help="Then it gives up.")
@click.option("--pods", type=click.Choice(["verified", "insecure", "disabled"]), default="verified", show_default=True)
@click.option("--service", default="kube-system/kube-dns", show_default=True, help="Its own, for ns.dns.DOMAIN.")
@click.option("--transfer-to", multiple=True, help="CIDR of clients that may have the whole zone (AXFR); repeatable.")
@click.option(
    "--complete-searches", type=click.Choice(["off", "annotated", "all"]), default="off", show_default=True,
    help="Of which pods the search path is walked here, in one question.",
)  # fmt: skip
@click.option("--via-cache", default="", help="Ask for names outside through this dnsmasq first, as 127.0.0.1:53.")
@click.option("--purge", default="", help="URL that hears of outdated names: http://127.0.0.1:10054/purge")
@click.option("--lameduck", default="5s", type=DURATION, show_default=True, help="How long it answers after SIGTERM.")
def command(**flags: object) -> None:
    """Answer for the names of a cluster (Kubernetes DNS specification 1.1.0).

    \b
    Examples:
      podnet dns kubedns --domain cluster.local. --dns-port 10053
      podnet dns kubedns --dns-port 5353 --dns-bind-address 127.0.0.1 --kubeconfig ~/.kube/config
    Metrics are at port $PROMETHEUS_PORT (10055; 0: none).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    uvloop.run(run(msgspec.convert(flags, Flags)))


async def run(flags: Flags) -> None:
    """Everything, until it is told to end. Raises UserError."""
    ending = Ending(flags.lameduck)
    client = DnsClient()
    answers = _answers(flags, client)
    named, cache = _nameservers(flags), _servers("--via-cache", flags.via_cache)
    async with AsyncExitStack() as stack:
        server = DnsServer(answers)
        stack.push_async_callback(server.close)
        for address in flags.dns_bind_address:
            try:
                await server.listen(address, flags.dns_port)
            except OSError as error:
                raise UserError(f"can't listen on {address} port {flags.dns_port}: {error.strerror}") from None
        metrics.Requests(lambda: answers.quick, lambda: answers.others)
        await _serve_http(flags, answers, ending, stack)
        api = await stack.enter_async_context(Api(_credentials(flags)))
        informers = Informers(api, _watches(flags), pace=Pace(first=0.05))
        naming = Naming(answers, informers, _options(flags), flags.complete_searches, flags.purge)
        source = outside.Source(flags.config_map, flags.config_map_namespace, flags.config_dir, flags.config_period)
        said = outside.settings(source, api, _domain(flags), f"kubedns on {socket.gethostname()}")
        work = [informers.run(), naming.follow(), _heed(said, answers, named, cache), _in_time(flags, answers)]
        work += [naming.tell()] if flags.purge else []
        log.info("kubedns answers for %s at %s", _domain(flags), server.addresses)
        await _until(ending, work)


async def _until(ending: Ending, work: Iterable[Coroutine[None, None, None]]) -> None:
    """Work until the end; what fails ends everything."""
    working: asyncio.Future[list[None]] = asyncio.gather(*work)
    over = asyncio.create_task(ending.wait())
    both: list[asyncio.Future[Any]] = [working, over]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
        await over
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def _answers(flags: Flags, client: DnsClient) -> Answers:
    try:
        made = Answers(client, flags.transfer_to)
    except ValueError as error:
        raise UserError(f"--transfer-to: {error}; write a CIDR as 10.0.0.0/8") from None
    made.seen = metrics.seen
    return made


def _domain(flags: Flags) -> str:
    return flags.domain.rstrip(".").lower()


def _options(flags: Flags) -> Options:
    namespace, slash, name = flags.service.partition("/")
    if not slash:
        raise UserError(f"--service {flags.service}: write it as NAMESPACE/NAME, kube-system/kube-dns for example")
    try:
        dns.name(_domain(flags))
    except dns.Malformed as error:
        raise UserError(f"--domain: {error}") from None
    return Options(_domain(flags), flags.pods, (namespace, name))


def _nameservers(flags: Flags) -> tuple[settings.Server, ...]:
    """For names outside when the ConfigMap names none."""
    if flags.nameservers:
        return _servers("--nameservers", flags.nameservers)
    with suppress(OSError), open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:
        return settings.resolvers(file.read())
    return ()


def _servers(flag: str, text: str) -> tuple[settings.Server, ...]:
    try:
        return tuple(map(settings.server, filter(None, text.split(","))))
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None


def _credentials(flags: Flags) -> Credentials:
    """Raises ConfigError."""
    found = load(flags.kubeconfig)
    return msgspec.structs.replace(found, server=flags.kube_master_url) if flags.kube_master_url else found


def _watches(flags: Flags) -> Iterator[Watch]:
    yield from (Watch(SERVICES), Watch(ENDPOINTSLICES, keep=needed), Watch(NAMESPACES))
    if flags.pods == "verified" or flags.complete_searches != "off":
        yield Watch(PODS)


async def _heed(
    said: AsyncIterator[settings.Settings],
    answers: Answers,
    named: tuple[settings.Server, ...],
    cache: tuple[settings.Server, ...],
) -> None:
    """Ask whom the administrator says, from the moment it is said; `named`: when he names nobody."""
    async for each in said:
        stubs = {dns.lower(dns.name(domain)): _pairs(servers) for domain, servers in each.stubs.items()}
        answers.servers = Servers(stubs, _pairs(each.upstreams or named), _pairs(cache))
        log.info(
            "other names: %s",
            {dns.text(at): servers for at, servers in stubs.items()} | {".": answers.servers.upstreams},
        )
        for server in await answers.find_loops():
            log.error("%s#%d leads back here: it is not asked any more; name other upstreamNameservers", *server)
        metrics.LOOPING.set(len(answers.servers.looping))


def _pairs(servers: Iterable[settings.Server]) -> tuple[Server, ...]:
    return tuple((each.address, each.port) for each in servers)


async def _in_time(flags: Flags, answers: Answers) -> None:
    """Raises UserError when the API has not told everything in time: a restart may reach another API server."""
    await asyncio.sleep(flags.initial_sync_timeout)
    if answers.zone is None:
        raise UserError(f"the API did not list everything within {flags.initial_sync_timeout:g} s: is it reachable?")


async def _serve_http(flags: Flags, answers: Answers, ending: Ending, stack: AsyncExitStack) -> None:
    """Readiness and what the zone holds; metrics."""

    async def readiness(_: web.Request) -> web.Response:
        reason = "ending" if ending.begun else "not synced yet" if answers.zone is None else ""
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def cache(_: web.Request) -> web.Response:
        return web.json_response(answers.zone.shown() if answers.zone else {})

    async def counted(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = [web.get("/readiness", readiness), web.get("/healthz", alive), web.get("/cache", cache)]
    port = os.environ.get("PROMETHEUS_PORT", "10055")
    for number, routes in ((flags.healthz_port, health), (int(port or 0), [web.get("/metrics", counted)])):
        if number:
            app = web.Application()
            app.add_routes(routes)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.TCPSite(runner, flags.dns_bind_address[0], number).start()
            except OSError as error:
                raise UserError(f"can't listen on port {number}: {error.strerror}") from None
