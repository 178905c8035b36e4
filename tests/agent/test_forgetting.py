"""Which forgotten flows count, and for which family."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from podnet.agent import forgetting, proxy_metrics
from podnet.agent.forgetting import CountingDataplane
from podnet.kernel import conntrack
from podnet.kernel.dataplane import KernelDataplane
from podnet.state.host import Action, Announce, ForgetFlows

POD = ForgetFlows(source="10.244.1.2")
SHOWN = Announce("eth0", "192.0.2.1")
OLD = ForgetFlows(17, 53, destination="10.96.0.10", answered_by="10.244.1.2")
OLD6 = ForgetFlows(17, 53, destination="fd96::10", answered_by="fd00::2")


def test_stale_flows_of_services_are_counted_by_family(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[ForgetFlows]] = []
    passed: list[Action] = []

    def forget(_: Any, actions: list[ForgetFlows]) -> int:
        asked.append(actions)
        return 2 * len(actions)

    monkeypatch.setattr(conntrack, "forget", forget)
    monkeypatch.setattr(forgetting, "Netlink", lambda *_: nullcontext())
    monkeypatch.setattr(KernelDataplane, "act", lambda _, actions: passed.extend(actions))
    plane = CountingDataplane.__new__(CountingDataplane)
    plane.netns = ""
    before = [deleted(family) for family in ("IPv4", "IPv6")]
    plane.act((POD, OLD6, OLD, SHOWN, OLD))
    assert (asked, passed) == ([[OLD, OLD], [OLD6]], [POD, SHOWN])
    assert [deleted(family) for family in ("IPv4", "IPv6")] == [before[0] + 4, before[1] + 2]


def deleted(family: str) -> float:
    name = "kubeproxy_conntrack_reconciler_deleted_entries_total"
    return proxy_metrics.REGISTRY.get_sample_value(name, {"ip_family": family}) or 0.0
