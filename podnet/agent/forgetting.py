"""The node's kernel, counting the UDP flows that changes of Services and host ports make it forget.

What a pod that goes takes along is no news about Services, and is forgotten without being counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby

from podnet.agent import proxy_metrics
from podnet.kernel import conntrack
from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.netlink import NETFILTER, Netlink
from podnet.state.host import Action, ForgetFlows

UDP = 17


class CountingDataplane(KernelDataplane):
    """See Dataplane."""

    def act(self, actions: Iterable[Action]) -> None:
        """See Dataplane."""
        stale: list[ForgetFlows] = []
        others: list[Action] = []
        for action in actions:
            if isinstance(action, ForgetFlows) and action.protocol == UDP:
                stale.append(action)
            else:
                others.append(action)
        for family, some in _by_family(stale):
            began = time.monotonic()
            with Netlink(NETFILTER, self.netns) as netlink:
                deleted = conntrack.forget(netlink, some)
            proxy_metrics.forgotten(family, time.monotonic() - began, deleted)
        super().act(others)


def _by_family(actions: Iterable[ForgetFlows]) -> Iterator[tuple[str, list[ForgetFlows]]]:
    """Services' flows are known by an address of the frontend, so each has one family."""

    def v6(action: ForgetFlows) -> bool:
        return ":" in f"{action.source}{action.destination}{action.answered_by}{action.unserved}"

    for family, some in groupby(sorted(actions, key=v6), v6):
        yield proxy_metrics.FAMILIES[family], list(some)
