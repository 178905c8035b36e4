"""`podnet dns kube2sky`: the older form of cluster DNS, which keeps the cluster's names in etcd, for SkyDNS to read.

It is podnet's one idea again: what is wanted follows from the API's objects (network/dns/skydns_records.py), what is
there is a copy of etcd's subtree that a watch keeps up, and what it does is the difference. So it may be killed at any
moment, several may run at once, and a key that somebody else changes or removes is put back. It touches nothing but
what is below svc and pod of its domain, and it deletes nothing before it knows all objects.

While etcd is away it waits, and is not ready. (Upstream's ended after --etcd-mutation-timeout to be started again.)
Source: kubernetes v1.1 cluster/addons/dns/kube2sky/kube2sky.go (flags).
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from time import monotonic

import click
import msgspec
from aiohttp import web

from podnet.client.api import Api
from podnet.client.config import ConfigError, Credentials, load
from podnet.client.etcd import AGAIN, Change, Etcd, EtcdError, Mirror
from podnet.client.etcd_dialects import ETCD, connect
from podnet.client.reflector import Informers, Watch
from podnet.dns.ending import Ending
from podnet.dns.flags import DURATION, Command
from podnet.errors import UserError
from podnet.network.dns.skydns_records import PREFIX, Records, Steps, hidden, leftovers, path, records, steps, supposed
from podnet.network.memo import Memo
from podnet.objects.kinds import ENDPOINTSLICES, PODS, SERVICES
from podnet.wire import dns

log = logging.getLogger(__name__)

KINDS = (SERVICES, ENDPOINTSLICES, PODS)
SEEN = 1.0
"""Seconds to wait until the watch tells of what was written."""


@click.command(cls=Command)
@click.option("--domain", default="cluster.local", show_default=True, help="The domain of the cluster's names.")
@click.option("--etcd-server", "servers", multiple=True, default=("http://127.0.0.1:2379",), show_default=True,
              help="URL of etcd; may be repeated.")  # fmt: skip
@click.option("--etcd-api", default="3", show_default=True, type=click.Choice(sorted(ETCD)), help="Its API: 2 is what "
              "SkyDNS itself reads, and needs etcd --enable-v2.")  # fmt: skip
@click.option("--etcd-mutation-timeout", "--etcd_mutation_timeout", "timeout", default="10s", show_default=True,
              type=DURATION, help="How long a write may take; longer makes it not ready.")  # fmt: skip
@click.option("--etcd-cafile", default="", help="PEM of the authority of etcd's certificate.")
@click.option("--etcd-certfile", default="", help="PEM of our certificate for etcd.")
@click.option("--etcd-keyfile", default="", help="PEM of its key.")
@click.option("--path-prefix", default=PREFIX, show_default=True, help="The first part of every key.")
@click.option("--kubecfg-file", "--kubecfg_file", "--kubeconfig", "kubeconfig", default=None,
              help="Path; default: $KUBECONFIG, ~/.kube/config, or in-cluster.")  # fmt: skip
@click.option("--kube-master-url", "--kube_master_url", "master", default="", help="URL of the API server, instead of "
              "the kubeconfig's; variables in it are expanded.")  # fmt: skip
@click.option("--resync", default="5s", show_default=True, type=DURATION, help="From one reading of etcd to the next.")
@click.option("--healthz-port", default=8081, show_default=True, type=click.IntRange(0, 65535),
              help="Where /readiness and /healthz are served; 0 for nowhere.")  # fmt: skip
def command(
    domain: str, servers: tuple[str, ...], etcd_api: str, timeout: float, etcd_cafile: str, etcd_certfile: str,
    etcd_keyfile: str, path_prefix: str, kubeconfig: str | None, master: str, resync: float, healthz_port: int,
) -> None:  # fmt: skip
    """Write the cluster's names to etcd, in SkyDNS's format.

    \b
    Example:
      podnet dns kube2sky --domain cluster.local --etcd-server http://127.0.0.1:2379
    """
    if not timeout or not resync:
        raise UserError("--etcd-mutation-timeout and --resync must be longer than 0")
    try:
        dns.name(domain)
    except dns.Malformed as error:
        raise UserError(f"--domain: {error}") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    etcd = connect(etcd_api, servers, timeout, ca=etcd_cafile, certificate=etcd_certfile, key=etcd_keyfile)
    asyncio.run(_main(etcd, credentials(kubeconfig, master), domain, path_prefix, resync, timeout, healthz_port))


def credentials(kubeconfig: str | None, master: str) -> Credentials:
    """Whose API server, and who we are; `master` alone is enough. Raises UserError."""
    url = os.path.expandvars(master).rstrip("/")
    try:
        found = load(kubeconfig)
    except ConfigError as error:
        if kubeconfig or not url:
            raise UserError(str(error)) from None
        return Credentials(server=url)
    return msgspec.structs.replace(found, server=url) if url else found


async def _main(
    etcd: Etcd, who: Credentials, domain: str, prefix: str, resync: float, patience: float, port: int
) -> None:
    ending = Ending(0)
    async with etcd, Api(who) as api:
        informers = Informers(api, map(Watch, KINDS))
        writer = Writer(etcd, informers, domain, prefix, resync=resync, patience=patience)
        runner = await _serve(writer, port)
        running = asyncio.create_task(writer.run())
        ended = asyncio.create_task(ending.wait())
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, ended):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await runner.cleanup()


async def _serve(writer: Writer, port: int) -> web.AppRunner:
    app = web.Application()

    async def readiness(_: web.Request) -> web.Response:
        reason = writer.not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app.add_routes([web.get("/readiness", readiness), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    if port:
        try:
            await web.TCPSite(runner, None, port).start()
        except OSError as error:
            raise UserError(f"can't listen on port {port}: {error.strerror}; choose another --healthz-port") from None
    return runner


class Writer:
    """Keeps etcd so. `run` it for ever; times in seconds.

    resync    from one reading of all that is in etcd to the next
    patience  how long a write may fail before it is not ready
    """

    def __init__(
        self, etcd: Etcd, informers: Informers, domain: str, prefix: str = PREFIX, *, resync: float, patience: float
    ) -> None:
        self._etcd, self._informers, self._domain, self._patience = etcd, informers, domain, patience
        self._root = path(domain, prefix)
        self._mirror = Mirror(etcd, self._root, resync, self._told)
        self._memo: Memo = {}
        self._hidden: Records | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._failing = (monotonic(), "it has just begun")
        self._done = False

    def not_ready(self) -> str:
        """Why its names may be missing or old, "" when they are not."""
        if not self._informers.synced:
            return "; ".join(self._informers.trouble.values()) or "the API's objects are not known yet"
        for since, why in (self._failing, (self._mirror.since, self._mirror.trouble)):
            if why and (not self._done or monotonic() - since > self._patience):
                return why
        return ""

    async def run(self) -> None:
        """Until cancelled; raises UserError when etcd speaks another language."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._informers, self._mirror):
                    group.create_task(work.run())
                group.create_task(self._follow())
                group.create_task(self._write())
        except BaseExceptionGroup as failures:
            mistakes = failures.subgroup(UserError)
            raise (mistakes.exceptions[0] if mistakes else failures) from None

    def _told(self, _: tuple[Change, ...]) -> None:
        self._news.set()
        self._wake.set()

    async def _follow(self) -> None:
        cluster = await self._informers.until_synced()
        while True:
            self._wake.set()
            cluster = await self._informers.changed(cluster)

    async def _write(self) -> None:
        await self._informers.until_synced()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._mirror.synced:
                await self._once()

    async def _once(self) -> None:
        """One comparison, and what follows from it."""
        wanted = records(self._memo, self._informers.cluster, self._domain)
        todo = self._todo(wanted)
        try:
            if todo != _NOTHING:
                await self._seen(await self._etcd.write(todo.values, todo.gone, todo.trees))
        except EtcdError as error:
            self._failed(str(error))
            self._wake.set()
            await asyncio.sleep(AGAIN)
            return
        if self._etcd.hides:
            self._hidden = {key: made for key, made in wanted.items() if hidden(key)}
        self._failed("")

    def _todo(self, wanted: Records) -> Steps:
        held = self._mirror.values
        if not self._etcd.hides:
            return steps(held, wanted, self._root)
        todo = steps(supposed(held, wanted, self._hidden or {}, self._root), wanted, self._root)
        if self._hidden is None:  # what another kube2sky may have left where it can't be seen
            todo = msgspec.structs.replace(todo, trees=(*todo.trees, *leftovers(held, self._root)))
        return todo

    async def _seen(self, revision: int) -> None:
        """Wait until the copy has what was written, so that it is not written again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN):
                while self._mirror.revision < revision:
                    self._news.clear()
                    await self._news.wait()

    def _failed(self, why: str) -> None:
        since, before = self._failing
        if why and why != before:
            log.warning("etcd: %s", why)
        elif before and not why:
            log.info("etcd holds the cluster's names below %s", self._root)
        self._done = self._done or not why
        self._failing = (since if before else monotonic(), why)


_NOTHING = Steps({})
