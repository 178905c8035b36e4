"""The ledger of addresses and node ports: it is what the Services say, whatever happens to a write."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podnet.apiserver.allocation import Allocation, Ledger
from podnet.apiserver.database import Database
from podnet.apiserver.records import Key, Record
from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError
from podnet.apiserver.store import Store
from podnet.network.controllers.node_ports import PortRange, port_token
from podnet.network.controllers.service_ips import Range, address_token
from podnet.objects.kinds import NAMESPACES, SERVICES
from tests.apiserver import documents as make
from tests.apiserver.documents import Document


def opened(path: Path) -> tuple[Store, Registry, Allocation]:
    store = Store(Database(str(path / "test.db")))
    allocation = Allocation(store, [Range.parse("10.96.0.0/24")], PortRange())
    return store, Registry(store, lambda: make.NOW, allocation), allocation


async def test_a_write_that_fails_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, registry, allocation = opened(tmp_path)
    try:
        await registry.create(NAMESPACES, "", make.namespace("default"))
        await registry.create(SERVICES, "default", make.service(clusterIP="10.96.0.5"))

        def fail(_self: Database, _changes: Any) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patched:
            patched.setattr(Database, "commit", fail)
            results = await asyncio.gather(
                registry.create(SERVICES, "default", make.service("other", clusterIP="10.96.0.6")),
                registry.delete(SERVICES, "default", "web"),
                return_exceptions=True,
            )
        assert all(isinstance(result, ApiError) for result in results)
        assert set(allocation.ledger.holds) == {Key("services", "default", "web")}
        assert [found async for found in allocation.repair()] == []
        with pytest.raises(ApiError, match="already allocated"):
            await registry.create(SERVICES, "default", make.service("third", clusterIP="10.96.0.5"))
        await registry.create(SERVICES, "default", make.service("third", clusterIP="10.96.0.6"))
    finally:
        store.close()


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["create", "delete", "name", "address"]), st.integers(0, 5)), min_size=1, max_size=30
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_the_ledger_is_what_the_services_say(tmp_path_factory: pytest.TempPathFactory, operations: Any) -> None:
    asyncio.run(_history(tmp_path_factory.mktemp("history"), operations))


async def _history(path: Path, operations: list[tuple[str, int]]) -> None:
    store, registry, allocation = opened(path)
    try:
        await registry.create(NAMESPACES, "", make.namespace("default"))
        works = [asyncio.create_task(_do(registry, verb, f"s{number}")) for verb, number in operations]
        await asyncio.gather(*works)
        held = dict(allocation.ledger.holds)
        assert [found async for found in allocation.repair()] == []
        assert allocation.ledger.holds == held
        tokens = [token for each in held.values() for token in each]
        assert len(tokens) == len(set(tokens))
    finally:
        store.close()


async def _do(registry: Registry, verb: str, name: str) -> Record | None:
    def become(old: Document) -> Document:
        kind = {"type": "ExternalName", "externalName": "a.b"} if verb == "name" else {"type": "NodePort"}
        return {**old, "spec": {**old["spec"], **kind}}

    try:
        if verb == "create":
            return await registry.create(SERVICES, "default", make.service(name, type="NodePort"))
        if verb == "delete":
            return (await registry.delete(SERVICES, "default", name))[0]
        return await registry.patch(SERVICES, "default", name, become)
    except ApiError as error:
        if error.reason not in ("AlreadyExists", "NotFound"):
            raise
        return None


def test_a_ledger_of_what_two_have() -> None:
    ledger, one, two = Ledger(), Key("services", "a", "one"), Key("services", "a", "two")
    address, port = address_token("10.96.0.5"), port_token(30001)
    ledger.note(one, frozenset({address, port}))
    assert not ledger.taken(address, by_others_than=one)
    assert ledger.taken(address, by_others_than=two)
    ledger.note(two, frozenset({address}))
    assert ledger.taken(address, by_others_than=one)
    ledger.note(one, frozenset())
    assert ledger.taken(address, by_others_than=one)
    assert not ledger.taken(port, by_others_than=two)
    assert set(ledger.holds) == {two}
