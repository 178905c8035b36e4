"""ExternalPods and DebugPorts on a real server: what is given out in the write itself, and what is refused."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.apiserver import controllers
from podnet.apiserver.allocation import Allocation
from podnet.apiserver.database import Database
from podnet.apiserver.lifecycle import DeleteOptions
from podnet.apiserver.records import Selection
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError
from podnet.apiserver.store import Store
from podnet.apiserver.strategic import strategic_merge
from podnet.network.controllers.node_ports import PortRange
from podnet.network.controllers.service_ips import Range
from podnet.objects.kinds import DEBUGPORTS, EVENTS, EXTERNALPODS, NAMESPACES, NODES, PODS, SERVICES
from podnet.objects.leases import EXTERNAL_ANNOTATION
from tests.apiserver import documents as make
from tests.apiserver.conftest import MEMORY, TABLE, Api, serving, until
from tests.apiserver.documents import at

POD, LEASE, EXTERNAL = (
    kind.path("default", name) for kind, name in ((PODS, "web"), (DEBUGPORTS, "web-80-tcp"), (EXTERNALPODS, "registry"))
)


def labelled(name: str = "web", **spec: Any) -> dict[str, Any]:
    return at(make.pod(name, **spec), "metadata.labels", {"app": "web"})


def external(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pod["metadata"].get("annotations", {}).get(EXTERNAL_ANNOTATION, "[]"))
    return found


async def prepared(api: Api) -> None:
    await api.create(NODES, make.node())


async def test_the_binding_itself_gives_the_ports(api: Api) -> None:
    await prepared(api)
    await api.create(EXTERNALPODS, make.external_pods())
    async with api.watch(PODS.path("default")) as watch:
        await api.create(PODS, labelled())
        while True:
            seen = (await watch.next())["object"]
            if seen["spec"].get("nodeName"):
                break
    (given,) = external(seen)
    where = {"name": "rpc", "address": "10.0.0.1", "containerPort": 20880, "protocol": "TCP"}
    assert given == where | {"port": given["port"]}
    created = await api.create(PODS, labelled("direct", nodeName="n1"))
    (other,) = external(created)
    assert other["port"] != given["port"]

    async def told() -> bool:
        status = (await api.get(EXTERNAL))[1].get("status", {})
        return {row["pod"]: row["published"] for row in status.get("pods", ())} == {"web": [given], "direct": [other]}

    await until(told)
    wish = make.service(type="NodePort", ports=[{"port": 80, "nodePort": given["port"]}])
    code, refused = await api.ask("POST", SERVICES.path("default"), wish)
    assert (code, "already allocated" in refused["message"]) == (422, True)


async def test_a_pod_that_was_there_gets_them_and_forged_ones_are_void(api: Api) -> None:
    await prepared(api)
    forged = at(labelled(nodeName="n1"), "metadata.annotations", {EXTERNAL_ANNOTATION: '[{"name":"x","port":22}]'})
    assert external(await api.create(PODS, forged)) == []
    await api.create(EXTERNALPODS, make.external_pods())

    async def given() -> Any:
        return external((await api.get(POD))[1])

    first = await until(given)
    await api.patch(POD, {"metadata": {"annotations": {EXTERNAL_ANNOTATION: None}}})
    assert await given() == first
    code, _ = await api.ask("DELETE", EXTERNAL)
    assert code == 200

    async def withdrawn() -> bool:
        return not await given()

    await until(withdrawn)


async def test_a_restart_keeps_everything() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        async with serving(Path(folder)) as api:
            await prepared(api)
            await api.create(EXTERNALPODS, make.external_pods())
            before = external(await api.create(PODS, labelled(nodeName="n1")))
            lease = await api.create(DEBUGPORTS, make.debug_port())
        async with serving(Path(folder)) as api:
            assert external((await api.get(POD))[1]) == before
            for number in (before[0]["port"], lease["spec"]["nodePort"]):
                wish = make.service(type="NodePort", ports=[{"port": 80, "nodePort": number}])
                assert (await api.ask("POST", SERVICES.path("default"), wish))[0] == 422


async def test_a_full_range_spoils_no_pod_and_is_told() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        async with serving(Path(folder), service_node_port_range="30000-30000") as api:
            await prepared(api)
            await api.create(EXTERNALPODS, make.external_pods())
            assert len(external(await api.create(PODS, labelled(nodeName="n1")))) == 1
            assert external(await api.create(PODS, labelled("late", nodeName="n1"))) == []

            async def told() -> Any:
                found = (await api.get(EVENTS.path("default"), fieldSelector="reason=Waiting"))[1]["items"]
                return [each["message"] for each in found]

            assert "pod late waits for rpc" in (await until(told))[0]
            code, refused = await api.ask("POST", DEBUGPORTS.path("default"), make.debug_port())
            assert (code, "range is full" in refused["message"]) == (500, True)
            await api.ask("DELETE", POD, {"gracePeriodSeconds": 0})

            async def late() -> Any:
                await api.patch(PODS.path("default", "late"), {"metadata": {"labels": {"poke": "1"}}})
                return external((await api.get(PODS.path("default", "late")))[1])

            assert (await until(late))[0]["port"] == 30000


async def test_leases_keep_off_host_ports_and_node_ports_do_not() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        async with serving(Path(folder), service_node_port_range="30000-30001") as api:
            await prepared(api)
            host = {"name": "c", "image": "x", "ports": [{"containerPort": 80, "hostPort": 30000}]}
            await api.create(PODS, labelled(nodeName="n1", containers=[host]))
            code, refused = await api.ask("POST", DEBUGPORTS.path("default"), make.debug_port(nodePort=30000))
            assert (code, "already allocated" in refused["message"]) == (422, True)
            assert (await api.create(DEBUGPORTS, make.debug_port()))["spec"]["nodePort"] == 30001
            service = make.service("front", type="NodePort", ports=[{"port": 80, "nodePort": 30000}])
            assert (await api.create(SERVICES, service))["spec"]["ports"][0]["nodePort"] == 30000, "as upstream"


async def test_a_lease_its_table_and_its_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "SWEEP_SECONDS", 0.05)
    await prepared(api)
    code, refused = await api.ask("POST", DEBUGPORTS.path("default"), make.debug_port())
    assert (code, "there is no such pod" in refused["message"]) == (422, True)
    await api.create(PODS, labelled(nodeName="n1"))
    made = await api.create(DEBUGPORTS, make.debug_port())
    assert made["spec"]["seconds"] == 1800

    async def placed() -> Any:
        return (await api.get(LEASE))[1].get("status", {}).get("address")

    assert await until(placed) == "10.0.0.1"
    table = (await api.ask("GET", DEBUGPORTS.path("default"), accept=TABLE))[1]
    assert table["rows"][0]["cells"][1:4] == ["web", "80/TCP", f"10.0.0.1:{made['spec']['nodePort']}"]
    for field in ({"pod": "x"}, {"port": 81}, {"nodePort": 31000}):
        assert (await api.patch(LEASE, {"spec": field}))[0] == 422
    assert (await api.patch(LEASE, {"spec": {"seconds": 3600}}))[0] == 200
    assert (await api.patch(LEASE, {"spec": {"seconds": 1}}))[0] == 200

    async def over() -> bool:
        return (await api.get(LEASE))[0] == 404

    await until(over)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"selector": {}}, "spec.selector"),
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"name": "UPPER", "containerPort": 1}]}, "spec.ports[0].name"),
        ({"ports": [{"name": "a", "containerPort": 0}]}, "spec.ports[0].containerPort"),
        ({"ports": [{"name": "a", "containerPort": 1, "protocol": "ICMP"}]}, "spec.ports[0].protocol"),
        ({"ports": [{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]}, "spec.ports[1].name"),
        ({"address": "moon"}, "spec.address"),
    ],
)
async def test_wrong_external_pods(api: Api, change: dict[str, Any], field: str) -> None:
    code, answer = await api.ask("POST", EXTERNALPODS.path("default"), make.external_pods(**change))
    assert (code, field) == (422, answer["details"]["causes"][0]["field"])


@pytest.mark.parametrize(
    ("change", "field"),
    [({"port": 0}, "spec.port"), ({"protocol": "x"}, "spec.protocol"), ({"seconds": 0}, "spec.seconds"),
     ({"seconds": 90000}, "spec.seconds"), ({"nodePort": 80}, "spec.nodePort")],
)  # fmt: skip
async def test_wrong_debug_ports(api: Api, change: dict[str, Any], field: str) -> None:
    await prepared(api)
    await api.create(PODS, labelled(nodeName="n1"))
    code, answer = await api.ask("POST", DEBUGPORTS.path("default"), make.debug_port(**change))
    assert (code, field) == (422, answer["details"]["causes"][0]["field"])


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["service", "pod", "lease", "change"]), st.booleans(), st.integers(0, 3)), max_size=40
)


@settings(max_examples=30, deadline=None)
@given(operations=OPERATIONS)
def test_no_number_is_ever_given_twice(operations: list[tuple[str, bool, int]]) -> None:
    """Services, pods and leases come and go at once, of a range that is too small for all of them."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        asyncio.run(_history(Path(folder), operations))


