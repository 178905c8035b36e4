"""The zone of kubedns, and what keeps it so: swapped whole whenever the watch brings something.

    API ──watch──► Cluster ──network/dns/zone.py──► Zone ──► Answers
                                                      └─ outdated names ──► POST /purge of the cache in front

What the watch brings is in the next answer. A cache in front that may remember another is told of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Mapping
from itertools import islice

import aiohttp
import msgspec

from podnet.client.reflector import Informers
from podnet.dns import metrics
from podnet.dns.answering import Answers
from podnet.network.dns.records import Expected
from podnet.network.dns.zone import Options, Zone, clients, outdated, zone
from podnet.network.memo import Memo
from podnet.wire import dns

log = logging.getLogger(__name__)

PURGE_SECONDS = 1.0
MOST_PURGED = 1000
"""Names in one request to the cache."""


class Naming:
    """Keeps the zone of `answers`.

    completing  "off", "annotated" (pods with podnet.dev/dns-search: server), "all"
    purge       URL of the cache in front
    """

    def __init__(self, answers: Answers, informers: Informers, options: Options, completing: str, purge: str) -> None:
        self.answers = answers
        self._informers = informers
        self._options = options
        self._completing = completing
        self._purge = purge
        self._memo: Memo = {}
        self._outdated: dict[tuple[bytes, int], Expected] = {}
        self._wake = asyncio.Event()

    async def follow(self) -> None:
        """Keep the zone as the cluster is."""
        cluster = await self._informers.until_synced()
        while True:
            start = time.perf_counter()
            made = zone(cluster, self._options, int(time.time()), self._memo)
            before, self.answers.zone = self.answers.zone, made
            if self._completing != "off":
                found = clients(cluster, self._completing == "all", self._memo)
                self.answers.namespaces = lambda client, found=found: found.get(client, "")
            metrics.SERVICES.set(len(cluster.services))
            metrics.SWAP_SECONDS.observe(time.perf_counter() - start)
            if before is None:
                gc.collect()
                gc.freeze()  # what stays need not be looked through again and again
            else:
                self._tell(before, made)
            cluster = await self._informers.changed(cluster)

    def _tell(self, before: Zone, made: Zone) -> None:
        if self._purge:
            self._outdated.update(((name, type_), expected) for name, type_, expected in outdated(before, made))
            self._wake.set()

    async def tell(self) -> None:
        """Tell the cache in front what it may be wrong of; what it does not hear is told again."""
        timeout = aiohttp.ClientTimeout(total=PURGE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._wake.wait()
                some = dict(islice(self._outdated.items(), MOST_PURGED))
                if not some:
                    self._wake.clear()
                    continue
                for each in some:
                    del self._outdated[each]  # one that changes again meanwhile is told again
                try:
                    async with session.post(self._purge, data=_words(some)) as answer:
                        answer.raise_for_status()
                except (aiohttp.ClientError, TimeoutError) as error:
                    log.warning("%s: %r", self._purge, error)
                    self._outdated = some | self._outdated  # of a name that changed meanwhile, the last word counts
                    await asyncio.sleep(PURGE_SECONDS)


def _words(names: Mapping[tuple[bytes, int], Expected]) -> bytes:
    told: list[dict[str, object]] = []
    for (name, type_), expected in names.items():
        answers = {} if expected is None else {"answers": expected}
        told.append({"name": dns.text(name), "type": dns.TYPE_NAMES[type_], **answers})
    return msgspec.json.encode(told)
