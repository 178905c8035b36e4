"""Endpoints that did not answer: noted once a burst, counted, and told to their Service's owner."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from podnet.agent import metrics
from podnet.agent.agent import Agent
from podnet.agent.ejections import QUIET, Ejections
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler
from podnet.network.proxy.live import ejections
from podnet.network.proxy.nftables import ids_of
from podnet.network.proxy.service_ports import RETRY_ANNOTATION
from podnet.network.view import Problem
from podnet.objects.cluster import Cluster
from podnet.objects.network import ProxySpec
from tests import worlds
from tests.worlds import backend, endpoint_slice, service

FIRST, SECOND = "10.244.1.2", "10.244.2.2"


def world(retry: str = "true", name: str = "web") -> Cluster:
    network = worlds.config(proxy=ProxySpec())
    made = service(name, annotations={RETRY_ANNOTATION: retry})
    return worlds.cluster(
        [worlds.node(1)], network, 0, (made,), (endpoint_slice(name, backend(FIRST), backend(SECOND)),)
    )


class Desk:
    def __init__(self, seen: Cluster) -> None:
        self.world = seen
        self.plane = FakeDataplane({"eth0": ("192.168.77.11/24",)})
        self.agent = Agent(
            "n1",
            Reconciler(self.plane),
            ThreadPoolExecutor(1),
            cluster=lambda: self.world,
            facts=lambda _: worlds.facts(1),
        )
        self.told: list[Problem] = []
        self.time = 0.0
        self.ejections = Ejections(self.agent, self.told.append, lambda: self.time)

    async def look(self, *addresses: str) -> None:
        """One look, while these are ejected."""
        assert self.agent.view is not None
        known = [text for ports in self.agent.view.services.values() for port in ports for text in ids_of(port).items()]
        self.plane.memory[ejections(False)] = tuple(text for endpoint, text in known if endpoint.address in addresses)
        await self.ejections.look()


@pytest.fixture
async def desk(request: pytest.FixtureRequest) -> Desk:
    made = Desk(world(name=request.node.name[:40].replace("_", "-")))
    await made.agent._pass()
    return made


def number(desk: Desk, metric: str) -> float:
    ((_, name),) = desk.world.services
    return metrics.REGISTRY.get_sample_value(metric, {"service": f"default/{name}"}) or 0


async def test_an_ejection_is_told_once_while_it_lasts(desk: Desk) -> None:
    await desk.look()
    assert desk.told == []
    for _ in range(3):
        await desk.look(FIRST)
    (told,) = desk.told
    ((_, name),) = desk.world.services
    assert (told.object, told.reason) == (f"Service/default/{name}", "EndpointEjected")
    assert FIRST in told.message
    assert (number(desk, "podnet_service_ejections_total"), number(desk, "podnet_service_ejected")) == (1, 1)
    await desk.look(SECOND)
    assert (number(desk, "podnet_service_ejections_total"), number(desk, "podnet_service_ejected")) == (2, 1)
    await desk.look()
    assert (number(desk, "podnet_service_ejections_total"), number(desk, "podnet_service_ejected")) == (2, 0)
    assert len(desk.told) == 2


async def test_half_of_them_stay_ejected_and_the_others_are_let_back_untold(desk: Desk) -> None:
    await desk.look(SECOND)
    for _ in range(2):
        await desk.look(FIRST, SECOND)
        assert {address for _, address in desk.ejections.now} == {SECOND}, "it was the first"
        assert len(desk.plane.memory[ejections(False)]) == 1
    assert len(desk.told) == 1
    assert number(desk, "podnet_service_ejections_total") == 1


async def test_again_and_again_is_counted_but_seldom_told(desk: Desk) -> None:
    for _ in range(5):
        await desk.look(FIRST)
        await desk.look()
        desk.time += 1
    assert number(desk, "podnet_service_ejections_total") == 5
    assert len(desk.told) == 1
    desk.time += QUIET
    await desk.look(FIRST)
    assert len(desk.told) == 2


async def test_without_retries_the_kernel_is_not_asked() -> None:
    desk = Desk(world("false"))
    await desk.agent._pass()
    desk.plane.remembered = None  # type: ignore[assignment, method-assign]
    await desk.ejections.look()
    assert desk.ejections.now == frozenset()


async def test_when_retries_end_nothing_is_ejected_any_more(desk: Desk) -> None:
    await desk.look(FIRST)
    ((_, name),) = desk.world.services
    desk.world = world("false", name)
    await desk.agent._pass()
    await desk.ejections.look()
    assert number(desk, "podnet_service_ejected") == 0


async def test_a_service_that_is_gone_is_no_longer_measured(desk: Desk) -> None:
    await desk.look(FIRST)
    ((_, name),) = desk.world.services
    desk.world = replace(desk.world, services={})
    await desk.agent._pass()
    await desk.ejections.look()
    assert metrics.REGISTRY.get_sample_value("podnet_service_ejected", {"service": f"default/{name}"}) is None


async def test_a_kernel_that_does_not_answer_changes_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await desk.look(FIRST)

    def refuse(family: str, table: str, name: str) -> tuple[str, ...]:
        raise OSError(12, "Cannot allocate memory")

    desk.plane.remembered = refuse  # type: ignore[method-assign]
    await desk.ejections.look()
    assert len(desk.ejections.now) == 1
    assert "Cannot allocate memory" in caplog.text