async def _history(folder: Path, operations: list[tuple[str, bool, int]]) -> None:
    store = Store(Database(str(folder / "test.db")))
    try:
        allocation = Allocation(store, [Range.parse("10.96.0.0/24")], PortRange(30000, 30005))
        registry = Registry(store, lambda: make.NOW, allocation)
        await registry.create(NAMESPACES, "", make.namespace("default"))
        await registry.create(NODES, "", make.node())
        await registry.create(EXTERNALPODS, "default", make.external_pods())
        await registry.create(PODS, "default", labelled("web", nodeName="n1"))
        await asyncio.gather(*(_do(registry, *each) for each in operations))
        held = dict(allocation.ledger.holds)
        assert [found async for found in allocation.repair()] == []
        assert allocation.ledger.holds == held, "the ledger is what is stored"
        numbers = [token for tokens in held.values() for token in tokens if token.kind == "port"]
        assert len(numbers) == len(set(numbers))
        stored = [each.document() for each in registry.list(Selection("pods", "default")).records]
        given_out = [each["port"] for pod in stored for each in external(pod)]
        assert {*given_out} <= {token.number for token in numbers}
    finally:
        store.close()


async def _do(registry: Registry, what: str, come: bool, number: int) -> None:
    kind, document = {
        "service": (SERVICES, make.service(f"s{number}", type="NodePort")),
        "pod": (PODS, labelled(f"p{number}", **({"nodeName": "n1"} if number % 2 else {}))),
        "lease": (DEBUGPORTS, make.debug_port(f"l{number}")),
        "change": (PODS, {}),
    }[what]
    try:
        if what == "change":
            label = {"metadata": {"labels": {"app": "web" if come else "other"}}}
            await registry.patch(PODS, "default", f"p{number}", lambda old: strategic_merge(old, label))
            await registry.bind("default", f"p{number}", "n1")
        elif come:
            await registry.create(kind, "default", document)
        else:
            options = DeleteOptions(grace_period_seconds=0)
            await registry.delete(kind, "default", document["metadata"]["name"], options)
    except ApiError as error:
        if error.reason not in ("AlreadyExists", "NotFound", "Conflict") and "range is full" not in str(error):
            raise
