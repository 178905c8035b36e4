"""What a node tells the cluster: its newest words only, again after a failure, and each lasting problem once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from podnet.agent import events
from podnet.agent import publish as module
from podnet.agent.publish import Publisher
from podnet.client.errors import ApiError
from podnet.network.migration import published
from podnet.network.view import NodeView, Problem
from podnet.objects.kinds import EVENTS, Kind
from podnet.objects.meta import ObjectMeta
from tests import worlds

ME = worlds.node(1).metadata.name
LASTING = Problem(f"Node/{ME}", "NoPodCIDR", "no range")


class Api:
    """Remembers what was written; fails as often as `failures` says."""

    def __init__(self) -> None:
        self.patches: list[dict[str, Any]] = []
        self.events: dict[str, dict[str, Any]] = {}
        self.failures = 0

    async def get(self, kind: Kind, name: str, namespace: str, into: type[Any]) -> Any:
        if kind is EVENTS:
            return into(count=self.events[name]["count"])
        if name == "gone":
            raise ApiError(404, "NotFound", "no such thing")
        return into(metadata=ObjectMeta(name=name, namespace=namespace, uid=f"uid of {name}"))

    async def patch(self, kind: object, name: str, body: dict[str, Any], namespace: str = "") -> None:
        await asyncio.sleep(0)
        if kind is EVENTS:
            self.events[name] |= body
            return
        if self.failures:
            self.failures -= 1
            raise ApiError(503, "ServiceUnavailable", "away")
        assert name == ME
        self.patches.append(body["metadata"]["annotations"])

    async def create(self, kind: object, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        if name in self.events:
            raise ApiError(409, "AlreadyExists", "there is one")
        self.events[name] = body


class Desk:
    def __init__(self) -> None:
        self.api = Api()
        self.publisher = Publisher(self.api, ME)  # type: ignore[arg-type]


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(module, "RETRY", 0.01)
    monkeypatch.setattr(module, "GRACE", 0.05)
    made = Desk()
    running = asyncio.create_task(made.publisher.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.005)


def seen(backend: str = "vxlan", **me: Any) -> NodeView:
    world = worlds.cluster([worlds.node(1, **me), worlds.node(2)], worlds.config({"type": backend}))
    return worlds.seen(world, 1)


async def test_words_are_published_once(desk: Desk) -> None:
    desk.publisher.publish(seen(), ())
    await until(lambda: bool(desk.api.patches))
    desk.publisher.publish(seen(), ())
    await asyncio.sleep(0.03)
    assert len(desk.api.patches) == 1
    accepts, sends = published(seen())
    assert desk.api.patches[0] == {"podnet.dev/accepts": ",".join(accepts), "podnet.dev/sends": ",".join(sends)}
    assert desk.publisher.tried == (accepts, sends)


async def test_a_restart_that_changes_nothing_writes_nothing(desk: Desk) -> None:
    accepts, sends = published(seen())
    desk.publisher.publish(seen(accepts=accepts, sends=sends), ())
    await asyncio.sleep(0.03)
    assert desk.api.patches == []
    assert desk.publisher.tried is None


async def test_only_the_newest_words_survive_an_outage(desk: Desk) -> None:
    desk.api.failures = 3
    desk.publisher.publish(seen(), ())
    await asyncio.sleep(0)
    newest = seen("host-gw", accepts=("vxlan",), sends=("vxlan",))
    desk.publisher.publish(newest, ())
    await until(lambda: bool(desk.api.patches))
    assert desk.api.patches == [
        {"podnet.dev/accepts": ",".join(published(newest)[0]), "podnet.dev/sends": ",".join(published(newest)[1])}
    ]


async def test_what_somebody_else_writes_there_is_put_right(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a snapshot from before our own write is nobody's."""
    monkeypatch.setattr(module, "STALE", 0.05)
    desk.publisher.publish(seen(), (), {})
    await until(lambda: bool(desk.api.patches))
    desk.publisher.publish(seen(), (), {})
    desk.publisher.publish(seen(), (), desk.api.patches[0])
    await asyncio.sleep(0.1)
    assert len(desk.api.patches) == 1
    desk.publisher.publish(seen(), (), {**desk.api.patches[0], "podnet.dev/accepts": "host-gw"})
    await until(lambda: len(desk.api.patches) == 2)
    assert desk.api.patches[0] == desk.api.patches[1]


