"""Services as a client sees them: addresses and node ports come with the write, stay, and are free again after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from podnet.apiserver import controllers
from podnet.apiserver.records import Key
from podnet.objects.kinds import SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, serving, until

PATH = SERVICES.path("default", "web")
BOTH = ("10.96.0.0/24", "fd00:10:96::/112")
POOL = ("192.0.2.10-192.0.2.11", "2001:db8::10-2001:db8::20")


@pytest.fixture
async def dual(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path, service_cluster_ip_range=BOTH, load_balancer_pool=POOL) as api:
        yield api


async def made(api: Api, name: str = "web", **spec: Any) -> Any:
    return (await api.create(SERVICES, make.service(name, **spec)))["spec"]


async def changed(api: Api, **spec: Any) -> Any:
    code, answer = await api.patch(PATH, {"spec": spec})
    assert code == 200, answer
    return answer["spec"]


async def refused(api: Api, name: str = "web", **spec: Any) -> tuple[int, str]:
    code, answer = await api.ask("POST", SERVICES.path("default"), make.service(name, **spec))
    assert code >= 400
    return code, answer["message"].partition(": ")[2]


# Given


async def test_everything_is_given_with_the_write(api: Api) -> None:
    spec = await made(api)
    assert ip_address(spec["clusterIP"]) in ip_network("10.96.0.0/16")
    assert int(ip_address(spec["clusterIP"])) >= int(ip_address("10.96.1.1")), "not of the static band"
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    assert (spec["internalTrafficPolicy"], spec["sessionAffinity"]) == ("Cluster", "None")
    assert "externalTrafficPolicy" not in spec


async def test_a_load_balancer_gets_all_there_is(dual: Api) -> None:
    spec = await made(dual, type="LoadBalancer", ipFamilyPolicy="PreferDualStack", externalTrafficPolicy="Local")
    assert [ip_address(address).version for address in spec["clusterIPs"]] == [4, 6]
    assert 30086 <= spec["ports"][0]["nodePort"] <= 32767
    assert 30086 <= spec["healthCheckNodePort"] <= 32767
    assert spec["healthCheckNodePort"] != spec["ports"][0]["nodePort"]
    assert spec["allocateLoadBalancerNodePorts"] is True

    async def served() -> Any:
        return (await dual.get(PATH))[1]["status"]["loadBalancer"].get("ingress")

    assert await until(served) == [{"ip": "192.0.2.10", "ipMode": "VIP"}, {"ip": "2001:db8::10", "ipMode": "VIP"}]


async def test_affinity_lasts_three_hours_when_not_said(api: Api) -> None:
    spec = await made(api, sessionAffinity="ClientIP")
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "sessionAffinityConfig" not in await changed(api, sessionAffinity="None")


async def test_what_podnet_does_not_know_passes_through(api: Api) -> None:
    spec = await made(api, publishNotReadyAddresses=True, trafficDistribution="PreferClose", someDay={"a": [1]})
    again = await changed(api, selector={"app": "other"})
    assert {**spec, "selector": {"app": "other"}} == again


IPS = "spec.clusterIPs: Invalid value:"
OUTSIDE = "provided IP is not in the valid range. The range of valid IPs is"
ALONE = "this cluster is not configured for dual-stack services"


async def test_wishes(api: Api) -> None:
    ports = [{"port": 80, "nodePort": 30001}]
    spec = await made(api, clusterIP="10.96.0.77", type="NodePort", ports=ports)
    assert (spec["clusterIPs"], spec["ports"][0]["nodePort"]) == (["10.96.0.77"], 30001)
    assert await refused(api, "b", clusterIP="10.96.0.77") == (
        422,
        f'{IPS} ["10.96.0.77"]: failed to allocate IP 10.96.0.77: provided IP is already allocated',
    )
    assert await refused(api, "b", type="NodePort", ports=ports) == (
        422,
        "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
    )
    assert await refused(api, "b", clusterIP="10.1.0.1") == (
        422,
        f'{IPS} ["10.1.0.1"]: failed to allocate IP 10.1.0.1: {OUTSIDE} 10.96.0.0/16',
    )
    assert await refused(api, "b", ipFamilyPolicy="RequireDualStack") == (
        422,
        f'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": {ALONE}',
    )
    assert await refused(api, "b", clusterIP="x", ports=[]) == (
        422,
        'spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
    )
    code, said = await refused(api, "b", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30001)
    assert (code, said) == (
        500, "failed to allocate requested HealthCheck NodePort 30001: provided port is already allocated",
    )  # fmt: skip


async def test_a_refused_or_dry_write_keeps_nothing(api: Api) -> None:
    wish: dict[str, Any] = {"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}
    code, _ = await refused(api, **wish, sessionAffinity="Cookie")
    assert code == 422
    dry = await api.create(SERVICES, make.service(**wish), dryRun="All")
    assert dry["spec"]["clusterIP"] == "10.96.0.77"
    assert (await made(api, "other", **wish))["clusterIP"] == "10.96.0.77"


# Changed

HARD = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


async def test_the_same_manifest_again(api: Api) -> None:
    first = await made(api, type="NodePort")
    code, answer = await api.ask("PUT", PATH, make.service(type="NodePort"))
    assert (code, answer["spec"]) == (200, first)


async def test_the_round_of_types(dual: Api) -> None:
    plain = await made(dual)
    node = await changed(dual, type="NodePort")
    number = node["ports"][0]["nodePort"]
    assert node["externalTrafficPolicy"] == "Cluster"
    balancer = await changed(dual, type="LoadBalancer", externalTrafficPolicy="Local")
    assert balancer["ports"][0]["nodePort"] == number
    assert balancer["healthCheckNodePort"]
    cluster = await changed(dual, type="LoadBalancer", externalTrafficPolicy="Cluster")
    assert "healthCheckNodePort" not in cluster

    async def served() -> Any:
        return (await dual.get(PATH))[1]["status"]["loadBalancer"].get("ingress")

    await until(served)
    assert await changed(dual, type="ClusterIP") == plain
    assert (await dual.get(PATH))[1]["status"] == {"loadBalancer": {}}
    name = await changed(dual, type="ExternalName", externalName="a.example")
    assert not any(field in name for field in HARD)
    taken = await made(
        dual, "other", clusterIP=plain["clusterIP"], type="NodePort", ports=[{"port": 1, "nodePort": number}]
    )
    assert taken["clusterIP"] == plain["clusterIP"], "a name has no address"
    back = await changed(dual, type="ClusterIP", externalName=None)
    assert back["clusterIP"] not in ("", plain["clusterIP"])


async def test_up_and_down_the_stacks(dual: Api) -> None:
    one = await made(dual)
    two = await changed(dual, ipFamilyPolicy="RequireDualStack")
    assert (two["clusterIPs"][:1], two["ipFamilies"]) == (one["clusterIPs"], ["IPv4", "IPv6"])
    down = await changed(dual, ipFamilyPolicy="SingleStack")
    assert {**down, "ipFamilyPolicy": ""} == {**one, "ipFamilyPolicy": ""}
    freed = two["clusterIPs"][1]
    assert (await made(dual, "other", clusterIP=freed))["clusterIPs"] == [freed]


async def test_a_cluster_address_cannot_change(api: Api) -> None:
    await made(api, clusterIP="10.96.0.5")
    code, answer = await api.patch(PATH, {"spec": {"clusterIP": "10.96.0.6"}})
    assert code == 422
    assert "may not change once set" in answer["message"]
    assert (await made(api, "other", clusterIP="10.96.0.6"))["clusterIP"] == "10.96.0.6"


async def test_what_is_deleted_is_free(api: Api) -> None:
    wish: dict[str, Any] = {"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}
    await made(api, **wish)
    await api.patch(PATH, {"metadata": {"finalizers": ["a.b/c"]}})
    await api.ask("DELETE", PATH)
    code, _ = await refused(api, "other", **wish)
    assert code == 422, "it is not gone yet"
    await api.patch(PATH, {"metadata": {"finalizers": None}})
    await made(api, "other", **wish)


async def test_a_status_is_written_without_giving_anything(api: Api) -> None:
    spec = await made(api, type="LoadBalancer")
    code, answer = await api.patch(f"{PATH}/status", {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}})
    assert (code, answer["spec"]) == (200, spec)
    assert answer["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]


# Many at once, and for ever


async def test_nobody_gets_what_another_gets(tmp_path: Path) -> None:
    """/27: 30 addresses, of which the Service kubernetes has one."""
    async with serving(
        tmp_path, service_cluster_ip_range=("10.96.0.0/27",), service_node_port_range="30000-30049"
    ) as api:
        asked = [make.service(f"s{n}", type="NodePort") for n in range(40)]
        answers = await asyncio.gather(*(api.ask("POST", SERVICES.path("default"), each) for each in asked))
        codes = [code for code, _ in answers]
        assert (codes.count(201), codes.count(500)) == (29, 11)
        given = [answer["spec"] for code, answer in answers if code == 201]
        assert len({spec["clusterIP"] for spec in given}) == 29
        assert len({spec["ports"][0]["nodePort"] for spec in given}) == 29
        (said,) = {answer["message"] for code, answer in answers if code == 500}
        assert said == "Internal error occurred: failed to allocate a serviceIP: range is full"
        wishes = [make.service(f"w{n}", type="NodePort", ports=[{"port": 80, "nodePort": 30007}]) for n in range(5)]
        await api.ask("DELETE", SERVICES.path("default", given_name(answers)))
        answers = await asyncio.gather(*(api.ask("POST", SERVICES.path("default"), each) for each in wishes))
        assert sum(code == 201 for code, _ in answers) <= 1


def given_name(answers: Any) -> str:
    return str(next(answer["metadata"]["name"] for code, answer in answers if code == 201))


async def test_a_restart_remembers(tmp_path: Path) -> None:
    async with serving(tmp_path, service_cluster_ip_range=("10.96.0.0/27",)) as api:
        held = {(await made(api, f"s{n}"))["clusterIP"] for n in range(14)}
    async with serving(tmp_path, service_cluster_ip_range=("10.96.0.0/27",)) as api:
        more = {(await made(api, f"t{n}"))["clusterIP"] for n in range(15)}
        assert not held & more
        assert (await refused(api))[0] == 500


async def test_a_range_that_moved_is_told_and_nothing_is_taken_away(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        spec = await made(api, type="NodePort")
    moved: dict[str, Any] = {"service_cluster_ip_range": ("10.97.0.0/16",), "service_node_port_range": "20000-21000"}
    async with serving(tmp_path, **moved) as api:

        async def told() -> list[str] | None:
            items = (await api.get("/api/v1/namespaces/default/events"))[1]["items"]
            reasons = sorted(item["reason"] for item in items if item["involvedObject"]["name"] == "web")
            return reasons if len(reasons) == 2 else None

        assert await until(told) == ["ClusterIPOutOfRange", "PortOutOfRange"]
        assert (await api.get(PATH))[1]["spec"] == spec
        await changed(api, selector={"app": "other"})


async def test_the_repair_loop_teaches_a_ledger_that_forgot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "REPAIR_SECONDS", 0.05)
    async with serving(tmp_path) as api:
        spec = await made(api)
        allocation = api.registry.allocation
        assert allocation is not None
        allocation.ledger.note(Key("services", "default", "web"), frozenset())

        async def told() -> bool:
            items = (await api.get("/api/v1/namespaces/default/events"))[1]["items"]
            return any(item["reason"] == "ClusterIPNotAllocated" for item in items)

        await until(told)
        assert (await refused(api, "other", clusterIP=spec["clusterIP"]))[0] == 422
