"""The controllers' hands on a real server: what a cluster's life looks like to its clients."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from podnet.apiserver import controllers
from podnet.network.controllers.load_balancers import GIVEN
from podnet.objects.kinds import CONFIGMAPS, EVENTS, LEASES, NAMESPACES, NETWORKCONFIGS, NODES, PODS, SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, serving, until
from tests.apiserver.documents import at


async def found(api: Api, path: str, test: Any = bool) -> Any:
    """The object at `path`, once it passes."""

    async def look() -> Any:
        code, document = await api.get(path)
        return document if code == 200 and test(document) else None

    return await until(look)


async def gone(api: Api, path: str) -> None:
    async def look() -> bool:
        return (await api.get(path))[0] == 404

    await until(look)


def condition(document: Any, kind: str) -> Any:
    found = [item for item in document.get("status", {}).get("conditions", ()) if item["type"] == kind]
    return found[0] if found else {}


async def events(api: Api, reason: str) -> list[Any]:
    listed = (await api.get(EVENTS.path("default"), fieldSelector=f"reason={reason}"))[1]
    return list(listed["items"])


async def test_a_node_gets_its_ranges_and_a_pod_its_node(api: Api) -> None:
    await api.create(NETWORKCONFIGS, make.network_config(podCIDRs=["10.244.0.0/16", "fd00:10::/48"]))
    for name in ("n1", "n2"):
        await api.create(NODES, make.node(name))
    first = await found(api, NODES.path("", "n1"), lambda node: node["spec"].get("podCIDRs"))
    assert first["spec"] == {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10::/64"]}
    second = await found(api, NODES.path("", "n2"), lambda node: node["spec"].get("podCIDRs"))
    assert second["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd00:10:0:1::/64"]
    for name in ("a", "b"):
        await api.create(PODS, make.pod(name))
    placed = [
        await found(api, PODS.path("default", name), lambda pod: pod["spec"].get("nodeName")) for name in ("a", "b")
    ]
    assert {pod["spec"]["nodeName"] for pod in placed} == {"n1", "n2"}
    assert condition(placed[0], "PodScheduled")["status"] == "True"


async def test_a_configuration_that_comes_late_serves_the_nodes_that_wait(api: Api) -> None:
    await api.create(NODES, make.node())
    await api.create(NETWORKCONFIGS, make.network_config())
    await found(api, NODES.path("", "n1"), lambda node: node["spec"].get("podCIDRs") == ["10.244.0.0/24"])


async def test_nodes_keep_their_ranges(api: Api) -> None:
    await api.create(NETWORKCONFIGS, make.network_config())
    await api.create(NODES, make.node())
    await found(api, NODES.path("", "n1"), lambda node: node["spec"].get("podCIDRs"))
    path = NETWORKCONFIGS.path("", "default")
    code, said = await api.patch(path, {"spec": {"podCIDRs": ["10.9.0.0/16"]}})
    assert (code, said["details"]["causes"][0]["field"]) == (422, "spec.podCIDRs")
    assert "Node n1 has 10.244.0.0/24" in said["message"]
    assert (await api.patch(path, {"spec": {"podCIDRs": ["10.240.0.0/12"]}}))[0] == 200


async def test_the_range_of_the_command_line_serves_without_a_configuration(tmp_path: Path) -> None:
    async with serving(tmp_path, pod_cidr=("10.9.0.0/16",)) as api:
        await api.create(NODES, make.node())
        await found(api, NODES.path("", "n1"), lambda node: node["spec"].get("podCIDRs") == ["10.9.0.0/24"])


async def test_a_node_without_a_range_is_told_once(api: Api) -> None:
    await api.create(NETWORKCONFIGS, make.network_config(podCIDRs=["10.244.0.0/24"]))
    for name in ("n1", "n2"):
        await api.create(NODES, make.node(name))

    async def told() -> list[Any]:
        return await events(api, "CIDRNotAvailable")

    (event,) = await until(told)
    assert event["involvedObject"]["kind"] == "Node"
    await api.patch(NODES.path("", "n2"), {"metadata": {"labels": {"a": "b"}}})
    await api.ask("DELETE", NODES.path("", "n1"))
    await found(api, NODES.path("", "n2"), lambda node: node["spec"].get("podCIDRs"))
    assert len(await told()) == 1


async def test_a_pod_waits_for_a_node_and_says_so(api: Api) -> None:
    await api.create(PODS, make.pod())
    waiting = await found(api, PODS.path("default", "web"), lambda pod: condition(pod, "PodScheduled"))
    assert condition(waiting, "PodScheduled")["reason"] == "Unschedulable"
    assert condition(waiting, "PodScheduled")["lastTransitionTime"]

    async def told() -> list[Any]:
        return await events(api, "FailedScheduling")

    (event,) = await until(told)
    assert event["involvedObject"]["uid"] == waiting["metadata"]["uid"]
    await api.create(NODES, make.node())
    placed = await found(api, PODS.path("default", "web"), lambda pod: pod["spec"].get("nodeName"))
    assert condition(placed, "PodScheduled")["status"] == "True"


async def test_a_deleted_namespace_is_emptied(api: Api) -> None:
    await api.create(NAMESPACES, make.namespace())
    for name in "abc":
        await api.create(CONFIGMAPS, make.config_map(name, "team"))
    await api.create(CONFIGMAPS, at(make.config_map("held", "team"), "metadata.finalizers", ["example.com/hold"]))
    await api.ask("DELETE", NAMESPACES.path("", "team"))
    held = await found(
        api, CONFIGMAPS.path("team", "held"), lambda document: document["metadata"].get("deletionTimestamp")
    )
    await gone(api, CONFIGMAPS.path("team", "a"))
    assert (await api.get(NAMESPACES.path("", "team")))[0] == 200
    await api.patch(CONFIGMAPS.path("team", held["metadata"]["name"]), {"metadata": {"finalizers": None}})
    await gone(api, CONFIGMAPS.path("team", "held"))


async def sweep(api: Api, seconds: float) -> None:
    """Let time pass; the next sweep sees it."""
    now = api.registry.now
    api.registry.now = lambda: now() + timedelta(seconds=seconds)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "SWEEP_SECONDS", 0.02)


@pytest.fixture
async def swept(busy: None, api: Api) -> Api:
    return api


async def test_a_silent_node_becomes_unknown(swept: Api) -> None:
    renewed = swept.registry.now().isoformat().replace("+00:00", "Z")
    for name in ("n1", "n2"):
        await swept.create(NODES, make.node(name))
    await swept.create(LEASES, make.lease("n1", renewTime=renewed, holderIdentity="n1"))
    await sweep(swept, 41)
    node = await found(swept, NODES.path("", "n1"), lambda node: condition(node, "Ready")["status"] == "Unknown")
    assert condition(node, "Ready")["reason"] == "NodeStatusUnknown"
    assert node["status"]["addresses"], "the rest of its status stays"
    assert condition((await swept.get(NODES.path("", "n2")))[1], "Ready")["status"] == "True", "it never had a lease"


async def test_pods_of_a_silent_node_are_not_ready(swept: Api) -> None:
    renewed = swept.registry.now().isoformat().replace("+00:00", "Z")
    await swept.create(NODES, make.node("n1"))
    await swept.create(LEASES, make.lease("n1", renewTime=renewed, holderIdentity="n1"))
    await swept.create(PODS, make.pod(nodeName="n1"))
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    await swept.patch(f"{PODS.path('default', 'web')}/status", status, "strategic-merge-patch")
    await sweep(swept, 41)
    pod = await found(swept, PODS.path("default", "web"), lambda pod: condition(pod, "Ready")["status"] == "False")
    assert condition(pod, "Ready")["reason"] == "NodeNotReady"


async def test_pods_of_a_node_that_is_gone_are_removed_after_a_while(swept: Api) -> None:
    await swept.create(PODS, make.pod(nodeName="gone"))
    for _ in range(2):
        await asyncio.sleep(0.1)  # a few sweeps
        assert (await swept.get(PODS.path("default", "web")))[0] == 200
        await sweep(swept, 30)
    await gone(swept, PODS.path("default", "web"))


async def test_events_are_forgotten_after_an_hour(swept: Api) -> None:
    await swept.create(EVENTS, make.event("old"))
    await sweep(swept, 3601)
    await gone(swept, EVENTS.path("default", "old"))


async def test_a_mirror_survives_a_cut_watch(api: Api) -> None:
    await api.create(NETWORKCONFIGS, make.network_config())
    api.registry.store.close_watchers()
    await api.create(NODES, make.node())
    await found(api, NODES.path("", "n1"), lambda node: node["spec"].get("podCIDRs"))


def test_ages_of_odd_times() -> None:
    now = make.NOW
    assert controllers._age("2026-11-22T09:59:00.000000Z", now) == 60.0
    assert controllers._age("2026-11-22T09:59:00", now) == 60.0
    assert controllers._age("whenever", now) == 0.0


async def test_a_load_balancer_without_an_address_says_so_until_it_has_one(tmp_path: Path) -> None:
    path, free = SERVICES.path("default", "web"), "192.0.2.9"
    async with serving(tmp_path, load_balancer_pool=(f"{free}/32",)) as api:
        await api.create(SERVICES, make.service(type="LoadBalancer", loadBalancerIP="192.0.2.99"))
        told = await found(api, path, lambda service: condition(service, GIVEN))
        assert condition(told, GIVEN)["status"] == "False"
        assert condition(told, GIVEN)["lastTransitionTime"].endswith("Z")
        assert "192.0.2.99 is in no pool" in condition(told, GIVEN)["message"]
        await api.patch(path, {"spec": {"loadBalancerIP": free}})
        served = await found(api, path, lambda service: service["status"]["loadBalancer"].get("ingress"))
        assert served["status"]["loadBalancer"]["ingress"][0]["ip"] == free
        await found(api, path, lambda service: not condition(service, GIVEN))
