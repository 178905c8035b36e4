"""`podnet dns dnsmasq`: Debian's dnsmasq as the cache in front of kubedns, and upstream's sidecar, in one program.

    ConfigMap or folder ──► servers file ──SIGHUP──► dnsmasq :53 ──► kubedns :10053, stub domains, the others
                 outdated names, POST /purge ──► asked, cleared, asked again (daemons/purging.py)

dnsmasq is not kept from starting by an API that can't be reached: after two seconds it starts with the node's servers.
Source: kubernetes/dns cmd/dnsmasq-nanny and cmd/sidecar, whose flags are taken here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import click
import msgspec
from aiohttp import web

from podnet.client.api import Api
from podnet.client.config import load
from podnet.daemons.asking import Asking
from podnet.daemons.dnsmasq import PACE, Dnsmasq
from podnet.daemons.purging import Purging
from podnet.dns import outside
from podnet.dns.ending import Ending
from podnet.dns.flags import DURATION, Command
from podnet.dns.sidecar import Probe, Sidecar, probe
from podnet.errors import UserError
from podnet.network.dns.dnsmasq import Misfit, Plan, defaults, looping, plan, routine, servers
from podnet.network.dns.settings import NOTHING, Settings, resolvers, server
from podnet.network.view import Problem

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that dnsmasq's first start waits for the settings."""

LOOKING = 5.0
"""Seconds between looks at resolv.conf."""


class Flags(msgspec.Struct, frozen=True):
    """What the command line says."""

    dnsmasq_args: tuple[str, ...]
    dnsmasq_exec: str
    restart: bool
    domain: str
    kubedns_server: str
    config_map: str
    config_map_namespace: str
    kubeconfig: str | None
    config_dir: str
    sync_interval: float
    probe: tuple[str, ...]
    prometheus_addr: str
    prometheus_port: int
    dnsmasq_poll_interval_ms: int
    lameduck: float
    verbose: bool


@click.command(cls=Command)
@click.argument("dnsmasq_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- DNSMASQ ARGUMENTS...]")
@click.option("--dnsmasq-exec", default="dnsmasq", show_default=True, help="The program.")
@click.option(
    "--restart/--no-restart", "--restart-dnsmasq/--no-restart-dnsmasq", default=True, show_default=True,
    help="Start a dnsmasq that died again, or end with its status.",
)  # fmt: skip
@click.option("--domain", default="cluster.local", show_default=True, help="The cluster's domain.")
@click.option("--kubedns-server", default="127.0.0.1:10053", show_default=True, help="For the default arguments.")
@click.option("--config-map", default="", help="A ConfigMap with stubDomains and upstreamNameservers, watched.")
@click.option("--config-map-namespace", default="kube-system", show_default=True)
@click.option("--kubeconfig", "--kubecfg-file", default=None, help="Default: $KUBECONFIG, ~/.kube/config, in-cluster.")
@click.option("--config-dir", default="", help="The same as files in a folder.")
@click.option("--sync-interval", default="10s", type=DURATION, show_default=True, help="Between looks into it.")
@click.option("--probe", multiple=True, metavar="LABEL,SERVER,NAME,SECONDS[,TYPE]", help="Repeatable.")
@click.option("--prometheus-addr", default="0.0.0.0", show_default=True, help="Of /metrics and the rest.")
@click.option("--prometheus-port", default=10054, show_default=True, type=click.IntRange(0, 65535), help="0: none.")
@click.option("--dnsmasq-poll-interval-ms", default=5000, show_default=True, type=click.IntRange(1))
@click.option("--lameduck", default="5s", type=DURATION, show_default=True, help="How long it answers after SIGTERM.")
@click.option("--verbose", is_flag=True, help="Log what dnsmasq says each time it reads its files again.")
def command(**flags: object) -> int:
    """Run dnsmasq as the cache in front of kubedns, and serve its metrics.

    Without arguments of its own dnsmasq gets the classic ones. Never write --servers-file, --no-daemon.

    \b
    Examples:
      podnet dns dnsmasq --config-map kube-dns
      podnet dns dnsmasq --config-dir /etc/k8s/dns -- -k --cache-size=1000 --server=/cluster.local/127.0.0.1#10053
    """
    given = msgspec.convert(flags, Flags)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="podnet-dnsmasq-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - dnsmasq gives up being root, and reads what is in it
        return asyncio.run(_main(given, _plan(given, f"{folder}/servers"), _probes(given)))


def _plan(flags: Flags, servers_file: str) -> Plan:
    try:
        return plan(flags.dnsmasq_args or defaults(flags.domain, server(flags.kubedns_server)), servers_file)
    except Misfit as error:
        raise UserError(str(error)) from None
    except ValueError as error:
        raise UserError(f"--kubedns-server: {error}") from None


def _probes(flags: Flags) -> tuple[Probe, ...]:
    try:
        found = tuple(map(probe, flags.probe))
    except ValueError as error:
        raise UserError(f"--probe: {error}") from None
    if len({each.label for each in found}) < len(found):
        raise UserError("--probe: each needs another label")
    return found