async def test_what_was_decided_before_the_last_look_is_not_said(desk: Desk) -> None:
    desk.api.failures = 1
    desk.publisher.publish(seen(), ())
    await until(lambda: not desk.api.failures)
    desk.publisher.withhold()
    await asyncio.sleep(0.05)
    assert desk.api.patches == []
    assert desk.publisher.tried == published(seen())
    desk.publisher.publish(seen(), ())
    await until(lambda: bool(desk.api.patches))


async def test_an_unclean_pass_publishes_nothing(desk: Desk) -> None:
    desk.publisher.publish(None, ())
    await asyncio.sleep(0.03)
    assert desk.api.patches == []


async def test_a_lasting_problem_of_this_node_is_one_event(desk: Desk) -> None:
    other = Problem("Node/another", "NoPodCIDR", "no range")
    desk.publisher.publish(None, (LASTING, other))
    desk.publisher.publish(None, (LASTING, other))
    assert desk.api.events == {}
    await until(lambda: bool(desk.api.events))
    desk.publisher.publish(None, (LASTING, other))
    await asyncio.sleep(0.2)
    (event,) = desk.api.events.values()
    assert event["involvedObject"]["name"] == ME
    assert event["reason"] == "NoPodCIDR"
    assert event["type"] == "Warning"


async def test_a_passing_problem_is_no_event(desk: Desk) -> None:
    desk.publisher.publish(None, (LASTING,))
    desk.publisher.publish(None, ())
    await asyncio.sleep(0.25)
    assert desk.api.events == {}


async def test_another_node_has_said_it_already(desk: Desk) -> None:
    problem = Problem("NetworkConfig/default", "Invalid", "no such backend", "spec.backend.type")
    event = events.event(problem, "node9")
    desk.api.events[event["metadata"]["name"]] = event
    desk.publisher.publish(None, (problem,))
    await asyncio.sleep(0.25)
    assert len(desk.api.events) == 1


async def test_a_problem_of_a_service_is_an_event_where_kubectl_looks_for_it(desk: Desk) -> None:
    desk.publisher.publish(None, (Problem("Service/demo/web", "NoRetry", "not for UDP", "metadata.annotations"),))
    await until(lambda: bool(desk.api.events))
    (event,) = desk.api.events.values()
    assert event["metadata"]["namespace"] == "demo"
    assert event["metadata"]["name"].startswith("web.")
    assert event["involvedObject"] == {
        "kind": "Service",
        "apiVersion": "v1",
        "namespace": "demo",
        "name": "web",
        "uid": "uid of web",
        "fieldPath": "metadata.annotations",
    }


async def test_an_object_that_is_gone_has_no_uid(desk: Desk) -> None:
    desk.publisher.publish(None, (Problem("ServiceRoute/demo/gone", "NoSuchService", "there is none"),))
    await until(lambda: bool(desk.api.events))
    (event,) = desk.api.events.values()
    assert "uid" not in event["involvedObject"]
    assert event["involvedObject"]["apiVersion"] == "podnet.dev/v1"


async def test_an_incident_is_counted(desk: Desk) -> None:
    incident = Problem("Service/demo/web", "EndpointEjected", "10.244.1.2 did not answer")
    for _ in range(3):
        desk.publisher.tell(incident)
    desk.publisher.tell(Problem("Service/demo/other", "EndpointEjected", "10.244.1.2 did not answer"))
    await until(lambda: len(desk.api.events) == 2)
    assert sorted(event["count"] for event in desk.api.events.values()) == [1, 3]


async def test_incidents_wait_for_the_api_server_and_are_not_lost(desk: Desk) -> None:
    create, desk.api.failures = desk.api.create, 2

    async def refuse(kind: object, body: dict[str, Any]) -> None:
        if desk.api.failures:
            desk.api.failures -= 1
            raise ApiError(503, "ServiceUnavailable", "away")
        await create(kind, body)

    desk.api.create = refuse  # type: ignore[method-assign]
    desk.publisher.tell(Problem("Service/demo/web", "EndpointEjected", "10.244.1.2 did not answer"))
    await until(lambda: bool(desk.api.events))
    assert next(iter(desk.api.events.values()))["count"] == 1
