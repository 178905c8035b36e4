"""The CNI server over a network in memory: every command, every failure, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from podnet.agent.attachments import Attachments, StoreFailed
from podnet.agent.cni_server import CniServer, check_netns
from podnet.cni.errors import CniError, Code
from podnet.network.view import Bandwidth, PortMapping
from tests.agent.fakes import Answer, FakeNetwork, node_view
from tests.cni.calls import frame

Call = Callable[..., Awaitable[Answer]]
LATEST = {"cniVersion": "1.1.0"}


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Attachments]:
    opened = await Attachments.open(str(tmp_path), "boot")
    yield opened
    await opened.close()


@pytest.fixture
def seen() -> list[tuple[str, int]]:
    """What the server told `observe`."""
    return []


@pytest.fixture
async def server(
    store: Attachments, network: FakeNetwork, seen: list[tuple[str, int]], tmp_path: Path
) -> AsyncIterator[CniServer]:
    made = CniServer(
        str(tmp_path / "cni.sock"),
        store,
        network,
        observe=lambda command, code, seconds: seen.append((command, code)),
        inspect=lambda netns, own_allowed: 0,
    )
    yield made
    await made.close()


@pytest.fixture
def impatient(server: CniServer) -> None:
    """ADDs may take 0.2 s only."""
    server._seconds = 0.2


@pytest.fixture
def call(server: CniServer, network: FakeNetwork) -> Call:
    """Calls the server: call("ADD", "a", {config}, IFNAME=...)."""

    async def call(command: str, name: str = "a", config: Any = None, **env: str | None) -> Answer:
        variables = {"CONTAINERID": name, "NETNS": f"/run/netns/{name}"} | env
        answer = await server.answer(frame(config, COMMAND=command, **variables))
        if command == "DEL" and not network.hang:
            await server.settled()
        return Answer(answer[0], answer[1:])

    return call


def clean(store: Attachments, network: FakeNetwork) -> bool:
    """Whether nothing is left of anything."""
    return not store.all() and not network.kernel and not store._held


# -- ADD


async def test_add_and_del(call: Call, store: Attachments, network: FakeNetwork, seen: list[Any]) -> None:
    added = await call("ADD", config=LATEST)
    assert (added.exit, added.address) == (0, "10.244.1.2")
    pod = added.json["interfaces"][-1]
    assert pod == {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "mtu": 1430, "sandbox": "/run/netns/a"}
    (record,) = store.all()
    assert network.kernel == {("a", "eth0"): record}
    assert (record.pod, record.network, record.mode) == ("default/web-0", "podnet", "ptp")

    deleted = await call("DEL")
    assert (deleted.exit, deleted.text) == (0, b"")
    assert clean(store, network)
    assert seen == [("ADD", 0), ("DEL", 0)]


async def test_the_record_is_written_before_the_kernel_and_removed_after_it(
    call: Call, store: Attachments, network: FakeNetwork
) -> None:
    at_attach: list[int] = []

    async def look() -> None:
        at_attach.append(len(store.all()))

    network._pause = look
    await call("ADD")
    await call("DEL")
    assert at_attach == [1, 1, 0]


async def test_settings_of_the_cluster_and_of_the_call(call: Call, store: Attachments, network: FakeNetwork) -> None:
    network.view = node_view(mtu=1380)
    runtime = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8, "ingressBurst": 8},
        "ips": ["10.244.1.77"],
        "mac": "02:00:00:00:00:01",
        "dns": {"servers": ["10.96.0.10"], "searches": ["a"], "options": []},
    }
    added = await call("ADD", config=LATEST | {"runtimeConfig": runtime, "dns": {"domain": "x"}})
    record = store.get(("a", "eth0"))
    assert record
    assert (record.mode, record.mac, record.addresses[0]) == ("ptp", "02:00:00:00:00:01", "10.244.1.77/24")
    assert (record.ports, record.bandwidth) == ((PortMapping(8080, 80),), Bandwidth(8, 8))
    assert added.json["dns"] == {"nameservers": ["10.96.0.10"], "search": ["a"]}
    assert (added.json["ips"][0]["address"], added.json["interfaces"][-1]["mtu"]) == ("10.244.1.77/32", 1380)

    bridged = await call("ADD", "b", LATEST | {"attachment": "bridge", "mtu": 1300, "dns": {"domain": "x"}})
    assert bridged.json["interfaces"][0]["name"] == "podnet0"
    assert bridged.json["interfaces"][-1]["mtu"] == 1300
    assert bridged.json["dns"] == {"domain": "x"}


async def test_an_mtu_above_the_path_is_not_given(call: Call) -> None:
    assert (await call("ADD", config=LATEST | {"mtu": 9000})).json["interfaces"][-1]["mtu"] == 1430


async def test_a_second_add_is_an_error_and_harms_nothing(call: Call, store: Attachments, network: FakeNetwork) -> None:
    await call("ADD")
    before = store.all()
    again = await call("ADD")
    assert (again.exit, again.code) == (1, Code.EXISTS)
    assert store.all() is before
    assert len(network.kernel) == 1
    assert (await call("ADD", IFNAME="net1")).exit == 0
    # The same interface of the same container in another network is the same interface.
    assert (await call("ADD", config={"name": "other"})).code == Code.EXISTS


async def test_only_the_first_interface_leads_everywhere(call: Call, store: Attachments) -> None:
    first = (await call("ADD", config=LATEST)).json
    second = (await call("ADD", config=LATEST, IFNAME="net1")).json
    everywhere = {"0.0.0.0/0", "::/0"}
    assert everywhere <= {route["dst"] for route in first["routes"]}
    assert not everywhere & {route["dst"] for route in second["routes"]}
    assert [record.default_route for record in store.all()] == [True, False]
    # Another container's first is a first again.
    assert everywhere <= {route["dst"] for route in (await call("ADD", "b", LATEST)).json["routes"]}


async def test_an_error_is_in_the_version_of_the_call(call: Call) -> None:
    await call("ADD")
    assert (await call("ADD", config={"cniVersion": "0.3.1"})).json["cniVersion"] == "0.3.1"
    assert (await call("ADD", config={"cniVersion": "0.1.0"})).json["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(
    ("error", "code"),
    [(CniError(Code.NETNS, "gone"), Code.NETNS), (CniError(Code.NOT_APPLIED, "refused"), Code.NOT_APPLIED)],
)
async def test_a_failed_add_is_undone(
    call: Call, store: Attachments, network: FakeNetwork, error: CniError, code: int
) -> None:
    network.attach_error = error
    assert (await call("ADD")).code == code
    assert clean(store, network)
    network.attach_error = None
    assert (await call("ADD")).exit == 0


async def test_a_failed_add_whose_undoing_fails_is_left_to_del(
    call: Call, store: Attachments, network: FakeNetwork
) -> None:
    network.attach_error, network.detach_error = CniError(Code.NOT_APPLIED, "x"), CniError(Code.TRY_AGAIN, "y")
    assert (await call("ADD")).code == Code.NOT_APPLIED
    # The address stays held as long as the kernel may still have it.
    assert len(store.all()) == 1
    network.attach_error = network.detach_error = None
    assert (await call("DEL")).exit == 0
    assert clean(store, network)


async def test_a_bug_in_the_network_leaves_nothing_either(call: Call, store: Attachments, network: FakeNetwork) -> None:
    network.attach_error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await call("ADD")
    assert clean(store, network)


@pytest.mark.usefixtures("impatient")
async def test_an_add_that_hangs_is_answered_in_time_and_undone(
    call: Call, store: Attachments, network: FakeNetwork
) -> None:
    network.hang = asyncio.Event()
    start = asyncio.get_running_loop().time()
    answer = await call("ADD")
    assert answer.code == Code.TRY_AGAIN
    assert answer.json["msg"] == "the pod's network was not ready within 0.2 s"
    assert 0.15 < asyncio.get_running_loop().time() - start < 5.0
    assert clean(store, network)


@pytest.mark.usefixtures("impatient")
async def test_an_undoing_that_hangs_is_finished_after_the_answer(
    call: Call, store: Attachments, network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podnet.agent.cni_server.UNDO_SECONDS", 0.1)
    network.hang = asyncio.Event()
    late = asyncio.Event()
    real = network.detach

    async def slow(attachment: Any) -> None:
        await late.wait()
        await real(attachment)

    network.detach = slow  # type: ignore[method-assign]
    assert (await call("ADD")).code == Code.TRY_AGAIN
    assert len(store.all()) == 1
    deleting = asyncio.ensure_future(call("DEL"))
    await asyncio.sleep(0.01)
    assert not deleting.done()  # DEL waits for the undoing
    late.set()
    assert (await deleting).exit == 0
    assert clean(store, network)


async def test_a_call_for_the_same_interface_waits(call: Call, network: FakeNetwork) -> None:
    network.hang = asyncio.Event()
    adding = asyncio.ensure_future(call("ADD"))
    await asyncio.sleep(0.02)
    deleting = asyncio.ensure_future(call("DEL"))
    other = asyncio.ensure_future(call("DEL", "other"))
    await asyncio.sleep(0.02)
    assert other.done()
    assert not deleting.done()
    network.hang.set()
    assert ((await adding).exit, (await deleting).exit) == (0, 0)
    assert network.calls == ["attach a", "detach a", "forget a"]


@pytest.mark.usefixtures("impatient")
async def test_an_add_waits_for_the_one_before_only_so_long(call: Call, network: FakeNetwork) -> None:
    network.hang = asyncio.Event()
    first = asyncio.ensure_future(call("ADD"))
    await asyncio.sleep(0.1)
    second = await call("ADD")
    assert second.code in (Code.TRY_AGAIN, Code.EXISTS)
    assert (await first).code == Code.TRY_AGAIN


@pytest.mark.parametrize("reason", ["the API server was not heard yet", "backend: no uplink"])
async def test_not_ready(call: Call, store: Attachments, network: FakeNetwork, reason: str) -> None:
    await call("ADD", "old", LATEST)
    network.reason = reason
    added = await call("ADD")
    assert added.code == Code.TRY_AGAIN
    assert reason in added.json["msg"]
    status = await call("STATUS", config=LATEST)
    assert (status.code, reason in status.json["msg"]) == (Code.UNAVAILABLE, True)
    assert (await call("DEL", "old")).exit == 0
    assert clean(store, network)


async def test_no_view_and_no_range(call: Call, network: FakeNetwork) -> None:
    network.view = None
    assert (await call("ADD")).code == Code.TRY_AGAIN
    network.view = node_view(cidrs=())
    assert "the node has no podCIDR yet" in (await call("ADD")).json["msg"]


async def test_exhaustion(call: Call, store: Attachments, network: FakeNetwork) -> None:
    network.view = node_view(cidrs=("10.244.1.0/30",))
    await call("ADD")
    full = await call("ADD", "b")
    assert (full.code, full.json["msg"]) == (Code.EXHAUSTED, "no free address in 10.244.1.0/30: 1 of 1 are used")
    assert len(network.kernel) == 1
    status = await call("STATUS", config=LATEST)
    assert (status.code, status.json["msg"]) == (Code.UNAVAILABLE, full.json["msg"])
    await call("DEL")
    assert (await call("STATUS", config=LATEST)).exit == 0
    assert (await call("ADD", "b")).exit == 0


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"runtimeConfig": {"ips": ["10.244.1.9"]}}, Code.TAKEN),
        ({"runtimeConfig": {"ips": ["10.99.0.1"]}}, Code.CONFIG),
        ({"runtimeConfig": {"ips": ["10.244.1.1"]}}, Code.CONFIG),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 1}]}}, Code.TAKEN),
        ({"ipam": {"subnet": "10.99.0.0/24"}}, Code.CONFIG),
        ({"ipMasq": False}, Code.UNSUPPORTED),
        ({"ipMasq": "false"}, Code.UNSUPPORTED),
        ({"mtu": 1}, Code.CONFIG),
    ],
)
async def test_what_can_not_be_given(
    call: Call, store: Attachments, network: FakeNetwork, config: dict[str, Any], code: int
) -> None:
    runtime = {"ips": ["10.244.1.9"], "portMappings": [{"hostPort": 80, "containerPort": 80}]}
    await call("ADD", "first", {"runtimeConfig": runtime, "ipMasq": True})
    assert (await call("ADD", config=config)).code == code
    assert len(store.all()) == len(network.kernel) == 1


async def test_a_full_disk(
    call: Call, store: Attachments, network: FakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call("ADD", "old")

    def full(batch: list[Any]) -> list[StoreFailed]:
        return [StoreFailed("disk full")] * len(batch)

    with monkeypatch.context() as broken:
        broken.setattr(store, "_commit", full)
        assert (await call("ADD")).code == Code.IO
        assert network.calls == ["attach old"]
        assert (await call("DEL", "old")).code == Code.IO
        # The kernel is clean already, the record not: DEL has to come again.
        assert (network.kernel, len(store.all())) == ({}, 1)
    assert (await call("DEL", "old")).exit == 0
    assert clean(store, network)


async def test_a_stale_record_makes_way(call: Call, store: Attachments, network: FakeNetwork) -> None:
    """A process' namespace path that was used again: the first container is gone, its DEL never came."""
    await call("ADD", "old", NETNS="/proc/77/ns/net")
    del network.kernel["old", "eth0"]
    assert (await call("ADD", "new", NETNS="/proc/77/ns/net")).exit == 0
    assert [record.container_id for record in store.all()] == ["new"]


