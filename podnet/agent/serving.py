"""What an agent does for Services beside the kernel: the userspace proxy's orders, health servers, metrics.

cluster changes -> pulse.queued        a pass begins -> the proxy hears what will be led to it
a pass was clean -> pulse.synced       ... -> health check node ports come and go
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from podnet.agent.proxy_health import EVERYWHERE, HealthServers, serve
from podnet.agent.proxy_metrics import Pulse
from podnet.daemons.proxy_feed import Feed
from podnet.kernel.reconciler import Pass
from podnet.network.proxy import userspace
from podnet.network.proxy.feature import families, mode_name, node_addresses
from podnet.network.proxy.health import configz, eligible, trigger_time
from podnet.network.view import HealthCheck, NodeView, Problem
from podnet.objects.cluster import Cluster
from podnet.objects.network import NetworkSpec
from podnet.state.difference import changes
from podnet.state.iptables import IptablesChain, IptablesJump
from podnet.state.nft import Element, NftTable

USERSPACE, USERSPACE_SOCKET = "userspace", "userspace.sock"
TABLES = (NftTable, Element, IptablesChain, IptablesJump)
"""What the proxy asks of the kernel; transactions are whole, so what else stands in them is held up too."""


class Serving:
    """`cluster()` gives the newest snapshot; `run_dir` is where the userspace proxy has its socket."""

    def __init__(self, node: str, run_dir: str, cluster: Callable[[], Cluster | None]) -> None:
        self.pulse = Pulse()
        self._node = node
        self._cluster = cluster
        self._feed = Feed(f"{run_dir}/{USERSPACE_SOCKET}")
        self._servers = HealthServers(lambda: self.pulse.progress.healthy(time.time()))
        self._seen: Cluster | None = None
        self._spec = NetworkSpec()
        self.mode = self._spec.proxy.mode
        """What is in force, whatever was asked for."""
        self._checks: tuple[HealthCheck, ...] = ()
        self._hosts: tuple[str, ...] = EVERYWHERE
        """Of health check node ports: where node ports are, as upstream."""
        self._dirty = asyncio.Event()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What can't be served here."""
        if self._spec.proxy.mode != USERSPACE or self._feed.trouble is None:
            return self._servers.problems
        return (*self._servers.problems, Problem(f"Node/{self._node}", "NoUserspaceProxy", self._feed.trouble))

    def queued(self, cluster: Cluster) -> None:
        """A new snapshot is about to be carried out."""
        before, self._seen = self._seen, cluster
        if before is None:
            self.pulse.queued(time.time())
            return
        services = changes(cluster.services, before.services)
        slices = changes(cluster.endpointslices, before.endpointslices)
        same = cluster.networkconfigs is before.networkconfigs and cluster.serviceroutes is before.serviceroutes
        if services or slices or not same:
            there = (cluster.endpointslices[key] for key in slices if key in cluster.endpointslices)
            triggers = [(each.address_type, when) for each in there if (when := trigger_time(each)) is not None]
            self.pulse.queued(time.time(), len(services), len(slices), triggers)

    async def prepare(self, view: NodeView) -> None:
        """Before the kernel leads anything to it the proxy must expect it. On leaving the mode it keeps its orders, for
        those who are connected."""
        self._spec, self._checks, self.mode = view.network, view.checks, mode_name(view)
        chosen = (address for v6 in families(view) for address in node_addresses(view, v6))
        self._hosts = tuple(chosen) if view.network.proxy.node_port_addresses else EVERYWHERE
        if view.network.proxy.mode == USERSPACE:
            ports = (port for ports in view.services.values() for port in ports)
            self._feed.update(userspace.orders(view, ports))
            await self._feed.settled()

    def applied(self, seconds: float, whole: bool, done: Pass, current: bool = True) -> None:
        """A pass has ended, over the newest cluster if `current`. A pod's link that can't be made is nothing that load
        balancers should hear of."""
        if refused := {error.resource.family for error in done.failed if isinstance(error.resource, TABLES)}:
            self.pulse.failed(time.time(), self.mode, whole, refused)
        elif current:
            self.pulse.synced(time.time(), seconds, whole)
            self.pulse.wrote(done.plan.steps)
        self._dirty.set()

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run())
            tasks.create_task(self._health())

    async def _health(self) -> None:
        try:
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                await self._servers.update(self._checks, self._hosts)
        finally:
            await self._servers.close()

    async def serve(self) -> list[web.AppRunner]:
        """kube-proxy's two ports; raises OSError when one is taken."""

        def mine() -> bool:
            cluster = self._cluster()
            return eligible(cluster.nodes.get(("", self._node)) if cluster else None)

        def settings() -> Mapping[str, object]:
            return configz(self._spec, self._node)

        return await serve(self.pulse, mine, lambda: self.mode, settings)
