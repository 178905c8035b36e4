"""Endpoints on a real server: they follow pods, and soon."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from podnet.apiserver import backers
from podnet.apiserver.database import Database
from podnet.objects.kinds import ENDPOINTS, ENDPOINTSLICES, NAMESPACES, NODES, PODS, SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, serving, until
from tests.apiserver.documents import at

LABEL = "kubernetes.io/service-name=web"
MILLISECONDS = 0.001


def running(ready: bool, ip: str = "10.244.0.5") -> Any:
    """A pod's status as its kubelet says it."""
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-11-22T12:00:00Z"}
    return {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}}


async def start(api: Api, name: str = "web", ip: str = "10.244.0.5", ready: bool = True) -> None:
    """A pod on n1 that runs."""
    await api.create(PODS, at(make.pod(name, nodeName="n1"), "metadata.labels", {"app": "web"}))
    await tell(api, name, ip, ready)


async def tell(api: Api, name: str, ip: str = "10.244.0.5", ready: bool = True) -> None:
    path = f"{PODS.path('default', name)}/status"
    code, answer = await api.patch(path, running(ready, ip), kind="strategic-merge-patch")
    assert code == 200, answer


async def endpoints(api: Api) -> dict[str, bool]:
    """Which addresses the slices of the Service `web` hold, and whether they are ready."""
    listed = (await api.get(ENDPOINTSLICES.path("default"), labelSelector=LABEL))[1]
    every = [endpoint for slice_ in listed["items"] for endpoint in slice_["endpoints"]]
    return {endpoint["addresses"][0]: endpoint["conditions"]["ready"] for endpoint in every}


async def become(api: Api, expected: dict[str, bool]) -> None:
    async def there() -> bool:
        return await endpoints(api) == expected

    await until(there)


@pytest.fixture
async def world(api: Api) -> Api:
    """A node, a headless Service and nothing behind it."""
    await api.create(NODES, make.node())
    await api.create(SERVICES, make.service(clusterIP="None"))
    return api


async def test_endpoints_follow_pods(world: Api) -> None:
    await start(world, "a")
    await start(world, "b", "10.244.0.6", ready=False)
    await become(world, {"10.244.0.5": True, "10.244.0.6": False})
    await tell(world, "b", "10.244.0.6")
    await become(world, {"10.244.0.5": True, "10.244.0.6": True})
    await world.ask("DELETE", PODS.path("default", "a"))
    await become(world, {"10.244.0.5": False, "10.244.0.6": True})
    await world.ask("DELETE", PODS.path("default", "a"), {"gracePeriodSeconds": 0})
    await become(world, {"10.244.0.6": True})
    (slice_,) = (await world.get(ENDPOINTSLICES.path("default"), labelSelector=LABEL))[1]["items"]
    assert slice_["ports"] == [{"name": "http", "port": 80, "protocol": "TCP"}]
    assert slice_["endpoints"][0]["targetRef"]["name"] == "b"
    code, old = await world.get(ENDPOINTS.path("default", "web"))
    assert code == 200
    assert [each["ip"] for each in old["subsets"][0]["addresses"]] == ["10.244.0.6"]


async def test_all_goes_with_the_service(world: Api) -> None:
    await start(world)
    await become(world, {"10.244.0.5": True})
    await world.ask("DELETE", SERVICES.path("default", "web"))

    async def nothing() -> bool:
        lists = [(await world.get(kind.path("default"), labelSelector=LABEL))[1] for kind in (ENDPOINTSLICES,)]
        return not any(found["items"] for found in lists)

    await until(nothing)

    async def gone() -> bool:
        return (await world.get(ENDPOINTS.path("default", "web")))[0] == 404

    await until(gone)


async def test_endpoints_made_by_hand_are_mirrored(api: Api) -> None:
    await api.create(SERVICES, at(make.service(clusterIP="None"), "spec.selector", {}))
    subsets = [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"name": "http", "port": 80}]}]
    mine = {"apiVersion": "v1", "kind": "Endpoints", "metadata": make.meta("web"), "subsets": subsets}
    await api.create(ENDPOINTS, mine)
    await become(api, {"192.0.2.7": True})
    await api.ask("DELETE", ENDPOINTS.path("default", "web"))
    await become(api, {})


async def test_a_slice_that_someone_spoilt_is_put_right(world: Api) -> None:
    await start(world)
    await become(world, {"10.244.0.5": True})
    (slice_,) = (await world.get(ENDPOINTSLICES.path("default"), labelSelector=LABEL))[1]["items"]
    path = ENDPOINTSLICES.path("default", slice_["metadata"]["name"])
    await world.patch(path, {"endpoints": []})
    await become(world, {"10.244.0.5": True})
    await world.ask("DELETE", path)
    await become(world, {"10.244.0.5": True})


async def test_a_new_server_finds_everything_right_and_writes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        await api.create(NODES, make.node())
        await api.create(SERVICES, make.service(clusterIP="None"))
        await start(api)
        await become(api, {"10.244.0.5": True})
        before = (await api.get(ENDPOINTSLICES.path("default")))[1]["items"]
    async with serving(tmp_path) as api:
        await start(api, "b", "10.244.0.6")
        await become(api, {"10.244.0.5": True, "10.244.0.6": True})
        after = (await api.get(ENDPOINTSLICES.path("default")))[1]["items"]
    assert [each["metadata"]["name"] for each in after] == [each["metadata"]["name"] for each in before]


async def test_a_namespace_with_services_ends(api: Api) -> None:
    await api.create(NAMESPACES, make.namespace())
    await api.create(SERVICES, at(make.service(clusterIP="None"), "metadata.namespace", "team"))

    async def there() -> bool:
        return bool((await api.get(ENDPOINTSLICES.path("team")))[1]["items"])

    await until(there)
    await api.ask("DELETE", NAMESPACES.path("", "team"))
    for kind in (SERVICES, ENDPOINTSLICES, ENDPOINTS):

        async def empty(path: str = kind.path("team")) -> bool:
            return not (await api.get(path))[1]["items"]

        await until(empty)


async def test_what_could_not_be_stored_is_tried_again(world: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backers, "RETRY_SECONDS", 0.02)
    failures = 0
    commit = Database.commit

    def failing(self: Database, changes: list[Any]) -> None:
        nonlocal failures
        if failures < 3 and any(change.key.resource.startswith("endpoint") for change in changes):
            failures += 1
            raise sqlite3.OperationalError("disk is full")
        commit(self, changes)

    await start(world)
    await become(world, {"10.244.0.5": True})
    monkeypatch.setattr(Database, "commit", failing)
    await tell(world, "web", ready=False)  # one write, or the next one may be in the transaction that fails
    await become(world, {"10.244.0.5": False})
    assert failures == 3


async def test_a_ready_pod_is_an_endpoint_at_once(world: Api) -> None:
    """20 ms on an idle server; the median of some, for a busy machine may be slower at times."""
    await start(world)
    await become(world, {"10.244.0.5": True})
    delays = []
    version = (await world.get(ENDPOINTSLICES.path("default")))[1]["metadata"]["resourceVersion"]
    async with world.watch(ENDPOINTSLICES.path("default"), resourceVersion=version) as watch:
        for turn in range(15):
            ready = bool(turn % 2)
            await tell(world, "web", ready=ready)
            begin = time.perf_counter()
            event = await watch.next()
            delays.append(time.perf_counter() - begin)
            assert event["object"]["endpoints"][0]["conditions"]["ready"] is ready
            await asyncio.sleep(0.03)
    assert median(delays) <= 20 * MILLISECONDS, sorted(delays)