async def test_a_living_interface_does_not_make_way(call: Call, network: FakeNetwork) -> None:
    await call("ADD", "old", NETNS="/proc/77/ns/net")
    again = await call("ADD", "new", NETNS="/proc/77/ns/net")
    assert (again.code, "interface /proc/77/ns/net eth0 belongs to" in again.json["msg"]) == (Code.EXISTS, True)
    assert list(network.kernel) == [("old", "eth0")]


# -- DEL


async def test_del_of_what_is_not_there(call: Call, network: FakeNetwork) -> None:
    for env in ({}, {"NETNS": ""}, {"NETNS": None}, {"IFNAME": "net7"}):
        deleted = await call("DEL", **env)
        assert (deleted.exit, deleted.text) == (0, b"")
    assert network.calls == []


async def test_del_without_namespace_or_after_it(call: Call, store: Attachments, network: FakeNetwork) -> None:
    await call("ADD")
    assert (await call("DEL", NETNS=None)).exit == 0
    assert clean(store, network)


async def test_del_twice_at_once(call: Call, store: Attachments, network: FakeNetwork) -> None:
    await call("ADD")
    assert [answer.exit for answer in await asyncio.gather(call("DEL"), call("DEL"), call("DEL"))] == [0, 0, 0]
    assert clean(store, network)
    assert network.calls == ["attach a", "detach a", "forget a"]


