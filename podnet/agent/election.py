"""Which one of all agents does what has to be done once for the whole cluster: it holds a Lease.

This is client-go's leader election, by the same rules, so it works with every API server: the holder renews its Lease;
others take it when they have not seen it change for as long as it says. No two clocks are compared. An agent looks the
less often the more nodes come before its own (`rank`), so a thousand agents ask about five times a second together; the
first is the usual holder, and keeps the Lease when it restarts.
Source: k8s.io/client-go tools/leaderelection/leaderelection.go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.objects.kinds import LEASES

log = logging.getLogger(__name__)

NAMESPACE = "kube-system"
DURATION = 30
"""Seconds after which a Lease that nobody renewed is free."""

RENEW, DEADLINE = 10.0, 20.0
"""Seconds between renewals, and after the last one until the holder holds nothing any more."""

STAGGER, RAREST = 2.0, 300.0
"""Seconds before the first look for each node that comes before, and at most between looks."""


class Election:
    """`rank()`: how many nodes come before this one. `elected()` is called at each renewal."""

    def __init__(
        self,
        api: Api,
        name: str,
        me: str,
        rank: Callable[[], int] = lambda: 0,
        elected: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._name = name
        self._me = me
        self._rank = rank
        self._elected = elected
        self._clock = clock
        self._until = float("-inf")
        self._seen: dict[str, Any] = {}
        self._since = 0.0

    @property
    def leading(self) -> bool:
        """Whether the Lease is surely ours at this moment."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Stand for election until cancelled."""
        await asyncio.sleep(min(STAGGER * self._rank(), RAREST))
        while True:
            try:
                await self.look()
            except ApiError as error:
                log.warning("cannot look at lease %s/%s: %s", NAMESPACE, self._name, error)
            await asyncio.sleep(RENEW if self.leading else min(RENEW * (1 + self._rank()), RAREST))

    async def look(self) -> None:
        """Renew the Lease, or take it if it is free. Raises ApiError; to lose a race is none."""
        began = self._clock()
        try:
            taken = await self._take(began)
        except ApiError as error:
            if error.code != 409:
                raise
            return
        if taken:
            self._until = began + DEADLINE
            self._elected()

    async def _take(self, began: float) -> bool:
        lease = await self._lease()
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._since = spec, began
        wanted = bid(spec, self._me, began - self._since, datetime.now(UTC))
        if wanted is None:
            return False
        if lease:
            await self._api.replace(LEASES, {**lease, "spec": wanted}, into=dict)
        else:
            document = {"metadata": {"name": self._name, "namespace": NAMESPACE}, "spec": wanted}
            await self._api.create(LEASES, document, into=dict)
        return True

    async def _lease(self) -> dict[str, Any]:
        """{} when there is none."""
        try:
            return await self._api.get(LEASES, self._name, NAMESPACE, into=dict)
        except ApiError as error:
            if error.code != 404:
                raise
            return {}


def bid(spec: dict[str, Any], me: str, unchanged: float, now: datetime) -> dict[str, Any] | None:
    """The Lease's next spec with us as its holder; None while it is another's. `unchanged`: seconds for which it has
    been seen as it is."""
    holder, moment = spec.get("holderIdentity") or "", now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if holder == me:
        return {**spec, "renewTime": moment}
    if holder and unchanged < (spec.get("leaseDurationSeconds") or DURATION):
        return None
    return {
        **spec,
        "holderIdentity": me,
        "leaseDurationSeconds": DURATION,
        "acquireTime": moment,
        "renewTime": moment,
        "leaseTransitions": (spec.get("leaseTransitions") or 0) + bool(holder),
    }
