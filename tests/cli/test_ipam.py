"""`podnet ipam` on files written by a real store; what the kernel would say is put in its place."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from podnet.agent.attachments import Attachments
from podnet.agent.attachments_file import boot_id, is_namespace, read
from podnet.agent.cni_server import CniServer
from podnet.cli.ipam import command
from podnet.errors import UserError
from podnet.network.ipam import ranges
from podnet.network.ipam.audit import Found
from podnet.network.pods import host_ifname
from podnet.network.view import Attachment
from tests.agent.fakes import FakeNetwork

Podnet = Callable[..., Result]


async def _fill(state_dir: Path, count: int) -> list[Attachment]:
    store = await Attachments.open(str(state_dir), boot_id())
    sets = ranges.of_node(["10.244.1.0/24", "fd00:1::/64"])
    drafts = [Attachment(f"c{n}", "eth0", f"/run/netns/c{n}", pod=f"default/web-{n}") for n in range(count)]
    given = [await store.add(draft, sets) for draft in drafts]
    await store.close()
    return given


class There:
    """What the census finds: everything as recorded, until a test changes it."""

    def __init__(self, records: list[Attachment]) -> None:
        self.links = set(map(host_ifname, records))
        self.found = {record.id: Found(True, True, record.addresses) for record in records}


@pytest.fixture
def records(tmp_path: Path) -> list[Attachment]:
    return asyncio.run(_fill(tmp_path / "state", 3))


@pytest.fixture
def there(records: list[Attachment], monkeypatch: pytest.MonkeyPatch) -> There:
    found = There(records)
    monkeypatch.setattr("podnet.agent.census.pod_links", lambda netns: frozenset(found.links))
    monkeypatch.setattr("podnet.agent.census.census", lambda records, links: found.found)
    monkeypatch.setattr("podnet.cli.ipam.need_root", lambda why: None)
    return found


@pytest.fixture
def podnet(tmp_path: Path) -> Podnet:
    """Runs `podnet ipam ...` on the node whose folders the tests fill."""

    def run(*args: str) -> Result:
        folders = ["--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
        return CliRunner().invoke(command, [*args, *folders], standalone_mode=False)

    return run


@contextmanager
def agent(folder: Path, network: FakeNetwork) -> Iterator[None]:
    """An agent's CNI server on these folders, in a thread of its own."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        store = await Attachments.open(str(folder / "state"), boot_id(), lambda netns: True)
        network.kernel = {record.id: record for record in store.all()}
        server = CniServer(str(folder / "cni.sock"), store, network)
        await server.start()
        started.set()
        await stop.wait()
        await server.close()
        await store.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


# -- show


def test_show(podnet: Podnet, records: list[Attachment]) -> None:
    shown = podnet("show").output
    for record in records:
        for address in record.addresses:
            assert address.partition("/")[0] in shown
        assert record.pod in shown
    assert "10.244.1.0/24     3  253                   10.244.1.4" in shown


def test_show_as_json(podnet: Podnet, records: list[Attachment]) -> None:
    (node,) = json.loads(podnet("show", "-o", "json").output)["nodes"]
    assert [each["addresses"] for each in node["attachments"]] == [list(record.addresses) for record in records]
    assert node["ranges"] == [
        {"range": "10.244.1.0/24", "used": 3, "total": "253", "last": "10.244.1.4"},
        {"range": "fd00:1::/64", "used": 3, "total": str(2**64 - 2), "last": "fd00:1::4"},
    ]


def test_show_while_an_agent_writes(podnet: Podnet, records: list[Attachment], tmp_path: Path) -> None:
    with agent(tmp_path, FakeNetwork()):
        assert "default/web-2" in podnet("show").output


def test_show_of_nothing(podnet: Podnet, tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path / "state", 0))
    assert "no address was ever given" in podnet("show").output


