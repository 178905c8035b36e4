"""Keeping one kind up to date: list, watch from there, and know what to do when that fails.

    list ──► watch ──► connection lost, 429, 5xx ──► wait ──► watch again from the last version
     ▲         └─────► 410, disorder, 4xx, or ten minutes over ──► list
     └─ a doubtful list (store.py) is asked for again before it counts

The first list after a 410 asks for nothing older than what was seen, so state never goes back in time; if the server
cannot give that (410 or "too large" again), and in all other cases, the list is a consistent read. What was held stays
in force all the while. Waiting starts short, so that a restarted server is found at once, and grows with jitter, so
that a thousand agents do not come back in one second.
Source: k8s.io/client-go/tools/cache/reflector.go for the order of things and the times.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import aclosing
from time import monotonic

import msgspec

from podnet.client.api import Api
from podnet.client.errors import ApiError, Unreachable
from podnet.client.store import Disorder, Keep, Listing, Problem, Store
from podnet.objects.kinds import Kind

log = logging.getLogger(__name__)


class Watch(msgspec.Struct, frozen=True):
    """What to watch: a kind, perhaps in one namespace, perhaps only what the API's selectors, or we, let through."""

    kind: Kind
    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""
    keep: Keep = lambda new: True


class Pace(msgspec.Struct, frozen=True):
    """The times of an informer, in seconds; tests make them short.

    first, base, cap  waits after failures: about `first`, then from `base` doubling up to `cap`
    healthy           so long without a failure and the waits start over
    watch             one watch lasts between this and twice this
    relist            at most this long between two consistent lists, which repair what a watch lost
    confirm           how long after a doubtful list the confirming one is asked for
    brief             a watch that ends sooner than this counts as a failure
    grace             how much later than the server we end a watch
    page              objects in one page of a list
    """

    first: float = 0.1
    base: float = 0.8
    cap: float = 30.0
    healthy: float = 120.0
    watch: float = 300.0
    relist: float = 600.0
    confirm: float = 1.0
    brief: float = 1.0
    grace: float = 10.0
    page: int = 200


PACE = Pace()


def jittered(seconds: float) -> float:
    """Between half of it and all of it, so that a cap stays a cap."""
    return seconds * random.uniform(0.5, 1.0)


class Backoff:
    """The next wait after each failure."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._failures = 0
        self._last = -math.inf

    def next(self, now: float) -> float:
        """Seconds to wait after a failure at the monotonic time `now`."""
        self._failures = 0 if now - self._last > self._pace.healthy else self._failures + 1
        self._last = now
        if not self._failures:
            return jittered(self._pace.first)
        doublings = min(self._failures - 1, 30)
        return jittered(min(self._pace.cap, self._pace.base * 2**doublings))


class Informer:
    """Follows one `Watch` for ever.

    store    the objects (see store.py)
    synced   listed once
    trouble  what is wrong at present, "" when connected
    """

    def __init__(
        self, api: Api, watch: Watch, changed: Callable[[], None], report: Callable[[Problem], None], pace: Pace = PACE
    ) -> None:
        self.watch = watch
        self.store = Store(watch.kind, api.server, report, watch.keep)
        self.synced = False
        self.trouble = ""
        self._api = api
        self._changed = changed
        self._pace = pace
        self._backoff = Backoff(pace)
        self._list_due = 0.0
        self._not_before = ""
        self._progress = False

    async def run(self) -> None:
        """List and watch until cancelled. Raises nothing: failures become `trouble`."""
        while True:
            self._progress = False
            try:
                if monotonic() >= self._list_due:
                    await self._list()
                await self._follow()
            except (ApiError, Disorder) as error:
                await asyncio.sleep(self._recover(error))

    def _recover(self, error: ApiError | Disorder) -> float:
        """Decide how to go on after a failure; returns the seconds to wait before."""
        if self.trouble != str(error):
            log.warning("%s: %s", self.watch.kind.plural, error)
        self.trouble = str(error)
        wait = jittered(self._pace.first) if self._progress else self._backoff.next(monotonic())
        if isinstance(error, Disorder):
            self._relist()
            return wait
        if error.expired:
            self._relist(self.store.version)
        elif error.too_new or (400 <= error.code < 500 and error.code != 429):
            self._relist()
        return max(wait, min(error.retry_after, self._pace.cap))

    def _relist(self, not_before: str = "") -> None:
        self._list_due = 0.0
        self._not_before = not_before

    def _connected(self) -> None:
        if self.trouble:
            log.info("%s: connected again", self.watch.kind.plural)
        self.trouble = ""

    async def _list(self) -> None:
        """Replace everything by a list, asking again as long as the answer is a new reason for doubt."""
        try:
            listing = await self._fetch_not_before()
        except ApiError as error:
            if error.code == 404 and not self.store.objects:
                self._sync()  # the server does not know the kind: there are no such objects, until it does
            raise
        doubt = ""
        while (found := self.store.doubt(listing)) and found != doubt:
            doubt = found
            log.warning("%s: asking for the list again, since %s", self.watch.kind.plural, doubt)
            await asyncio.sleep(self._pace.confirm)
            listing = await self._fetch({})
        self._list_due = monotonic() + self._pace.relist * random.uniform(0.9, 1.0)
        self._not_before = ""
        self._connected()
        if self.store.take(listing):
            self._changed()
        self._sync()

    def _sync(self) -> None:
        if not self.synced:
            self.synced = True
            self._changed()

    async def _fetch_not_before(self) -> Listing:
        """A list no older than asked for; if there is none such, a consistent one."""
        if self._not_before:
            try:
                return await self._fetch({"resourceVersion": self._not_before, "resourceVersionMatch": "NotOlderThan"})
            except ApiError as error:
                if not (error.expired or error.too_new):
                    raise
        return await self._fetch({})

    async def _fetch(self, version: dict[str, str]) -> Listing:
        """A list in pages; in one piece when the server forgets faster than we read."""
        try:
            return await self._read_pages({**version, "limit": self._pace.page})
        except ApiError as error:
            if not error.expired or version:
                raise
        return await self._read_pages({})

    async def _read_pages(self, query: dict[str, str | int]) -> Listing:
        listing = Listing()
        async with aclosing(self._api.pages(self.watch.kind, self.watch.namespace, query | self._selectors())) as pages:
            async for page in pages:
                self.store.add_page(listing, page.metadata.resource_version, page.items or ())
        return listing

    def _selectors(self) -> dict[str, str | int]:
        return {"labelSelector": self.watch.label_selector, "fieldSelector": self.watch.field_selector}

    async def _follow(self) -> None:
        """One watch, from the last version to its planned end. Raises ApiError, Disorder."""
        opened = monotonic()
        seconds = max(0.0, min(random.uniform(1, 2) * self._pace.watch, self._list_due - opened))
        query = {"resourceVersion": self.store.version, "timeoutSeconds": math.ceil(seconds) or 1, **self._selectors()}
        batches = self._api.watch(self.watch.kind, self.watch.namespace, query)
        try:
            async with asyncio.timeout(seconds + self._pace.grace), aclosing(batches):
                async for batch in batches:
                    self._take(batch)
        except TimeoutError:
            return  # the server did not end the watch itself
        if monotonic() - opened < min(self._pace.brief, seconds):
            raise Unreachable(self._api.server, "it ended the watch at once")

    def _take(self, batch: tuple[bytes, ...]) -> None:
        """Apply what came in one piece and wake the readers once."""
        if not batch:
            self._connected()
            return
        self._progress = True
        changed = False
        try:
            for line in batch:
                changed |= self.store.apply(line)
        finally:
            if changed:
                self._changed()
