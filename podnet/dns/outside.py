"""The administrator's word about names outside, as it changes: from a ConfigMap, or from files in a folder.

What can't be used is told where it will be seen: in the log, and as an Event on the ConfigMap. Meanwhile the last good
value counts (network/dns/settings.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from podnet.agent import events
from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.client.reflector import Informers, Watch
from podnet.network.dns.settings import NOTHING, Fault, Settings, read
from podnet.network.value import Value
from podnet.network.view import Problem
from podnet.objects.kinds import CONFIGMAPS

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""Until an Event that the API did not take is written again."""


class Source(Value, frozen=True):
    """Where it is written: in a ConfigMap, else in a folder that is looked at every so many seconds, else nowhere."""

    config_map: str = ""
    namespace: str = "kube-system"
    folder: str = ""
    period: float = 10.0

    @property
    def about(self) -> str:
        """The ConfigMap, as Events name it."""
        return f"ConfigMap/{self.namespace}/{self.config_map}"


async def settings(source: Source, api: Api | None, domain: str, who: str) -> AsyncIterator[Settings]:
    """What is in force, now and after each change. `who`: who says that there are faults; `domain`: the cluster's."""
    last: Settings | None = None
    told: tuple[Fault, ...] = ()
    now = NOTHING
    tasks: set[asyncio.Task[None]] = set()
    async for data in _data(source, api):
        now, faults = read(data, now, domain)
        if faults != told:
            for fault in faults:
                log.error("%s %s", fault.key, fault.message)
            if api is not None and source.config_map:
                tasks.add(task := asyncio.create_task(_tell(api, source, faults, who)))
                task.add_done_callback(tasks.discard)
        told = faults
        if now != last:
            yield now
        last = now


async def _data(source: Source, api: Api | None) -> AsyncIterator[Mapping[str, str]]:
    if source.config_map and api is not None:
        named = f"metadata.name={source.config_map}"
        informers = Informers(api, [Watch(CONFIGMAPS, source.namespace, field_selector=named)])
        running = asyncio.create_task(informers.run())
        try:
            cluster = await informers.until_synced()
            while True:
                found = cluster.configmaps.get((source.namespace, source.config_map))
                yield found.data if found else {}
                cluster = await informers.changed(cluster)
        finally:
            running.cancel()
    elif source.folder:
        while True:
            yield files(source.folder)
            await asyncio.sleep(source.period)
    else:
        yield {}


def files(folder: str) -> dict[str, str]:
    """A folder as the data of a ConfigMap, as the kubelet mounts one."""
    found = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if not name.startswith(".") and os.path.isfile(path):
            with suppress(OSError, UnicodeError), open(path, encoding="utf-8") as file:
                found[name] = file.read()
    return found


async def _tell(api: Api, source: Source, faults: tuple[Fault, ...], who: str) -> None:
    for fault in faults:
        problem = Problem(source.about, "InvalidDNSConfig", f"{fault.key} {fault.message}", f"data.{fault.key}")
        await tell(api, problem, who)


async def tell(api: Api, problem: Problem, who: str) -> None:
    """Write an Event, and try again until the API takes it."""
    while True:
        try:
            await events.write(api, problem, who)
            break
        except ApiError as error:
            log.warning("an Event about %s: %s", problem.object, error)
            await asyncio.sleep(RETRY_SECONDS)