async def test_del_of_another_network_is_none_of_this_one(call: Call, store: Attachments) -> None:
    await call("ADD")
    assert (await call("DEL", config={"name": "other"})).exit == 0
    assert len(store.all()) == 1


async def test_a_del_that_fails_keeps_the_address(call: Call, store: Attachments, network: FakeNetwork) -> None:
    await call("ADD")
    network.detach_error = CniError(Code.TRY_AGAIN, "busy")
    assert (await call("DEL")).code == Code.TRY_AGAIN
    assert len(store.all()) == 1
    network.detach_error = None
    assert (await call("DEL")).exit == 0
    assert clean(store, network)


# -- CHECK, GC, STATUS, VERSION


async def test_check(call: Call, network: FakeNetwork) -> None:
    previous = {"prevResult": (await call("ADD")).json}
    checked = await call("CHECK", config=previous)
    assert (checked.exit, checked.text) == (0, b"")
    network.differences["a", "eth0"] = ("add route x", "change link y")
    wrong = await call("CHECK", config=previous)
    assert (wrong.code, wrong.json["details"]) == (Code.NOT_APPLIED, "add route x; change link y")


async def test_check_of_something_else(call: Call, network: FakeNetwork) -> None:
    previous = {"prevResult": (await call("ADD")).json}
    assert (await call("CHECK", "b", previous)).code == Code.UNKNOWN_CONTAINER
    assert (await call("CHECK", config=previous | {"name": "other"})).code == Code.UNKNOWN_CONTAINER
    assert (await call("CHECK")).code == Code.CONFIG
    moved = await call("CHECK", config=previous, NETNS="/run/netns/x")
    assert "it was attached in /run/netns/a, not in /run/netns/x" in moved.json["details"]
    other = {"prevResult": previous["prevResult"] | {"ips": []}}
    assert "prevResult lacks the address 10.244.1.2" in (await call("CHECK", config=other)).json["details"]
    network.reason = "starting"
    assert (await call("CHECK", config=previous)).code == Code.TRY_AGAIN