@pytest.mark.parametrize("verb", ["show", "check"])
def test_no_agent_ever_ran(podnet: Podnet, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr("podnet.cli.ipam.need_root", lambda why: None)
    failed = podnet(verb)
    assert isinstance(failed.exception, UserError)
    assert "no agent has run with this state directory" in str(failed.exception)


def test_check_needs_root(podnet: Podnet, records: list[Attachment], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in str(podnet("check").exception)


# -- check


def test_all_is_well(podnet: Podnet, there: There) -> None:
    done = podnet("check")
    assert (done.return_value, done.output) == (0, "every record agrees with what is there\n")
    assert json.loads(podnet("check", "-o", "json").output) == {"ok": True, "findings": []}


def test_findings_are_an_exit_code_and_change_nothing(podnet: Podnet, there: There, tmp_path: Path) -> None:
    there.found["c1", "eth0"] = Found()
    there.links.add("podnet0123456ab")
    done = podnet("check", "-o", "json")
    assert done.return_value == 1
    found = json.loads(done.output)
    assert not found["ok"]
    assert [(each["kind"], each["subject"]) for each in found["findings"]] == [
        ("leaked", "10.244.1.3,fd00:1::3"),
        ("stray", "podnet0123456ab"),
    ]
    assert {each["repaired"] for each in found["findings"]} == {None}
    assert len(read(str(tmp_path / "state"))[0]) == 3
    assert "--repair: remove the record" in podnet("check").output


def test_repair_without_an_agent(podnet: Podnet, there: There, records: list[Attachment], tmp_path: Path) -> None:
    there.found["c1", "eth0"] = Found()
    there.links.remove(host_ifname(records[1]))
    done = podnet("check", "--repair")
    assert done.return_value == 0
    assert "done" in done.output
    assert [record.container_id for record in read(str(tmp_path / "state"))[0]] == ["c0", "c2"]
    assert podnet("check").return_value == 0


def test_repair_asks_a_running_agent(podnet: Podnet, there: There, tmp_path: Path) -> None:
    there.found["c1", "eth0"] = Found()
    network = FakeNetwork()
    with agent(tmp_path, network):
        assert podnet("check", "--repair").return_value == 0
        assert network.calls == ["detach c1", "forget c1"]
        assert [record.container_id for record in read(str(tmp_path / "state"))[0]] == ["c0", "c2"]


def test_a_repair_that_fails_says_why(podnet: Podnet, there: There, tmp_path: Path) -> None:
    from podnet.cni.errors import CniError, Code

    there.found["c1", "eth0"] = Found()
    network = FakeNetwork()
    network.detach_error = CniError(Code.TRY_AGAIN, "the pod's network could not be removed")
    with agent(tmp_path, network):
        done = podnet("check", "--repair")
    assert done.return_value == 1
    assert "failed: the pod's network could not be removed" in done.output
    assert len(read(str(tmp_path / "state"))[0]) == 3


def test_what_repair_can_not_do_stays_a_finding(podnet: Podnet, there: There) -> None:
    there.found["c1", "eth0"] = Found(True, True, ())
    done = podnet("check", "--repair", "-o", "json")
    assert done.return_value == 1
    assert [(each["kind"], each["repaired"]) for each in json.loads(done.output)["findings"]] == [("missing", None)]


def test_a_pod_made_during_the_look_is_no_finding(
    podnet: Podnet, there: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record came after the first reading, its link before the look: neither missing nor stray."""
    given = list(read(str(tmp_path / "state"))[0])
    fresh = Attachment("new", "eth0", "/run/netns/new", addresses=("10.244.1.9/24",))
    answers = [tuple(given[1:]), (*given, fresh)]  # c0 came and `new` came
    monkeypatch.setattr("podnet.agent.attachments_file.read", lambda state_dir: (answers.pop(0), ()))
    there.links.add(host_ifname(fresh))
    assert podnet("check").return_value == 0


# -- namespaces


def test_what_holds_a_namespace(tmp_path: Path) -> None:
    assert is_namespace("/proc/self/ns/net")
    assert not is_namespace(str(tmp_path / "nothing"))
    (tmp_path / "left").write_text("")
    assert not is_namespace(str(tmp_path / "left"))
