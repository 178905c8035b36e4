"""A pod's sandbox as a record: what CNI is asked, what survives a crash. (Namespaces are in tests/lab.)"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from podnet.lab import sandbox as sandboxes
from podnet.lab.libcni import TRY_AGAIN, Network, PluginError, Runtime, parse
from podnet.lab.sandbox import Sandbox, Sandboxes, capabilities, cni_args, quantity, read, read_all, read_pod, save
from podnet.objects.core import Pod
from tests.labs.values import container, exists, pod, sandbox, write_text

NETWORK = parse(b'{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "x"}]}')
OWN = "/proc/self/ns/net"


class FakeCni:
    """Gives 10.1.0.2 and remembers who asked for what; `fail` is raised by the next call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Runtime]] = []
        self.fail: PluginError | None = None
        self.ips = [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}]
        self.has_cache = True

    def _call(self, verb: str, runtime: Runtime) -> None:
        self.calls.append((verb, runtime))
        if self.fail:
            error, self.fail = self.fail, None
            raise error

    async def add(self, network: Network, runtime: Runtime) -> dict[str, Any]:
        self._call("ADD", runtime)
        return {"ips": self.ips}

    async def delete(self, network: Network | None, runtime: Runtime) -> None:
        self._call("DEL", runtime)

    def cached(self, runtime: Runtime) -> object:
        return object() if self.has_cache else None

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.calls]


class Namespaces:
    """Stands in for kernel/netns.py: a namespace is a link to our own."""

    def create(self, path: str) -> None:
        os.symlink(OWN, path)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


@pytest.fixture
def cni() -> FakeCni:
    return FakeCni()


@pytest.fixture
def node(tmp_path: Path, cni: FakeCni, monkeypatch: pytest.MonkeyPatch) -> Sandboxes:
    monkeypatch.setattr(sandboxes, "netns", Namespaces())
    monkeypatch.setattr(sandboxes, "raise_loopback", lambda path: None)
    return Sandboxes(str(tmp_path / "pods"), cni, lambda: NETWORK, "/run/node", ("192.168.77.11",))  # type: ignore[arg-type]


# -- quantities and capabilities


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10M", 10_000_000),
        ("1.5M", 1_500_000),
        ("1Mi", 1_048_576),
        ("5k", 5000),
        ("2Ki", 2048),
        ("1G", 10**9),
        ("1Gi", 2**30),
        ("1T", 10**12),
        ("1000", 1000),
        ("", 0),
        ("fast", 0),
        ("10X", 0),
        ("M", 0),
    ],
)
def test_quantities(text: str, number: int) -> None:
    assert quantity(text) == number


def test_a_pod_that_asks_for_nothing() -> None:
    assert capabilities(pod()) == {}