async def test_gc_removes_what_is_not_listed(call: Call, store: Attachments, network: FakeNetwork) -> None:
    for name in "abc":
        await call("ADD", name)
    await call("ADD", "a", IFNAME="net1")
    await call("ADD", "other", {"name": "other"})
    valid = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "unknown", "ifname": "eth0"}]
    collected = await call("GC", config=LATEST | {"cni.dev/valid-attachments": valid})
    assert (collected.exit, collected.text) == (0, b"")
    assert sorted(network.kernel) == sorted(record.id for record in store.all()) == [("a", "eth0"), ("other", "eth0")]
    assert (await call("GC", config=LATEST | {"cni.dev/valid-attachments": []})).exit == 0
    assert list(network.kernel) == [("other", "eth0")]


async def test_gc_goes_on_after_errors(call: Call, store: Attachments, network: FakeNetwork) -> None:
    for name in "abc":
        await call("ADD", name)
    real = network.detach

    async def stubborn(attachment: Any) -> None:
        if attachment.container_id == "b":
            raise CniError(Code.TRY_AGAIN, "busy")
        await real(attachment)

    network.detach = stubborn  # type: ignore[method-assign]
    failed = await call("GC", config=LATEST | {"cni.dev/valid-attachments": []})
    assert (failed.code, failed.json["msg"]) == (Code.TRY_AGAIN, "1 of 3 stale attachments remain")
    assert [record.container_id for record in store.all()] == ["b"]


