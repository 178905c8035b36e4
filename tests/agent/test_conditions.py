"""Conditions are written by who leads, once for each difference, over the version that was read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from msgspec.structs import replace

from podnet.agent import conditions as module
from podnet.agent.conditions import Conditions
from podnet.client.errors import ApiError
from podnet.network.view import Problem
from podnet.objects.cluster import Cluster
from podnet.objects.codec import convert
from podnet.objects.kinds import NODES, Kind
from podnet.objects.network import ProxySpec, ServiceRoute
from podnet.objects.services import Service
from tests.worlds import cluster, config, node

OTHERS = {"type": "example.com/Shiny", "status": "True", "unheard": "of"}


class Api:
    """Objects by name; `deaf`: statuses are taken and forgotten."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.deaf = False
        self.conflicts = 0
        self.refuse: ApiError | None = None
        self.annotations: dict[str, str] = {}

    def put(self, kind: str, name: str, spec: dict[str, Any], **more: Any) -> None:
        meta = {"name": name, "namespace": "default", "resourceVersion": "1", "generation": 1, **more}
        self.objects[name] = {"kind": kind, "metadata": meta, "spec": spec, "status": {"conditions": [OTHERS]}}

    async def get(self, kind: Kind, name: str, namespace: str, into: object) -> dict[str, Any]:
        if name not in self.objects:
            raise ApiError(404, "NotFound")
        return copy.deepcopy(self.objects[name])

    async def patch(
        self, kind: Kind, name: str, patch: dict[str, Any], namespace: str = "", *, into: object, subresource: str = ""
    ) -> None:
        if kind is NODES:
            self.writes.append(f"Node/{name}")
            if self.refuse:
                raise self.refuse
            said = patch["metadata"]["annotations"]
            self.annotations = {key: text for key, text in (self.annotations | said).items() if text}
            return
        assert (kind.kind, subresource) == (self.objects[name]["kind"], "status")
        self.writes.append(name)
        if self.refuse:
            raise self.refuse
        meta = self.objects[name]["metadata"]
        if self.conflicts:
            self.conflicts -= 1
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        if patch["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            raise ApiError(409, "Conflict")
        if not self.deaf:
            self.objects[name]["status"] = patch["status"]

    def conditions(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.objects[name]["status"]["conditions"] or () if each != OTHERS]

    def cluster(self) -> Cluster:
        kinds: dict[str, Any] = {"Service": Service, "ServiceRoute": ServiceRoute}
        made = [convert(each, kinds[each["kind"]]) for each in self.objects.values()]
        routes = {each.key: each for each in made if isinstance(each, ServiceRoute)}
        services = [each for each in made if isinstance(each, Service)]
        me = node(1)
        me = replace(me, metadata=replace(me.metadata, annotations=self.annotations))
        return replace(cluster([me], config(proxy=ProxySpec()), services=services), serviceroutes=routes)


class Desk:
    def __init__(self) -> None:
        self.api = Api()
        self.unusable: tuple[Problem, ...] = ()
        self.local: tuple[Problem, ...] = ()
        self.conditions = Conditions(
            self.api,  # type: ignore[arg-type]
            "n1",
            self.api.cluster,
            lambda: self.unusable,
            lambda: self.local,
        )
        self.lead(True)

    def lead(self, leading: bool) -> None:
        self.conditions.election._until = float("inf") if leading else 0.0

    async def written(self) -> list[str]:
        """What the API is asked to write in one round."""
        self.api.writes.clear()
        await self.conditions.write()
        return self.api.writes


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(module, "BACKOFF", (0.0, 0.0))
    made = Desk()
    made.api.put("ServiceRoute", "split", {"service": "web"})
    return made


async def test_a_difference_is_written_once_and_others_stay(desk: Desk) -> None:
    assert await desk.written() == ["split"]
    ((mine),) = desk.api.conditions("split")
    assert (mine["status"], mine["reason"], mine["observedGeneration"]) == ("False", "NoSuchService", 1)
    assert OTHERS in desk.api.objects["split"]["status"]["conditions"]
    assert await desk.written() == []


async def test_the_time_is_that_of_the_last_change_of_the_status(desk: Desk) -> None:
    await desk.written()
    (mine,) = desk.api.conditions("split")
    mine["lastTransitionTime"] = "2001-01-01T00:00:00Z"
    desk.api.objects["split"]["spec"]["service"] = "other"
    assert await desk.written() == ["split"]
    assert desk.api.conditions("split")[0]["lastTransitionTime"] == "2001-01-01T00:00:00Z"
    desk.api.put("Service", "other", {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})
    assert await desk.written() == ["split"]
    (mine,) = desk.api.conditions("split")
    assert mine["status"] == "True"
    assert mine["lastTransitionTime"] > "2024"


async def test_what_is_mended_bears_nothing(desk: Desk) -> None:
    ports = [{"port": 80, "protocol": "TCP"}]
    for day, name in enumerate(("a", "b"), 1):
        spec = {"clusterIP": f"10.96.0.{day}", "externalIPs": ["203.0.113.1"], "ports": ports}
        desk.api.put("Service", name, spec, creationTimestamp=f"2024-01-0{day}T00:00:00Z")
    assert set(await desk.written()) == {"b", "split"}
    assert [each["status"] for each in desk.api.conditions("b")] == ["False"]
    del desk.api.objects["a"]
    assert await desk.written() == ["b"]
    assert desk.api.objects["b"]["status"]["conditions"] == [OTHERS]


async def test_who_does_not_lead_writes_nothing(desk: Desk) -> None:
    desk.lead(False)
    assert await desk.written() == []


async def test_a_conflict_is_read_and_written_again(desk: Desk) -> None:
    desk.api.conflicts = 2
    assert await desk.written() == ["split"] * 3
    assert desk.api.conditions("split")


async def test_conflicts_without_end_are_left_for_later(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.api.conflicts = 100
    assert await desk.written() == ["split"] * module.RACES
    assert "could not be written" in caplog.text


async def test_what_does_not_show_is_tried_ever_more_seldom(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", (100.0, 300.0))
    desk.api.deaf = True
    assert await desk.written() == ["split"]
    assert await desk.written() == []
    ((about, tried),) = desk.conditions._tries.items()
    desk.conditions._tries[about] = tried._replace(again=0.0)
    assert await desk.written() == ["split"]
    assert desk.conditions._tries[about].wait == 300.0
    assert 0 < desk.conditions._rest() <= module.PERIOD
    desk.api.put("Service", "web", {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})
    assert await desk.written() == ["split"], "another condition is another write"


async def test_a_refused_write_stops_no_other(desk: Desk) -> None:
    desk.api.put("ServiceRoute", "more", {"service": "web"})
    desk.api.refuse = ApiError(422, "Invalid", "no")
    assert sorted(await desk.written()) == ["more", "split"]


async def test_an_object_that_is_gone_or_unreadable(desk: Desk) -> None:
    await desk.written()
    desk.unusable = tuple(Problem(f"ServiceRoute/default/{name}", "Invalid", "no list") for name in ("gone", "split"))
    assert await desk.written() == ["split"]
    assert desk.api.conditions("split")[0]["reason"] == "Invalid"
    assert await desk.written() == []


async def test_what_this_node_alone_meets_is_told_while_it_lasts(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.lead(False)
    await desk.conditions.report()
    desk.local = (Problem("ServiceRoute/default/split", "HealthCheckPortTaken", "taken"),)
    desk.api.refuse = ApiError(503, "ServiceUnavailable", "away")
    await desk.conditions.report()
    assert "away" in caplog.text
    desk.api.refuse = None
    for _ in range(2):
        await desk.conditions.report()
    assert desk.api.writes == ["Node/n1"] * 2, "once in vain"
    desk.lead(True)
    assert await desk.written() == ["split"]
    assert desk.api.conditions("split")[0]["message"].endswith("; n1: taken")
    desk.local = ()
    await desk.conditions.report()
    assert desk.api.annotations == {}
