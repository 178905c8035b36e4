"""The CNI shim against a fake agent: what goes over the socket, what comes back, and what it answers by itself."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hatch_build import recipe

SOURCE = Path(__file__).parents[2] / "native" / "podnet-cni.c"
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/proc/1/ns/net",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAME=a;IgnoreUnknown=1",
    "CNI_PATH": "/opt/cni/bin",
}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable, compiled by the build's own recipe but with one second of patience."""
    out = tmp_path_factory.mktemp("shim")
    target, command = recipe(SOURCE, out)
    subprocess.run([*command, "-DANSWER_SECONDS=1"], check=True)
    return target


@dataclass
class FakeAgent:
    """Accepts one connection on `path`, reads the request to its end and sends `answer`."""

    path: Path
    answer: bytes = b"\x00"
    requests: list[bytes] = field(default_factory=list)
    read: bool = True
    silent: threading.Event | None = None

    def serve(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            if self.silent:
                self.silent.wait(10)
                return
            while self.read and (data := connection.recv(65536)):
                self.requests.append(data)
            connection.sendall(self.answer)

    @contextmanager
    def running(self) -> Iterator[FakeAgent]:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self.path))
            server.listen()
            thread = threading.Thread(target=self.serve, args=(server,))
            thread.start()
            try:
                yield self
            finally:
                if self.silent:
                    self.silent.set()
                thread.join(10)
        assert not thread.is_alive()

    @property
    def request(self) -> bytes:
        return b"".join(self.requests)


@pytest.fixture
def agent(tmp_path: Path) -> FakeAgent:
    return FakeAgent(tmp_path / "cni.sock")


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(shim: Path) -> Run:
    def run(stdin: bytes, **env: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([shim], input=stdin, env=ENV | env, capture_output=True, timeout=20)

    return run


def config(agent: FakeAgent, **more: object) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "podnet", "agentSocket": str(agent.path), **more}).encode()


