"""Ways into a lab, what `status` shows, and the kubelet's and the demo's small servers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from podnet.apiserver import pki
from podnet.client.config import load
from podnet.lab import building, echo, entering, kubelet_server, process, report
from podnet.lab.containers import ContainerLife, Host, Live, Waiting
from podnet.lab.kubelet_server import application, tls
from podnet.lab.logs import Options
from podnet.lab.registry import Lab
from podnet.objects.codec import encode
from tests.labs.test_registry import lab
from tests.labs.values import container, pod, sandbox, until, write_text

COMMAND = process.Command(("sleep", "60"), {"PATH": os.environ["PATH"], "WORD": "from the container"})

# -- entering


@pytest.fixture
def made(root: Path) -> Lab:
    return lab(root)


@pytest.fixture
def running(made: Lab, shim: Path) -> Iterator[dict[str, int]]:
    """The pod default/web on node1 with two containers that run; their pids."""
    place = sandbox(Path(made.nodes[0].pods_dir))
    owner = pod(container("main"), container("side"))
    write_text(f"{place.folder}/pod.json", encode(owner).decode())
    folders = {name: f"{place.folder}/containers/{name}/0" for name in ("main", "side")}
    for folder in folders.values():
        process.start(folder, COMMAND)
    found = {name: process.look(folder) for name, folder in folders.items()}
    yield {name: state.pid for name, state in found.items() if isinstance(state, process.Running)}
    for folder in folders.values():
        process.stop_now(folder)


def test_into_a_node(made: Lab) -> None:
    entry = entering.into_node(made, "node2", ("ip", "addr"))
    assert entry.argv == ("nsenter", f"--net={made.nodes[1].netns}", "--", "ip", "addr")
    assert entry.env == os.environ


def test_into_a_node_that_is_not_there(made: Lab) -> None:
    with pytest.raises(ValueError, match="has no node"):
        entering.into_node(made, "x", ("true",))


def test_into_a_pod_is_into_its_first_container(made: Lab, running: dict[str, int]) -> None:
    entry = entering.into_pod(made, "default/web", "", ("true",))
    assert f"--target={running['main']}" in entry.argv
    assert entry.env["WORD"] == "from the container"
    assert "HOME" not in entry.env


def test_into_a_container_that_is_named(made: Lab, running: dict[str, int]) -> None:
    assert f"--target={running['side']}" in entering.into_pod(made, "default/web", "side", ("true",)).argv


@pytest.mark.parametrize(
    ("where", "which", "says"),
    [
        ("default/other", "", "runs no pod default/other"),
        ("other/web", "", "runs no pod other/web"),
        ("default/web", "none", "runs no container 'none'; it runs main, side"),
    ],
)
def test_what_can_not_be_entered(made: Lab, running: dict[str, int], where: str, which: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        entering.into_pod(made, where, which, ("true",))


def test_a_pod_of_which_nothing_runs(made: Lab) -> None:
    sandbox(Path(made.nodes[0].pods_dir))
    with pytest.raises(ValueError, match="no container of default/web runs"):
        entering.into_pod(made, "default/web", "", ("true",))


def test_everything_that_can_be_entered(made: Lab, running: dict[str, int]) -> None:
    assert entering.places(made) == ["node1", "node2", "default/web"]


# -- programs' logs


@pytest.mark.parametrize(
    ("what", "programs"),
    [("api", ["api"]), ("supervisor", ["supervisor"]), ("node2", ["agent-node2", "kubelet-node2", "proxy-node2"])],
)
def test_the_programs_of_a_word(made: Lab, what: str, programs: list[str]) -> None:
    assert entering.programs_of(made, what) == programs


async def said(made: Lab, what: str, tail: int | None = None) -> list[str]:
    lines: list[bytes] = []
    await entering.program_logs(made, what, False, tail, lines.append)
    return [line.decode() for line in lines]


async def test_logs_of_a_node_name_their_program(made: Lab) -> None:
    for program in ("agent-node1", "kubelet-node1"):
        os.makedirs(made.program(program))
        write_text(f"{made.program(program)}/log", "2026-01-01T00:00:00.000000000Z stdout F one\n" * 3)
    lines = await said(made, "node1", 1)
    assert sorted(lines) == [
        "agent-node1  2026-01-01T00:00:00.000000000Z one\n",
        "kubelet-node1  2026-01-01T00:00:00.000000000Z one\n",
    ]


async def test_the_log_of_one_program_needs_no_name(made: Lab) -> None:
    os.makedirs(made.program("api"))
    write_text(f"{made.program('api')}/log", "2026-01-01T00:00:00.000000000Z stdout F one\n")
    assert await said(made, "api") == ["2026-01-01T00:00:00.000000000Z one\n"]


# -- status


@pytest.mark.usefixtures("shim")
def test_programs_that_run_ended_or_never_were(made: Lab) -> None:
    process.start(made.program("api"), COMMAND)
    process.start(made.program("supervisor"), process.Command(("false",), {"PATH": os.environ["PATH"]}))
    try:
        asyncio.run(_ended(made.program("supervisor")))
        found = {name: report.program(made, name) for name in ("api", "supervisor", "agent-node1")}
    finally:
        process.stop_now(made.program("api"))
    assert found["api"].state == "running"
    assert found["api"].pid
    assert found["supervisor"].state == "ended (1)"
    assert found["supervisor"].since
    assert found["agent-node1"].state == "missing"


async def _ended(folder: str) -> None:
    await process.ended(folder)


def test_a_dead_lab_is_reported(made: Lab) -> None:
    os.makedirs(f"{made.folder}/kubeconfigs")
    list(building._make_keys(made))
    found = report.report(made)
    assert not found.ok
    assert found.summary.startswith("not running: supervisor, api, agent-node1")
    assert "no answer from https://127.0.0.1:40000" in found.summary
    assert [(node.name, node.ready) for node in found.nodes] == [("node1", None), ("node2", None)]


def test_a_lab_without_keys_is_reported(made: Lab) -> None:
    assert "kubeconfig" in report.report(made).summary


# -- the kubelet's server


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[TestClient[Any, Any], ContainerLife]]:
    """A client of the kubelet that runs default/web, and the life of its container."""
    owner = pod(container("main"), container("later"))
    life = ContainerLife(owner, owner.spec.containers[0], sandbox(tmp_path), Host("node1", ("1.1.1.1",)), lambda: None)
    of_pod = SimpleNamespace(pod=owner, inits=[], mains=[life])
    kubelet = SimpleNamespace(find=lambda namespace, name: of_pod if (namespace, name) == owner.key else None)
    async with TestClient(TestServer(application(kubelet))) as client:  # type: ignore[arg-type]
        yield client, life


def ran(life: ContainerLife, number: int, *lines: str) -> None:
    folder = f"{life.folder}/{number}"
    os.makedirs(folder)
    write_text(f"{folder}/log", "".join(f"2026-01-01T00:00:00.000000000Z stdout F {line}\n" for line in lines))
    process.void(folder)
    life.restarts, life.state = number, Live(1.0)


async def text(client: TestClient[Any, Any], path: str) -> tuple[int, str]:
    async with client.get(path) as answer:
        return answer.status, await answer.text()


async def test_logs_are_served(served: tuple[TestClient[Any, Any], ContainerLife]) -> None:
    client, life = served
    ran(life, 0, "one", "two")
    assert await text(client, "/containerLogs/default/web/main") == (200, "one\ntwo\n")
    assert await text(client, "/containerLogs/default/web/main?tailLines=1") == (200, "two\n")
    assert await text(client, "/containerLogs/default/web/main?follow=true") == (200, "one\ntwo\n")
    assert await text(client, "/healthz") == (200, "ok")


async def test_logs_of_the_run_before(served: tuple[TestClient[Any, Any], ContainerLife]) -> None:
    client, life = served
    ran(life, 0, "old")
    ran(life, 1, "new")
    assert await text(client, "/containerLogs/default/web/main?previous=true") == (200, "old\n")
    assert await text(client, "/containerLogs/default/web/main") == (200, "new\n")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("default/none/main", 404, 'pod "none" not found'),
        ("default/web/none", 404, 'container "none" in pod "web" not found'),
        ("default/web/later", 400, "is waiting to start"),
        ("default/web/main", 400, 'container "main" is waiting to start: ContainerCreating'),
        ("default/web/main?previous=true", 400, 'previous terminated container "main" not found'),
        ("default/web/main?tailLines=x", 400, "tailLines"),
    ],
)
async def test_logs_that_are_not_there(
    served: tuple[TestClient[Any, Any], ContainerLife], path: str, status: int, says: str
) -> None:
    code, body = await text(served[0], f"/containerLogs/{path}")
    assert code == status
    assert says in body


async def test_a_crashing_container_says_so(served: tuple[TestClient[Any, Any], ContainerLife]) -> None:
    client, life = served
    life.state = Waiting("CrashLoopBackOff")
    assert "CrashLoopBackOff" in (await text(client, "/containerLogs/default/web/main"))[1]


def test_the_path_of_a_log(tmp_path: Path) -> None:
    owner = pod()
    life = ContainerLife(owner, owner.spec.containers[0], sandbox(tmp_path), Host("node1", ("1.1.1.1",)), lambda: None)
    ran(life, 0, "x")
    assert kubelet_server.log_path(life, Options()) == f"{life.folder}/0/log"


async def test_only_the_clusters_own_are_served(made: Lab) -> None:
    """A certificate of the cluster's authority opens the port; none, or another's, does not."""
    os.makedirs(f"{made.folder}/kubeconfigs")
    list(building._make_keys(made))
    ours = load(made.nodes[0].kubeconfig)
    kubelet = SimpleNamespace(find=lambda namespace, name: None)
    authority = pki.load_authority(f"{made.folder}/api")
    server = TestServer(application(kubelet), scheme="https", skip_url_asserts=True)  # type: ignore[arg-type]
    await server.start_server(ssl=tls(ours))
    try:
        url = f"https://127.0.0.1:{server.port}/healthz"
        client = pki.issue(authority, "kube-apiserver-kubelet-client", ("system:masters",))
        assert await asked(url, pki.client_context(authority, client, check_hostname=False)) == 200
        stranger = pki.new_authority()
        foreign = pki.issue(stranger, "kube-apiserver-kubelet-client", ("system:masters",))
        assert await asked(url, pki.client_context(authority, foreign, check_hostname=False)) == 0
        nobody = ssl.create_default_context(cadata=authority.cert.decode())
        nobody.check_hostname = False
        assert await asked(url, nobody) == 0
    finally:
        await server.close()


async def asked(url: str, context: ssl.SSLContext) -> int:
    """The status of the answer, 0 when there was none."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