class Keeper:
    """One dnsmasq with all that surrounds it. `api`: None when nothing is asked of it."""

    def __init__(self, flags: Flags, made: Plan, probes: tuple[Probe, ...], ending: Ending, api: Api | None) -> None:
        args = [flags.dnsmasq_exec, *made.args]
        self.dnsmasq = Dnsmasq(args, _servers_file(made), self._heard, PACE if flags.restart else None)
        asking = Asking(made.address, made.port)
        self.purging = Purging(asking.has, self.dnsmasq.clear, asyncio.get_running_loop().time)
        self.sidecar = Sidecar(asking, probes, self.purging, self._unready, flags.dnsmasq_poll_interval_ms / 1000)
        self.sidecar.starts.set_function(lambda: self.dnsmasq.starts)
        self.sidecar.loops.set_function(lambda: len(self._loops))
        self._flags = flags
        self._plan = made
        self._ending = ending
        self._api = api
        self._source = outside.Source(
            flags.config_map, flags.config_map_namespace, flags.config_dir, flags.sync_interval
        )
        self._who = f"dnsmasq on {socket.gethostname()}"
        self._settings = NOTHING
        self._known = asyncio.Event()
        self._loops: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """All that goes on for ever beside dnsmasq."""
        return [self._follow(), self._look(), self.purging.run(), self.sidecar.run()]

    async def run(self) -> int:
        """Keep dnsmasq running; its exit status."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._known.wait()
        self._serve()
        try:
            return await self.dnsmasq.run()
        except OSError as error:
            program = self._flags.dnsmasq_exec
            raise UserError(
                f"{program} can't be started ({error.strerror}): install dnsmasq-base, or say --dnsmasq-exec"
            ) from None

    async def _follow(self) -> None:
        async for each in outside.settings(self._source, self._api, self._flags.domain, self._who):
            self._settings = each
            self._known.set()
            self._serve()

    async def _look(self) -> None:
        """The node's servers change too."""
        while True:
            await asyncio.sleep(LOOKING)
            self._serve()

    def _serve(self) -> None:
        others = resolvers(_read(self._plan.resolv_conf)) if self._plan.resolv_conf else ()
        if self.dnsmasq.serve(servers(self._settings, others)):
            self._loops.clear()
            log.info("servers: %s", _shown(self._settings) or ", ".join(map(str, others)) or "kubedns alone")

    def _heard(self, line: str) -> None:
        loop = looping(line)
        if loop is not None and loop not in self._loops:
            self._loops.add(loop)
            self._tell_loop(loop)
        elif loop is None and (self._flags.verbose or not routine(line)):
            sys.stderr.write(f"{line}\n")

    def _tell_loop(self, found: str) -> None:
        message = f"{found} leads back to dnsmasq and is passed over: name another server than one that asks this one"
        log.error("%s", message)
        if self._api is not None:
            task = asyncio.create_task(
                outside.tell(self._api, Problem(self._source.about, "DNSLoop", message, "data"), self._who)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _unready(self) -> str:
        if self._ending.begun:
            return "dnsmasq is about to end"
        return "" if self._known.is_set() or self.dnsmasq.starts else "the settings are not known yet"


def _servers_file(made: Plan) -> str:
    return made.args[-1].partition("=")[2]


def _shown(settings: Settings) -> str:
    stubs = [f"{domain}: {', '.join(map(str, listed))}" for domain, listed in settings.stubs.items()]
    others = [f"others: {', '.join(map(str, settings.upstreams))}"] if settings.upstreams else []
    return "; ".join(stubs + others)


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


async def _main(flags: Flags, made: Plan, probes: tuple[Probe, ...]) -> int:
    ending = Ending(flags.lameduck)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(load(flags.kubeconfig))) if flags.config_map else None
        keeper = Keeper(flags, made, probes, ending, api)
        if flags.prometheus_port:
            await _serve_http(flags, keeper.sidecar, stack)
        running = asyncio.create_task(keeper.run())
        over = asyncio.create_task(ending.wait())
        working = asyncio.gather(*keeper.work())
        both: list[asyncio.Future[Any]] = [running, over, working]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        ended = running.done()
        await keeper.dnsmasq.end()
        over.cancel()
        working.cancel()
        if not keeper.dnsmasq.starts:
            running.cancel()
        results = await asyncio.gather(running, working, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return _status(results[0]) if ended else 0


def _status(code: object) -> int:
    """As a shell tells it."""
    return 1 if not isinstance(code, int) else 128 - code if code < 0 else code


async def _serve_http(flags: Flags, sidecar: Sidecar, stack: AsyncExitStack) -> None:
    runner = web.AppRunner(sidecar.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, flags.prometheus_addr, flags.prometheus_port).start()
    except OSError as error:
        where = f"{flags.prometheus_addr} port {flags.prometheus_port}"
        raise UserError(f"can't listen on {where}: {error.strerror}; choose another --prometheus-port") from None
