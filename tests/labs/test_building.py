"""What `up` decides before it does anything, what it puts into the cluster, and how it waits."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.client.errors import ApiError, Unreachable
from podnet.errors import UserError
from podnet.lab import building, process, registry, teardown, workload
from podnet.lab.building import Options, plan, until
from podnet.network import backends
from podnet.objects.codec import convert, encode
from podnet.objects.core import Pod
from podnet.objects.kinds import NAMESPACES, NETWORKCONFIGS, PODS, Kind
from podnet.objects.network import NetworkConfig
from tests.labs.test_registry import lab
from tests.labs.values import container, pod, sandbox, write_text

# -- plan


def test_a_new_lab_has_three_nodes(root: Path) -> None:
    made, new = plan(Options(name="one"))
    assert new
    assert [node.name for node in made.nodes] == ["node1", "node2", "node3"]
    assert not made.dual_stack
    assert made.folder == f"{root}/one"
    assert 1024 < made.port < 65536


def test_a_new_lab_as_wished(root: Path) -> None:
    made, _ = plan(Options(name="one", nodes=5, dual_stack=True))
    assert len(made.nodes) == 5
    assert made.nodes[4].addresses == ("192.168.77.15", "fd77::15")


def test_planning_changes_nothing(root: Path) -> None:
    plan(Options(name="one"))
    assert not root.exists()


@pytest.mark.parametrize("fields", [{}, {"nodes": 2}, {"dual_stack": False}, {"nodes": 2, "backend": "host-gw"}])
def test_a_lab_that_is_there_stays(root: Path, fields: dict[str, Any]) -> None:
    there = lab(root)
    assert plan(Options(name="one", **fields)) == (there, False)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nodes": 3}, "lab one has 2 nodes: use podnet lab add-node or remove-node"),
        ({"dual_stack": True}, "lab one is IPv4 only"),
    ],
)
def test_a_lab_that_is_there_is_not_made_another(root: Path, fields: dict[str, Any], says: str) -> None:
    lab(root)
    with pytest.raises(UserError, match=says):
        plan(Options(name="one", **fields))


def test_a_dual_stack_lab_is_no_ipv4_lab(root: Path) -> None:
    lab(root, dual_stack=True)
    with pytest.raises(UserError, match="is dual-stack"):
        plan(Options(name="one", dual_stack=False))


def test_a_folder_that_is_no_lab_is_left_alone(root: Path) -> None:
    (root / "one").mkdir(parents=True)
    with pytest.raises(UserError, match=r"the name one is taken: .* podnet lab down --name one removes it"):
        plan(Options(name="one"))


# -- waiting


async def test_until_returns_what_was_found(root: Path) -> None:
    answers = iter([None, None, 7])

    async def look() -> int | None:
        return next(answers)

    assert await until(look, "it", lab(root)) == 7


async def test_until_bears_an_api_that_is_away(root: Path) -> None:
    answers: list[Exception | bool] = [Unreachable("x", "refused"), True]

    async def look() -> bool | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await until(look, "it", lab(root))


async def test_until_does_not_hide_a_refusal(root: Path) -> None:
    async def look() -> bool | None:
        raise ApiError(403, "Forbidden")

    with pytest.raises(ApiError):
        await until(look, "it", lab(root))


@pytest.mark.parametrize(
    ("name", "command"), [("default", "podnet lab status says"), ("one", "status --name one says")]
)
async def test_until_gives_up_with_advice(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str) -> None:
    monkeypatch.setattr(building, "READY_SECONDS", 0.1)

    async def look() -> None:
        return None

    with pytest.raises(UserError, match=f"for the moon in vain: .*{command}"):
        await until(look, "the moon", lab(root, name))


# -- what is ready


class FakeApi:
    """Lists what it was given; takes creations."""

    def __init__(self, **lists: list[dict[str, Any]]) -> None:
        self.lists = lists
        self.made: list[tuple[str, str]] = []
        self.there: set[str] = set()

    async def list(self, kind: Kind, *, into: type[Any], field_selector: str = "") -> tuple[Any, ...]:
        return tuple(convert(document, into) for document in self.lists[kind.plural])

    async def get(self, kind: Kind, name: str, *, into: type[Any]) -> Any:
        return convert(self.lists[kind.plural][0], into)

    async def create(self, kind: Kind, document: dict[str, Any], *, into: type) -> None:
        name = document["metadata"]["name"]
        if name in self.there:
            raise ApiError(409, "AlreadyExists")
        if name == "refused":
            raise ApiError(422, "Invalid")
        self.made.append((kind.plural, name))

    async def request(self, method: str, path: str) -> bytes:
        if not self.lists:
            raise Unreachable("x", "refused")
        return b"ok"


def thing(name: str, ready: str = "True", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}], **more}}


async def test_the_api_answers() -> None:
    assert await building.answers(FakeApi(nodes=[])) is True  # type: ignore[arg-type]
    assert await building.answers(FakeApi()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "agents", "expected"),
    [
        ([thing("node1"), thing("node2")], True, 2),
        ([thing("node1"), thing("node2"), thing("stranger", "False")], True, 2),
        ([thing("node1"), thing("node2", "False")], True, None),
        ([thing("node1")], True, None),
        ([thing("node1"), thing("node2")], False, None),
    ],
)
async def test_nodes_are_ready(
    root: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], agents: bool, expected: int | None
) -> None:
    async def agent_ready(node: object) -> bool:
        return agents

    monkeypatch.setattr(building, "agent_ready", agent_ready)
    assert await building.nodes_ready(FakeApi(nodes=nodes), lab(root)) == expected  # type: ignore[arg-type]


async def test_an_agent_that_is_not_there_is_not_ready(root: Path) -> None:
    assert not await building.agent_ready(lab(root).nodes[0])


@pytest.mark.parametrize(
    ("pods", "run", "expected"),
    [
        ([], False, 0),
        ([thing("a"), thing("b")], True, 2),
        ([thing("a"), thing("b")], False, None),
        ([thing("a"), thing("b", "False")], True, None),
        ([thing("a", "False", phase="Succeeded"), thing("b", "False", phase="Failed")], False, 2),
    ],
)
async def test_pods_are_ready(
    root: Path, monkeypatch: pytest.MonkeyPatch, pods: list[dict[str, Any]], run: bool, expected: int | None
) -> None:
    monkeypatch.setattr(building, "runs", lambda lab, pod: run)
    assert await building.pods_ready(FakeApi(pods=pods), lab(root)) == expected  # type: ignore[arg-type]


@pytest.mark.usefixtures("shim")
def test_a_pod_runs_when_its_containers_do(root: Path) -> None:
    made = lab(root)
    place = sandbox(Path(made.nodes[0].pods_dir))
    owner = pod(container("main"), container("side"))
    write_text(f"{place.folder}/pod.json", encode(owner).decode())
    assert not building.runs(made, owner)
    folders = [f"{place.folder}/containers/{name}/0" for name in ("main", "side")]
    for folder in folders:
        process.start(folder, process.Command(("sleep", "60"), {"PATH": os.environ["PATH"]}))
    try:
        assert building.runs(made, owner)
        assert not building.runs(made, pod(metadata={"uid": "another"}))
        assert not building.runs(made, pod(nodeName="elsewhere"))
        sandbox(Path(made.nodes[0].pods_dir), netns="/no/such")
        assert not building.runs(made, owner)
    finally:
        for folder in folders:
            process.stop_now(folder)


# -- the cluster's network


@pytest.mark.parametrize("wish", [{}, {"backend": "vxlan"}, {"attachment": "ptp"}])
async def test_the_network_that_is_there_is_fine(wish: dict[str, Any]) -> None:
    api = FakeApi(networkconfigs=[workload.network("vxlan", False, "")])
    await building.compare_network(api, Options(**wish))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "says"),
    [({"backend": "host-gw"}, "backend is vxlan: kubectl edit"), ({"attachment": "bridge"}, "attachment is ptp")],
)
async def test_another_network_is_not_made_by_up(wish: dict[str, Any], says: str) -> None:
    api = FakeApi(networkconfigs=[workload.network("vxlan", False, "")])
    with pytest.raises(UserError, match=says):
        await building.compare_network(api, Options(**wish))  # type: ignore[arg-type]


# -- what is put into it


@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@pytest.mark.parametrize("dual_stack", [False, True])
def test_the_network_is_valid(backend: str, dual_stack: bool) -> None:
    made = convert(workload.network(backend, dual_stack, "bridge"), NetworkConfig).spec
    assert len(made.pod_cidrs) == 1 + dual_stack
    assert made.attachment == "bridge"
    assert backends.validate(made.backend) == []


def test_without_an_attachment_the_default_holds() -> None:
    assert "attachment" not in workload.network("vxlan", False, "")["spec"]


def test_nine_pods_of_which_one_has_two_containers() -> None:
    kinds = [kind for kind, _ in workload.demo()]
    pods = [convert(document, Pod) for kind, document in workload.demo() if kind is PODS]
    assert kinds[0] is NAMESPACES
    assert [pod.metadata.name for pod in pods] == [f"web-{number}" for number in range(1, 10)]
    assert [len(pod.spec.containers) for pod in pods] == [2] + [1] * 8
    assert pods[0].spec.containers[1].command[-1] == "8081"
    assert {pod.metadata.namespace for pod in pods} == {"demo"}


async def test_only_what_is_missing_is_made() -> None:
    api = FakeApi()
    api.there = {"demo", "web-1"}
    made = await workload.ensure(api, workload.demo())  # type: ignore[arg-type]
    assert made == [f"pod/web-{number}" for number in range(2, 10)]
    assert ("pods", "web-1") not in api.made


async def test_a_refused_object_is_an_error() -> None:
    with pytest.raises(ApiError):
        await workload.ensure(FakeApi(), [(NETWORKCONFIGS, {"metadata": {"name": "refused"}})])  # type: ignore[arg-type]


# -- keys


def test_keys_are_made_once(root: Path) -> None:
    made = lab(root)
    (Path(made.folder) / "kubeconfigs").mkdir()
    (Path(made.folder) / "api").mkdir()
    assert list(building._make_keys(made)) == ["keys"]
    paths = [made.kubeconfig, *(node.kubeconfig for node in made.nodes)]
    before = [Path(path).read_bytes() for path in paths]
    assert list(building._make_keys(made)) == []
    assert [Path(path).read_bytes() for path in paths] == before
    os.unlink(paths[1])
    assert list(building._make_keys(made)) == ["keys"]
    assert Path(paths[1]).read_bytes() != before[1]
    assert Path(paths[0]).read_bytes() == before[0]


def test_a_nodes_key_is_its_own(root: Path) -> None:
    from cryptography import x509

    from podnet.client.config import load

    made = lab(root, dual_stack=True)
    (Path(made.folder) / "kubeconfigs").mkdir()
    list(building._make_keys(made))
    credentials = load(made.nodes[0].kubeconfig)
    certificate = x509.load_pem_x509_certificate(credentials.cert_data)
    assert "CN=system:node:node1" in certificate.subject.rfc4514_string()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.168.77.11", "fd77::11"]
    assert credentials.server == "https://192.168.77.1:6443"
    assert load(made.kubeconfig).server == "https://127.0.0.1:40000"


# -- nodes


async def test_there_is_an_end_to_numbers(root: Path) -> None:
    made = lab(root)
    last = registry.make_node(made.folder, registry.MAX_NODES, False)
    with pytest.raises(UserError, match="has had 99 nodes"):
        await building.add_node(msgspec.structs.replace(made, nodes=(last,)), lambda text: None)


async def test_a_node_that_is_not_there_can_not_be_removed(root: Path) -> None:
    with pytest.raises(ValueError, match="has no node 'x'"):
        await building.remove_node(lab(root), "x", lambda text: None)


# -- taking away


def test_down_of_nothing(root: Path) -> None:
    assert not teardown.down("one")


def test_down_of_a_wrong_name(root: Path) -> None:
    with pytest.raises(ValueError, match="can't name a lab"):
        teardown.down("../etc")


def test_down_removes_the_folder(root: Path) -> None:
    made = lab(root)
    assert teardown.down("one")
    assert not os.path.exists(made.folder)


@pytest.mark.usefixtures("shim")
def test_down_kills_what_runs_below_the_folder_and_nothing_else(root: Path, tmp_path: Path) -> None:
    made = lab(root)
    command = process.Command(("sleep", "60"), {"PATH": os.environ["PATH"]}, keep=True)
    inside = [made.program("supervisor"), f"{made.folder}/nodes/node1/pods/x/containers/c/0"]
    outside = f"{tmp_path}/other"
    for folder in (*inside, outside):
        process.start(folder, command)
    try:
        teardown.down("one")
        assert process.shims(made.folder) == {}
        assert isinstance(process.look(outside), process.Running)
    finally:
        process.stop_now(outside)


def test_nobody_is_a_member_of_no_namespace() -> None:
    teardown.kill_members([])
    teardown.kill_members(["/no/such/namespace", "/etc/hosts"])


def test_members_are_killed_until_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    rounds = [[child.pid], []]
    monkeypatch.setattr(process, "members", lambda namespaces: rounds.pop(0))
    began = time.monotonic()
    teardown.kill_members(["/proc/self/ns/net"])
    assert child.wait(timeout=5) == -9
    assert time.monotonic() - began < 5
    assert rounds == []