def error(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The CNI error that the shim printed; nothing else may be on its streams."""
    assert done.returncode == 1
    assert done.stderr == b""
    result: dict[str, Any] = json.loads(done.stdout)
    assert set(result) == {"cniVersion", "code", "msg"}
    return result


# -- the exchange


def test_request_is_variables_then_stdin(agent: FakeAgent, run: Run) -> None:
    with agent.running():
        done = run(config(agent), HOME="/root", CNI_NETNS_OVERRIDE="1")
    head = b"".join(f"{name}={value}".encode() + b"\0" for name, value in (ENV | {"CNI_NETNS_OVERRIDE": "1"}).items())
    assert agent.request == head + b"\0" + config(agent)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_unset_variables_are_left_out_and_empty_ones_sent(agent: FakeAgent, shim: Path) -> None:
    with agent.running():
        subprocess.run([shim], input=config(agent), env={"CNI_COMMAND": "DEL", "CNI_NETNS": ""}, timeout=20)
    assert agent.request == b"CNI_COMMAND=DEL\0CNI_NETNS=\0\0" + config(agent)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_and_stdout_are_the_agents(agent: FakeAgent, run: Run, code: int) -> None:
    agent.answer = bytes([code]) + b'{"ips": []}\n'
    with agent.running():
        done = run(config(agent))
    assert (done.returncode, done.stdout) == (code, b'{"ips": []}\n')


def test_large_configuration_and_large_answer_pass_whole(agent: FakeAgent, run: Run) -> None:
    agent.answer = b"\0" + b"x" * 3_000_000
    stdin = config(agent, pad="")
    stdin = stdin[:-2] + b"p" * (2**20 - len(stdin)) + b'"}'
    assert len(stdin) == 2**20
    with agent.running():
        done = run(stdin)
    assert agent.request.endswith(b"\0\0" + stdin)
    assert done.stdout == agent.answer[1:]


def test_agent_that_answers_without_reading_is_heard(agent: FakeAgent, run: Run) -> None:
    agent.read, agent.answer = False, b"\x01refused"
    with agent.running():
        done = run(config(agent, pad="p" * 900_000))
    assert (done.returncode, done.stdout) == (1, b"refused")


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_every_command_but_version_asks_the_agent(agent: FakeAgent, run: Run, command: str) -> None:
    with agent.running():
        assert run(config(agent), CNI_COMMAND=command).returncode == 0
    assert agent.request.startswith(f"CNI_COMMAND={command}\0".encode())


# -- where the agent is


@pytest.mark.parametrize(
    "stdin",
    [
        '{"agentSocket":"%s"}',
        ' {\n\t"agentSocket" : \r\n "%s" , "x": 1}',
        '{"prevResult": {"agentSocket": "/nowhere"}, "agentSocket": "%s"}',
        '{"list": ["agentSocket", {"agentSocket": "/nowhere"}], "agentSocket": "%s"}',
        '{"a": "\\"agentSocket\\": \\"/nowhere\\"", "b\\\\": "}", "agentSocket": "%s"}',
        '{"name": "agentSocket", "agentSocket2": "/nowhere", "agentSocket": "%s"}',
    ],
)
def test_socket_is_found_in_the_outermost_object(agent: FakeAgent, run: Run, stdin: str) -> None:
    with agent.running():
        assert run((stdin % agent.path).encode()).returncode == 0


@pytest.mark.parametrize(
    "stdin",
    [b"", b"{}", b"not json", b'{"x": {"agentSocket": "/nowhere"}}', b'{"agentSocket', b'"agentSocket": "/nowhere"'],
)
def test_default_socket_without_the_key(run: Run, stdin: bytes) -> None:
    # The machine that runs the tests has no agent at the default path: labs have their sockets elsewhere.
    assert "/run/podnet/cni.sock:" in error(run(stdin))["msg"]


@pytest.mark.parametrize(
    "value",
    ['"relative"', '""', "7", "null", '{"a": "/b"}', '"/with\\u0041escape"', '"/new\nline"', '"/ünicode"', '"/open',
     '"/' + "x" * 107 + '"'],
)  # fmt: skip
def test_unusable_socket_is_an_invalid_configuration(run: Run, value: str) -> None:
    result = error(run(b'{"cniVersion": "0.4.0", "agentSocket": ' + value.encode()))
    assert (result["code"], result["cniVersion"]) == (7, "0.4.0")
    assert "agentSocket" in result["msg"]


def test_longest_path_fits(agent: FakeAgent, run: Run) -> None:
    path = "/" + "x" * 106
    assert f"at {path}:" in error(run(json.dumps({"agentSocket": path}).encode()))["msg"]


# -- no agent


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_no_socket(agent: FakeAgent, run: Run, command: str, code: int) -> None:
    result = error(run(config(agent), CNI_COMMAND=command))
    assert (result["code"], result["cniVersion"]) == (code, "1.0.0")
    assert str(agent.path) in result["msg"]


def test_refused(agent: FakeAgent, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(agent.path))
    assert error(run(config(agent)))["code"] == 11


def test_closed_without_answer(agent: FakeAgent, run: Run) -> None:
    agent.answer = b""
    with agent.running():
        assert error(run(config(agent)))["code"] == 11


def test_no_answer_in_time(agent: FakeAgent, run: Run) -> None:
    agent.silent = threading.Event()
    with agent.running():
        assert error(run(config(agent), CNI_COMMAND="STATUS"))["code"] == 50


def test_agent_that_accepts_nothing(agent: FakeAgent, run: Run) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
        server.bind(str(agent.path))
        server.listen(0)
        waiting.connect(str(agent.path))
        assert error(run(config(agent)))["code"] == 11


def test_oversized_answer_is_no_answer(agent: FakeAgent, run: Run) -> None:
    agent.answer = b"\0" + b"x" * (4 << 20)
    with agent.running():
        assert error(run(config(agent)))["code"] == 11


# -- bad input


@pytest.mark.parametrize("command", ["", "add", "ADD ", "UPDATE"])
def test_unknown_command(run: Run, command: str) -> None:
    assert error(run(b"{}", CNI_COMMAND=command)) == {
        "cniVersion": "1.1.0",
        "code": 4,
        "msg": "CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION",
    }


def test_missing_command_without_terminal(shim: Path) -> None:
    done = subprocess.run([shim], input=b"{}", env={}, capture_output=True, timeout=20)
    assert error(done)["code"] == 4


def test_missing_command_on_a_terminal_prints_about(shim: Path) -> None:
    ours, its = pty.openpty()
    try:
        done = subprocess.run([shim], stdin=its, env={}, capture_output=True, timeout=20)
    finally:
        os.close(ours)
        os.close(its)
    assert done.returncode == 0
    assert done.stdout.startswith(b"podnet-cni: the CNI plugin of podnet")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("name", [name for name in ENV if name != "CNI_COMMAND"])
@pytest.mark.parametrize("value", ["a\nb", "\x7f", "\x1b[0m", "x" * 4097])
def test_environment_is_checked(agent: FakeAgent, run: Run, name: str, value: str) -> None:
    result = error(run(config(agent), **{name: value}))
    assert result["code"] == 4
    assert name in result["msg"]


def test_longest_values_pass(agent: FakeAgent, run: Run) -> None:
    names = [*ENV, "CNI_NETNS_OVERRIDE"]
    with agent.running():
        assert run(config(agent), **dict.fromkeys(names[1:], "x" * 4096)).returncode == 0
    assert agent.request.count(b"=" + b"x" * 4096 + b"\0") == 6


def test_stdin_over_the_limit(run: Run) -> None:
    assert error(run(b" " * (2**20 + 1)))["code"] == 6


def test_unreadable_stdin(shim: Path, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        done = subprocess.run([shim], stdin=folder, env=ENV, capture_output=True, timeout=20)
    finally:
        os.close(folder)
    assert error(done)["code"] == 5


@pytest.mark.parametrize(
    ("given", "printed"),
    [("0.3.1", "0.3.1"), ("9.9", "9.9"), ('"}', "1.1.0"), ("1.0.0-rc", "1.1.0"), ("", "1.1.0"), ("1" * 16, "1.1.0")],
)
def test_version_in_errors_is_the_inputs_when_plain(agent: FakeAgent, run: Run, given: str, printed: str) -> None:
    assert error(run(config(agent, cniVersion=given)))["cniVersion"] == printed


# -- VERSION


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.3.1"}', "0.3.1"),
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "1.0.0"}', "1.0.0"),
        (b'{"cniVersion": "1.1.0"}', "1.1.0"),
        (b'{"cniVersion": "0.2.0"}', "1.1.0"),
        (b'{"cniVersion": 1}', "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_version_needs_no_agent(shim: Path, stdin: bytes, version: str) -> None:
    done = subprocess.run([shim], input=stdin, env={"CNI_COMMAND": "VERSION"}, capture_output=True, timeout=20)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


def test_build_leaves_the_executable_beside_podnet() -> None:
    assert shutil.which("podnet-cni", path=sysconfig.get_path("scripts"))