# -- the demo's server


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        found = int(probe.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-I", "-S", echo.__file__, str(found)])
    yield found
    server.terminate()
    assert server.wait(timeout=5) == -15


def ask(host: str, port: int, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    with socket.create_connection((host, port), timeout=5) as client:
        with suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):  # it hung up without reading all that we said
            while data := client.recv(4096):
                answer += data
        return answer


async def listening(port: int) -> None:
    def is_up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await until(is_up)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_echo_says_who_asks(port: int, host: str) -> None:
    await listening(port)
    head, _, body = ask(host, port).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"client": host, "server": host, "hostname": socket.gethostname()}


async def test_the_echo_bears_bad_clients(port: int) -> None:
    await listening(port)
    silent = socket.create_connection(("127.0.0.1", port))
    half = socket.create_connection(("127.0.0.1", port))
    half.sendall(b"GET / HT")
    rude = socket.create_connection(("127.0.0.1", port))
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    rude.sendall(b"GET")
    rude.close()
    assert ask("127.0.0.1", port).startswith(b"HTTP/1.1 200")
    assert ask("127.0.0.1", port, b"x" * 70000) == b""
    half.sendall(b"TP/1.0\r\n\r\n")
    assert half.recv(4096).startswith(b"HTTP/1.1 200")
    for each in (silent, half):
        each.close()


async def test_the_echo_answers_many(port: int) -> None:
    await listening(port)
    for _ in range(300):
        assert b"127.0.0.1" in ask("127.0.0.1", port)
