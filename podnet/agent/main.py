"""`podnet agent`: one process a node, in the node's network namespace.

It may be killed at any moment: the kernel keeps forwarding, the records are on disk, and the next start reads what is
there and changes only what differs. On SIGTERM it withdraws the CNI configuration and leaves everything else in place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import uvloop
from aiohttp import web

from podnet import __version__
from podnet.agent import metrics
from podnet.agent.agent import Agent
from podnet.agent.attachments import Attachments
from podnet.agent.attachments_file import boot_id
from podnet.agent.cni_server import CniServer
from podnet.agent.conditions import Conditions
from podnet.agent.conflist import Conflist
from podnet.agent.dns_cache import DnsCache
from podnet.agent.dns_limits import DnsLimits
from podnet.agent.ear import Ear
from podnet.agent.ejections import Ejections
from podnet.agent.forgetting import CountingDataplane
from podnet.agent.publish import Publisher
from podnet.agent.services import count_rules, count_without_local
from podnet.agent.serving import Serving
from podnet.agent.web import serve
from podnet.client.api import Api
from podnet.client.config import ConfigError, load
from podnet.client.informer import Pace
from podnet.client.reflector import Informers, Watch
from podnet.client.store import Problem as Unusable
from podnet.errors import UserError
from podnet.kernel.facts import missing, uplink
from podnet.kernel.monitor import Monitor
from podnet.kernel.reconciler import Reconciler
from podnet.network.view import LocalFacts, NodeView, Problem
from podnet.objects.cluster import Cluster
from podnet.objects.kinds import DEBUGPORTS, ENDPOINTSLICES, NETWORKCONFIGS, NODES, PODS, SERVICEROUTES, SERVICES

log = logging.getLogger(__name__)

WATCHES = tuple(map(Watch, (NODES, NETWORKCONFIGS, SERVICES, ENDPOINTSLICES, SERVICEROUTES, PODS, DEBUGPORTS)))


@click.command()
@click.option("--node", required=True, help="Name of this node's Node object.")
@click.option("--kubeconfig", default=None, help="Path; default: $KUBECONFIG, ~/.kube/config, or in-cluster.")
@click.option("--state-dir", default="/var/lib/podnet", show_default=True, help="What has to survive a reboot.")
@click.option("--run-dir", default="/run/podnet", show_default=True, help="Sockets: cni.sock and agent.sock.")
@click.option("--conf-dir", default="/etc/cni/net.d", show_default=True, help="Where the conflist is written.")
@click.option("--listen", default="127.0.0.1:10258", show_default=True, help="ADDRESS:PORT of /metrics; '' for none.")
@click.option("--verbose", is_flag=True, help="Log every pass.")
def command(
    node: str, kubeconfig: str | None, state_dir: str, run_dir: str, conf_dir: str, listen: str, verbose: bool
) -> None:
    """Run the node agent, in the node's network namespace.

    \b
    Example:
      podnet agent --node node1 --kubeconfig /etc/podnet/kubeconfig
    """
    if os.geteuid() != 0:
        raise UserError("the agent changes the kernel's network and needs root: run it as root or with sudo")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    for folder in (state_dir, run_dir):
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    uvloop.run(_main(node, kubeconfig, state_dir, run_dir, conf_dir, _address(listen)))


def _address(listen: str) -> tuple[str, int] | None:
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--listen {listen} is not ADDRESS:PORT, as in 127.0.0.1:10258")
    return host.strip("[]"), int(port)


async def _main(
    node: str, kubeconfig: str | None, state_dir: str, run_dir: str, conf_dir: str, listen: tuple[str, int] | None
) -> None:
    try:
        credentials = load(kubeconfig)
    except ConfigError as error:
        raise UserError(str(error)) from None
    loop = asyncio.get_running_loop()
    kernel = ThreadPoolExecutor(1, "kernel")
    dataplane = await loop.run_in_executor(kernel, CountingDataplane, state_dir)
    store = await Attachments.open(state_dir, boot_id())
    async with Api(credentials) as api:
        informers = Informers(api, WATCHES, pace=Pace(cap=8))
        publisher = Publisher(api, node)
        conflist = Conflist(conf_dir, f"{run_dir}/cni.sock")
        serving = Serving(node, run_dir, lambda: informers.cluster if informers.synced else None)
        dns_cache = DnsCache(node, publisher.tell)
        agent = Agent(
            node,
            Reconciler(dataplane),
            kernel,
            cluster=lambda: informers.cluster if informers.synced else None,
            facts=lambda seen: _facts(seen, dataplane),
            attachments=store.all(),
            applied=lambda seen, reason: _applied(agent, serving, publisher, conflist, seen, reason),
            looking=publisher.withhold,
            said=lambda: publisher.tried,
            unusable=lambda: (*_unusable(informers), *serving.problems),
            prepare=serving.prepare,
            cached=dns_cache.answers,
        )
        dns_cache.agent = agent
        count_without_local(agent)
        count_rules(agent)
        Ear(Monitor(own=dataplane.own), agent.kernel_events)
        Ear(dataplane.daemons.deaths, agent.kernel_events)
        server = CniServer(f"{run_dir}/cni.sock", store, agent, _observe)
        ejections, dns_limits = Ejections(agent, publisher.tell), DnsLimits(agent, publisher.tell)

        def dns_shown() -> dict[str, object]:
            return {"dnsCache": dns_cache.state and dns_cache.state.answers, "dnsLimited": sorted(dns_limits.now)}

        runners = await serve(agent, __version__, run_dir, listen, lambda: ejections.now, dns_shown)
        runners += await _kube_proxy_ports(serving)
        await server.start()
        click.echo(f"podnet agent {__version__} of {node} runs", err=True)
        try:
            conditions = Conditions(
                api, node, lambda: agent.cluster, lambda: _unusable(informers), lambda: serving.problems
            )
            heard = (serving.queued, dns_cache.follow, lambda _: agent.wake(), lambda _: conditions.wake())
            runs = (informers, agent, publisher, serving, ejections, conditions, dns_cache, dns_limits)
            await _until_signal(agent, informers, heard, [each.run for each in runs])
        finally:
            conflist.withdraw()
            await server.close()
            for runner in runners:
                await runner.cleanup()
            await store.close()


async def _kube_proxy_ports(serving: Serving) -> list[web.AppRunner]:
    """Beside another proxy podnet works, only not under its name."""
    try:
        return await serving.serve()
    except OSError as error:
        log.warning("kube-proxy's ports 10256 and 10249 are taken, so nothing is served there: %s", error)
        return []


async def _until_signal(
    agent: Agent,
    informers: Informers,
    heard: Iterable[Callable[[Cluster], None]],
    runs: Iterable[Callable[[], Coroutine[Any, Any, None]]],
) -> None:
    """`heard` are told of each new snapshot."""

    async def follow() -> None:
        agent.wake()  # to say what it waits for, and to take back what a killed one has promised
        seen = await informers.until_synced()
        while True:
            for tell in heard:
                tell(seen)
            seen = await informers.changed(seen)

    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(job()) for job in (follow, *runs)]

        def stop() -> None:
            for task in work:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)


def _applied(
    agent: Agent, serving: Serving, publisher: Publisher, conflist: Conflist, seen: NodeView | None, reason: str | None
) -> None:
    if agent.last is not None:
        serving.applied(agent.seconds, agent.passes == 1, agent.last, agent.current)
    node = agent.cluster.nodes.get(("", agent.node)) if agent.cluster else None
    publisher.publish(seen, agent.problems, node.metadata.annotations if node else None)
    if reason is None:
        conflist.publish()
    else:
        conflist.withdraw()


def _unusable(informers: Informers) -> tuple[Problem, ...]:
    return tuple(Problem(_name(each), "Invalid", each.message) for each in informers.problems)


def _name(problem: Unusable) -> str:
    return f"{problem.kind}/{'/'.join(filter(None, problem.key))}"


def _observe(command: str, code: int, seconds: float) -> None:
    metrics.CNI.labels(command, code).observe(seconds)


def _facts(seen: NodeView, dataplane: CountingDataplane) -> LocalFacts | str:
    me = seen.me
    found = uplink(me.addresses)
    if found is None:
        wanted = " or ".join(me.addresses) or "an InternalIP"
        return f"no link of this node carries {wanted}; is Node/{me.name} another machine?"
    try:
        others = dataplane.iptables.others() if seen.network.proxy.mode == "iptables" else ()
    except OSError as error:
        return f"whether another kube-proxy is at work can't be told: {error}"
    return LocalFacts(me.name, found.name, found.mtu, found.prefixes, found.local, missing(), others)
