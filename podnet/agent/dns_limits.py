"""Pods that ask more than they may: who they are, told once each time they begin to, and shown while it lasts.

The kernel drops what is too much all by itself (network/dns/node_cache.py) and remembers whom for a minute; here it is
looked at now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from podnet.agent import metrics
from podnet.agent.agent import Agent
from podnet.network.dns.node_cache import TABLE
from podnet.network.view import NodeView, Problem, base_address

log = logging.getLogger(__name__)

PERIOD = 2.0
SETS = ("set limited-ip", "set limited-ip6")


class DnsLimits:
    """`tell` is given each pod that begins to ask too much, as an incident on the pod."""

    def __init__(self, agent: Agent, tell: Callable[[Problem], None]) -> None:
        self.now: frozenset[str] = frozenset()
        """Those of which queries were dropped within the last minute: namespace/name, or an address."""
        self._agent = agent
        self._tell = tell

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.look()

    async def look(self) -> None:
        """One look; a kernel that can't be asked says nothing."""
        view, plane = self._agent.view, self._agent.reconciler.dataplane
        found: frozenset[str] = frozenset()
        if view is not None and view.network.dns.rate_limit and view.resolver.addresses:
            try:
                found = await self._agent.in_kernel(
                    lambda: frozenset(element for name in SETS for element in plane.remembered("inet", TABLE, name))
                )
            except OSError as error:
                log.warning("the kernel does not say whose DNS queries it drops: %s", error)
                return
            found = frozenset(_pod(view, element.split()[0]) for element in found)
        begun, self.now = found - self.now, found
        metrics.DNS_LIMITED.set(len(found))
        for pod in sorted(begun) if view is not None else ():
            limit = view.network.dns.rate_limit if view is not None else 0
            message = f"asks more than {limit} DNS queries a second (spec.dns.rateLimit); what is more is dropped"
            log.warning("pod %s %s", pod, message)
            if "/" in pod:
                self._tell(Problem(f"Pod/{pod}", "DnsRateLimited", message))


def _pod(view: NodeView, address: str) -> str:
    """Whose address it is, if that is known."""
    for attachment in view.attachments:
        if address in map(base_address, attachment.addresses):
            return attachment.pod or address
    return address
