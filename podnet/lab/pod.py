"""One pod on its node, from the moment it is assigned to the moment its object may go.

    sandbox ──► init containers, one by one ──► containers, side by side ──► all ended for good: give the sandbox back
        └──────────────┴── deleted, at any time ──┴──► SIGTERM, SIGKILL after the grace ──► sandbox gone ──► object gone

Each step begins by looking what is there already, so the way is the same for a new pod and for one that an earlier
kubelet left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from podnet.agent import events
from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.lab import inside, process
from podnet.lab.containers import ContainerLife, Host, Waiting, grace_of, runs
from podnet.lab.libcni import TRY_AGAIN, PluginError
from podnet.lab.sandbox import Sandbox, Sandboxes, read
from podnet.lab.status import ContainerReport, PodReport, index, pod_status, unix
from podnet.network.controllers.sweeping import NODE_NOT_READY
from podnet.network.dns.resolv_conf import fitted, resolv_conf
from podnet.network.view import Problem
from podnet.objects.core import Container, Pod
from podnet.objects.kinds import PODS

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
RETRY_CAP_SECONDS = 5.0
VANISHED_GRACE = 1
FINAL = ("Succeeded", "Failed")
GONE = (404, 409, 422)
"""What the API answers when the object is no more, another one has its name, or it will never take what we say."""


class PodLife:
    """Runs one pod. `network_ready` is set while the node has a CNI configuration."""

    def __init__(self, pod: Pod, api: Api, sandboxes: Sandboxes, host: Host, network_ready: asyncio.Event) -> None:
        self.pod = pod
        self.sandbox: Sandbox | None = None
        self.inits: list[ContainerLife] = []
        self.mains: list[ContainerLife] = []
        self._api = api
        self._sandboxes = sandboxes
        self._host = host
        self._network_ready = network_ready
        self._since = unix(pod.status.start_time) if pod.status.start_time else time.time()
        self._over = False
        self._trouble = ""
        self._grace: int | None = None
        self._doomed = asyncio.Event()
        self._dirty = asyncio.Event()
        self._sent: dict[str, Any] = {}

    def update(self, pod: Pod) -> None:
        """Take a newer version of the object; a deletion, or a shorter grace, counts at once."""
        self.pod = pod
        if self._sent and any(condition.reason == NODE_NOT_READY for condition in pod.status.conditions):
            self._sent = {}  # someone took this node for dead
            self._changed()
        if pod.metadata.deletion_timestamp:
            grace = pod.metadata.deletion_grace_period_seconds
            self.end(grace_of(pod) if grace is None else grace)

    def end(self, grace: int = VANISHED_GRACE) -> None:
        """Ask for the end; a longer grace than asked for before has no effect."""
        if self._grace is None or grace < self._grace:
            self._grace = grace
            self._doomed.set()

    async def run(self) -> None:
        """Everything, to the end. Cancelling it leaves the processes alone."""
        reporting = asyncio.create_task(self._report())
        try:
            if self.pod.status.phase not in FINAL and not self._doomed.is_set():
                await self._until_doomed(self._live())
            await self._stop_containers()
            self._over = True
            self._changed()
            await self._persist(self._give_back)
            await self._doomed.wait()
            for step in (self._send, self._remove_sandbox, self._delete_object):
                await self._persist(step)
        finally:
            await _cancelled(reporting)

    async def _until_doomed(self, work: Coroutine[Any, Any, None]) -> None:
        """Let it work until it ended by itself or the pod's end is asked for."""
        living = asyncio.create_task(work)
        dooming = asyncio.create_task(self._doomed.wait())
        try:
            await asyncio.wait([living, dooming], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(dooming)
            await _cancelled(living)

    # -- life

    async def _live(self) -> None:
        self.sandbox = await self._make_sandbox()
        for omitted in self._write_files(self.sandbox):
            await self._tell(omitted)
        self.inits = [self._life(container, once=True) for container in self.pod.spec.init_containers]
        self.mains = [self._life(container) for container in self.pod.spec.containers]
        for life in (*self.inits, *self.mains):
            life.adopt()
        self._changed()
        for init in self.inits:
            if await init.live():
                return
        async with asyncio.TaskGroup() as group:
            for main in self.mains:
                group.create_task(main.live())

    def _life(self, container: Container, once: bool = False) -> ContainerLife:
        assert self.sandbox
        return ContainerLife(self.pod, container, self.sandbox, self._host, self._changed, once)

    async def _make_sandbox(self) -> Sandbox:
        """A ready sandbox, however long the network takes."""
        delay = RETRY_SECONDS
        while True:
            if not self._sandboxes.ready(self.pod):
                self._changed()
                if not self.pod.spec.host_network:
                    await self._network_ready.wait()
            try:
                made = await self._sandboxes.make(self.pod)
                self._trouble = ""
                return made
            except PluginError as error:
                self._trouble = f"failed to set up the sandbox's network: {error}"
                log.warning("%s/%s: %s", *self.pod.key, error)
                self._changed()
                delay = RETRY_SECONDS if error.code == TRY_AGAIN else min(delay * 2, RETRY_CAP_SECONDS)
                await asyncio.sleep(delay)

    def _write_files(self, sandbox: Sandbox) -> tuple[str, ...]:
        """hosts and resolv.conf; what of dnsConfig had to be left out."""
        dns = self._host.dns()
        settings, omitted = fitted(resolv_conf(self.pod, sandbox.ips, dns, self._host.resolv_conf))
        hosts = inside.hosts(self.pod, sandbox.ips, _read("/etc/hosts"), dns.domain)
        for name, text in (("hosts", hosts), ("resolv.conf", settings.text)):
            with open(f"{sandbox.folder}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        return omitted

    async def _tell(self, omitted: str) -> None:
        about = f"Pod/{self.pod.metadata.namespace}/{self.pod.metadata.name}"
        log.warning("%s: %s", about, omitted)
        with suppress(ApiError):
            await events.write(self._api, Problem(about, "DNSConfigForming", omitted), self._host.name)

    # -- end

    async def _stop_containers(self) -> None:
        """End every process; a grace that gets shorter meanwhile counts."""
        self.sandbox = self.sandbox or read(self._sandboxes.folder(self.pod))
        folders = self._run_folders()
        grace = None
        while folders and grace != self._grace:
            grace = self._grace
            self._doomed.clear()
            await self._until_doomed(_all(process.stop(folder, grace or 0) for folder in folders))
        if self._grace is not None:
            self._doomed.set()
        for life in (*self.inits, *self.mains):
            life.recall()

    def _run_folders(self) -> list[str]:
        """The newest run of each container, from disk."""
        if not self.sandbox:
            return []
        containers = f"{self.sandbox.folder}/containers"
        folders = [f"{containers}/{name}" for name in (os.listdir(containers) if os.path.isdir(containers) else ())]
        return [f"{folder}/{numbers[-1]}" for folder in folders if (numbers := runs(folder))]

    async def _give_back(self) -> None:
        if self.sandbox:
            await self._sandboxes.release(self.sandbox)

    async def _remove_sandbox(self) -> None:
        if self.sandbox:
            await self._sandboxes.remove(self.sandbox)

    async def _delete_object(self) -> None:
        """Last of all: its name may be used again only when nothing of it is left."""
        meta = self.pod.metadata
        await self._api.delete(PODS, meta.name, meta.namespace, grace=0, uid=meta.uid)

    async def _persist(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it until it works. An object that is gone, or another one by now, needs nothing more."""
        delay = RETRY_SECONDS
        while True:
            try:
                return await step()
            except (PluginError, ApiError) as error:
                if isinstance(error, ApiError) and error.code in GONE:
                    if error.code not in (404, 409):
                        log.error("%s/%s: %s", *self.pod.key, error)
                    return None
                log.warning("%s/%s: %s", *self.pod.key, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_CAP_SECONDS)

    # -- status

    def _changed(self) -> None:
        self._dirty.set()

    async def _report(self) -> None:
        """Send the status whenever it changed, several changes at once."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._persist(self._send)

    async def _send(self) -> None:
        status = self.status(time.time())
        if status == self._sent or self.pod.status.phase in FINAL:
            return
        meta = self.pod.metadata
        patch = {"metadata": {"uid": meta.uid}, "status": status}
        await self._api.patch(PODS, meta.name, patch, meta.namespace, strategy="strategic", subresource="status")
        self._sent = status

    def status(self, now: float) -> dict[str, Any]:
        """The present PodStatus."""
        report = PodReport(
            host_ips=self._host.ips,
            ips=self.sandbox.ips if self.sandbox else (),
            since=self._since,
            inits=self._container_reports(self.inits, self.pod.spec.init_containers),
            mains=self._container_reports(self.mains, self.pod.spec.containers),
            over=self._over,
            trouble=self._trouble,
        )
        before = self._sent.get("conditions") or msgspec.to_builtins(self.pod.status.conditions)
        return pod_status(self.pod, report, now, index(before))

    def _container_reports(
        self, lives: list[ContainerLife], containers: tuple[Container, ...]
    ) -> tuple[ContainerReport, ...]:
        """Of each container, also before there is a sandbox for it."""
        if lives:
            return tuple(map(self._container_report, lives))
        reason = "PodInitializing" if self.pod.spec.init_containers else "ContainerCreating"
        return tuple(ContainerReport(each.name, each.image, "", Waiting(reason)) for each in containers)

    def _container_report(self, life: ContainerLife) -> ContainerReport:
        id_ = f"podnet://{self.pod.metadata.uid}-{life.container.name}-{life.restarts}"
        name, image = life.container.name, life.container.image
        return ContainerReport(name, image, id_, life.state, life.last, life.restarts, life.ready, life.started)


async def _all(work: Any) -> None:
    await asyncio.gather(*work)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; an error it ended with is raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _read(path: str) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