async def test_gc_without_a_list_removes_nothing(call: Call, store: Attachments) -> None:
    await call("ADD")
    assert (await call("GC", config=LATEST)).code == Code.CONFIG
    assert len(store.all()) == 1


async def test_status_and_version(call: Call, server: CniServer) -> None:
    status = await call("STATUS", config=LATEST)
    assert (status.exit, status.text) == (0, b"")
    assert (await call("STATUS", config=LATEST | {"ipam": {"subnet": "10.99.0.0/24"}})).code == Code.CONFIG
    answer = await server.answer(b"CNI_COMMAND=VERSION\0\0")
    assert Answer(answer[0], answer[1:]).json == {
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


async def test_garbage_is_answered(server: CniServer, seen: list[Any]) -> None:
    answer = await server.answer(b"garbage")
    assert Answer(answer[0], answer[1:]).code == Code.ENVIRONMENT
    assert seen == [("?", Code.ENVIRONMENT)]


# -- namespaces


def refusal(path: str, own_allowed: bool = False) -> str:
    with pytest.raises(CniError) as error:
        check_netns(path, own_allowed)
    assert error.value.code == Code.NETNS
    return str(error.value)


def test_what_is_a_namespace(tmp_path: Path) -> None:
    assert "is no network namespace" in refusal(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    assert "is no network namespace" in refusal(str(tmp_path / "file"))
    assert "the node's own" in refusal(f"/proc/{os.getpid()}/ns/net")
    check_netns(f"/proc/{os.getpid()}/ns/net", own_allowed=True)
    check_netns("/proc/self/ns/mnt", own_allowed=False)  # a namespace at least; the kernel refuses the kind


async def test_the_servers_own_look_at_namespaces(store: Attachments, network: FakeNetwork, tmp_path: Path) -> None:
    server = CniServer(str(tmp_path / "cni.sock"), store, network)
    answer = await server.answer(frame(NETNS=str(tmp_path)))
    assert Answer(answer[0], answer[1:]).code == Code.NETNS
    assert clean(store, network)
    own = await server.answer(frame(NETNS="/proc/self/ns/net", NETNS_OVERRIDE="1"))
    assert own[0] == 0
