"""A node towards the API: its Node, its conditions, its lease; what happens when the API or the object is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from podnet.client.errors import ApiError
from podnet.lab import node as nodes
from podnet.lab.node import Registration, document, ready, status
from podnet.lab.registry import make_node
from podnet.lab.status import rfc3339
from podnet.objects.codec import convert
from podnet.objects.kinds import LEASES, NODES, Kind
from tests.labs.values import until

NODE = make_node("/labs/x", 1, True)
NOW = 1_800_000_000.0


class FakeApi:
    """Holds Nodes and Leases; `fail` has the codes with which the next requests are refused."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.statuses: list[dict[str, Any]] = []
        self.leases: list[str] = []
        self.fail: list[int] = []
        self.calls: list[str] = []
        self.opinion: dict[str, Any] = {}
        """A Ready condition that someone else wrote."""

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.fail:
            raise ApiError(self.fail.pop(0), "Refused")

    async def create(self, kind: Kind, body: dict[str, Any], namespace: str = "", *, into: type) -> None:
        self._answer(f"create {kind.plural}")
        if kind.plural in self.objects:
            raise ApiError(409, "AlreadyExists")
        self.objects[kind.plural] = body

    async def status(self, kind: Kind, name: str, body: dict[str, Any], *, strategy: str, into: type) -> None:
        self._answer(f"status {kind.plural}")
        if kind.plural not in self.objects:
            raise ApiError(404, "NotFound")
        assert strategy == "strategic"
        self.statuses.append(body)

    async def patch(self, kind: Kind, name: str, body: dict[str, Any], namespace: str, *, into: type) -> None:
        self._answer(f"patch {kind.plural}")
        if kind.plural not in self.objects:
            raise ApiError(404, "NotFound")
        assert namespace == "kube-node-lease"
        self.leases.append(body["spec"]["renewTime"])

    async def get(self, kind: Kind, name: str, *, into: type[Any]) -> Any:
        self._answer(f"get {kind.plural}")
        if kind.plural not in self.objects:
            raise ApiError(404, "NotFound")
        known = [self.opinion] if self.opinion else [self.ready] if self.statuses else []
        return convert({"status": {"conditions": known}}, into)

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = self.statuses[-1]["conditions"][-1]
        return found


@asynccontextmanager
async def registered(api: FakeApi) -> AsyncIterator[Registration]:
    made = Registration(NODE, api)  # type: ignore[arg-type]
    made.network_trouble("cni plugin not initialized")
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(nodes, "RENEW_SECONDS", 0.02)


# -- documents


def test_the_object() -> None:
    made = document(NODE)
    assert made["metadata"]["name"] == "node1"
    assert made["metadata"]["labels"]["kubernetes.io/hostname"] == "node1"
    assert made["metadata"]["labels"]["kubernetes.io/os"] == "linux"


def test_the_status() -> None:
    made = status(NODE, "", NOW, rfc3339(NOW - 60))
    assert made["addresses"] == [
        {"type": "InternalIP", "address": "192.168.77.11"},
        {"type": "InternalIP", "address": "fd77::11"},
        {"type": "Hostname", "address": "node1"},
        {"$patch": "replace"},
    ]
    assert made["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert made["capacity"] == made["allocatable"]
    assert set(made["capacity"]) == {"cpu", "memory", "pods"}
    assert [each["type"] for each in made["conditions"]] == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
    assert made["conditions"][-1]["lastTransitionTime"] == rfc3339(NOW - 60)
    assert made["nodeInfo"]["kubeletVersion"].startswith("v1.")


@pytest.mark.parametrize(
    ("trouble", "expected", "reason", "words"),
    [
        ("", "True", "KubeletReady", "kubelet is posting ready status"),
        ("cni plugin not initialized", "False", "KubeletNotReady", "NetworkPluginNotReady message:cni plugin not"),
    ],
)
def test_ready_follows_the_network(trouble: str, expected: str, reason: str, words: str) -> None:
    made = ready(trouble, rfc3339(NOW))
    assert (made["status"], made["reason"]) == (expected, reason)
    assert words in made["message"]


# -- life


async def test_it_registers_and_reports_and_renews() -> None:
    api = FakeApi()
    async with registered(api):
        await until(lambda: api.statuses and len(api.leases) >= 2)
    assert api.objects[NODES.plural]["metadata"]["name"] == "node1"
    assert api.ready["status"] == "False"
    assert api.objects[LEASES.plural]["spec"]["holderIdentity"] == "node1"
    assert api.leases == sorted(api.leases)


async def test_an_object_that_is_there_is_taken_over() -> None:
    api = FakeApi()
    api.objects[NODES.plural] = {"metadata": {"name": "node1", "labels": {"mine": "yes"}}}
    async with registered(api):
        await until(lambda: api.statuses)
    assert api.objects[NODES.plural]["metadata"]["labels"] == {"mine": "yes"}


async def test_the_networks_coming_and_going_is_reported_at_once() -> None:
    api = FakeApi()
    async with registered(api) as made:
        await until(lambda: api.statuses)
        made.network_trouble("")
        await until(lambda: api.ready["status"] == "True")
        made.network_trouble("cni plugin not initialized")
        await until(lambda: api.ready["status"] == "False")


async def test_the_same_news_is_no_news() -> None:
    api = FakeApi()
    async with registered(api) as made:
        await until(lambda: api.statuses)
        made.network_trouble("cni plugin not initialized")
        await asyncio.sleep(0.05)
        assert len(api.statuses) == 1


async def test_another_trouble_is_told_but_is_no_transition() -> None:
    api = FakeApi()
    async with registered(api) as made:
        await until(lambda: api.statuses)
        since = api.ready["lastTransitionTime"]
        made.network_trouble("conflist: not a JSON object")
        await until(lambda: "JSON" in api.ready["message"])
        assert api.ready["lastTransitionTime"] == since


async def test_an_api_that_is_away_is_asked_again() -> None:
    api = FakeApi()
    api.fail = [0, 500, 503, 0]
    async with registered(api):
        await until(lambda: api.statuses and api.leases)


async def test_an_object_that_vanished_is_registered_again() -> None:
    api = FakeApi()
    async with registered(api):
        await until(lambda: api.statuses)
        del api.objects[NODES.plural]
        api.fail = [0, 404]
        await until(lambda: NODES.plural in api.objects)


async def test_whoever_took_the_node_for_dead_hears_that_it_lives() -> None:
    api = FakeApi()
    async with registered(api) as made:
        made.network_trouble("")
        await until(lambda: api.statuses and api.ready["status"] == "True")
        count = len(api.statuses)
        api.opinion = {"type": "Ready", "status": "Unknown"}
        await until(lambda: len(api.statuses) > count)
        api.opinion = {}
    assert api.ready["status"] == "True"


async def test_before_anything_is_known_nothing_is_said() -> None:
    api = FakeApi()
    made = Registration(NODE, api)  # type: ignore[arg-type]
    task = asyncio.create_task(made.run())
    await until(lambda: len(api.leases) >= 2)
    assert api.statuses == []
    task.cancel()
    await asyncio.wait([task])