def test_host_ports_of_all_containers() -> None:
    one = container("one", ports=[{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}])
    two = container("two", ports=[{"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}])
    assert capabilities(pod(one, two))["portMappings"] == [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
    ]


@pytest.mark.parametrize(
    ("annotations", "bandwidth"),
    [
        ({"kubernetes.io/ingress-bandwidth": "10M"}, {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1}),
        ({"kubernetes.io/egress-bandwidth": "1M"}, {"egressRate": 1_000_000, "egressBurst": 2**31 - 1}),
        ({"kubernetes.io/egress-bandwidth": "fast"}, None),
        ({"other": "10M"}, None),
    ],
)
def test_bandwidth(annotations: dict[str, str], bandwidth: dict[str, int] | None) -> None:
    assert capabilities(pod(metadata={"annotations": annotations})).get("bandwidth") == bandwidth


def test_cni_args(tmp_path: Path) -> None:
    assert cni_args(sandbox(tmp_path)) == (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "default"),
        ("K8S_POD_NAME", "web"),
        ("K8S_POD_INFRA_CONTAINER_ID", "id1"),
        ("K8S_POD_UID", "uid-web"),
    )


# -- records


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = sandbox(tmp_path)
    assert read(written.folder) == written
    assert read_all(str(tmp_path)) == [written]


def test_no_record(tmp_path: Path) -> None:
    assert read(str(tmp_path)) is None
    assert read_all(str(tmp_path / "none")) == []


def test_a_torn_record_counts_as_none(tmp_path: Path) -> None:
    written = sandbox(tmp_path)
    write_text(f"{written.folder}/sandbox.json", '{"id": "x"')
    assert read(written.folder) is None


@pytest.mark.parametrize("text", [None, '{"metadata": '])
def test_a_pod_that_can_not_be_read_is_known_by_its_name(tmp_path: Path, text: str | None) -> None:
    written = sandbox(tmp_path)
    if text:
        write_text(f"{written.folder}/pod.json", text)
    found = read_pod(written)
    assert (found.key, found.metadata.uid) == (("default", "web"), "uid-web")
    assert found.spec.containers == ()


@pytest.mark.parametrize(
    ("fields", "ready"),
    [
        ({}, True),
        ({"ips": ()}, False),
        ({"netns": "/no/such"}, False),
        ({"netns": ""}, False),
        ({"netns": "/etc/hosts"}, False),
    ],
)
def test_ready_needs_addresses_and_a_namespace(tmp_path: Path, fields: dict[str, Any], ready: bool) -> None:
    assert sandbox(tmp_path, **fields).ready is ready


# -- making


async def test_make(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod(container(ports=[{"containerPort": 80, "hostPort": 8080}])))
    assert made.ips == ("10.1.0.2", "fd00::2")
    assert made.ready
    assert made == read(made.folder)
    assert isinstance(read_pod(made), Pod)
    ((verb, runtime),) = cni.calls
    assert verb == "ADD"
    assert runtime.netns == made.netns == f"{made.folder}/netns"
    assert runtime.container_id == made.id
    assert runtime.capabilities["portMappings"][0]["hostPort"] == 8080


async def test_make_again_changes_nothing(node: Sandboxes, cni: FakeCni) -> None:
    first = await node.make(pod())
    assert await node.make(pod()) == first
    assert cni.verbs == ["ADD"]


async def test_a_failed_add_is_undone_before_the_next(node: Sandboxes, cni: FakeCni) -> None:
    cni.fail = PluginError("x", "ADD", TRY_AGAIN, "later")
    with pytest.raises(PluginError, match="later"):
        await node.make(pod())
    (left,) = read_all(node.pods_dir)
    assert not left.ready
    made = await node.make(pod())
    assert cni.verbs == ["ADD", "DEL", "ADD"]
    assert cni.calls[1][1].container_id == left.id
    assert made.id != left.id


async def test_a_sandbox_whose_namespace_is_gone_is_made_anew(node: Sandboxes, cni: FakeCni) -> None:
    first = await node.make(pod())
    Namespaces().remove(first.netns)
    second = await node.make(pod())
    assert second.id != first.id
    assert second.made_at >= first.made_at
    assert cni.verbs == ["ADD", "DEL", "ADD"]


async def test_a_result_without_addresses_is_an_error(node: Sandboxes, cni: FakeCni) -> None:
    cni.ips = []
    with pytest.raises(PluginError, match="no addresses"):
        await node.make(pod())


async def test_a_pod_with_hostnetwork_has_the_nodes(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod(hostNetwork=True))
    assert made.netns == "/run/node"
    assert made.ips == ("192.168.77.11",)
    assert made.host_network
    await node.release(made)
    assert cni.calls == []


# -- giving back


async def test_release_keeps_the_folder(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod())
    await node.release(made)
    left = read(made.folder)
    assert left is not None
    assert (left.ips, left.netns) == ((), "")
    assert not exists(made.netns)
    assert cni.verbs == ["ADD", "DEL"]


async def test_what_was_released_is_not_released_again(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod())
    await node.release(made)
    left = read(made.folder)
    assert left is not None
    await node.remove(left)
    assert cni.verbs == ["ADD", "DEL"]
    assert read_all(node.pods_dir) == []


async def test_remove_takes_everything(node: Sandboxes) -> None:
    made = await node.make(pod())
    await node.remove(made)
    assert not exists(made.folder)


async def test_a_failed_del_keeps_everything_for_the_next(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod())
    cni.fail = PluginError("x", "DEL", TRY_AGAIN, "later")
    with pytest.raises(PluginError):
        await node.remove(made)
    assert read(made.folder) == made
    await node.remove(made)
    assert cni.verbs == ["ADD", "DEL", "DEL"]


async def test_without_any_configuration_nothing_is_given_up(node: Sandboxes, cni: FakeCni) -> None:
    """A half-made attachment can be undone only by plugins that we know."""
    made = await node.make(pod())
    node.network = lambda: None
    cni.has_cache = False
    with pytest.raises(PluginError, match="no configuration") as error:
        await node.release(made)
    assert error.value.code == TRY_AGAIN
    assert read(made.folder) == made


async def test_the_cache_suffices_to_give_back(node: Sandboxes, cni: FakeCni) -> None:
    made = await node.make(pod())
    node.network = lambda: None
    await node.release(made)
    assert cni.verbs == ["ADD", "DEL"]


def test_save_returns_what_it_wrote(tmp_path: Path) -> None:
    made = sandbox(tmp_path)
    assert save(made) is made
    assert isinstance(made, Sandbox)
