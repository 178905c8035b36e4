"""The program: how it starts, what it says to wrong words, how it ends, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podnet.apiserver import pki
from podnet.cli.main import main

PROGRAM = [sys.executable, "-c", "from podnet.cli.main import main; main()", "apiserver"]


class Run:
    """The command line in this process: what it said and how it ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["apiserver", *words])
        said = self.capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@contextmanager
def started(*words: str, **more: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program and the URL that its one line names."""
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, text=True, **more) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("podnet apiserver is ready at https://"), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def ask(folder: Path, url: str, path: str, body: Any = None) -> Any:
    authority = pki.load_authority(str(folder))
    context: ssl.SSLContext = pki.client_context(authority, pki.issue(authority, "admin", ("system:masters",)))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=5) as answer:
        return json.loads(answer.read())


def test_a_life(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    words = [
        "--data-dir",
        str(folder),
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.2:0",
        "--advertise-san",
        "api.example",
    ]
    with started(*words) as (process, url):
        assert url.startswith("https://127.0.0.1:")
        names = {item["metadata"]["name"] for item in ask(folder, url, "/api/v1/namespaces")["items"]}
        assert names == {"default", "kube-system", "kube-node-lease"}
        assert url in (folder / "admin.kubeconfig").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    private = [path for path in folder.rglob("*") if path.name != "ca.crt"]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    assert sorted(path.name for path in folder.iterdir()) == ["admin.kubeconfig", "lock", "pki", "podnet.db"]


def test_inherited_sockets_and_a_public_url(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        fds = (one.fileno(), two.fileno())
        words = ["--data-dir", str(tmp_path), "--public-url", "https://api.example:6443"]
        with started(*words, *(word for fd in fds for word in ("--listen-fd", str(fd))), pass_fds=fds) as (_, url):
            assert url == "https://api.example:6443"
            for sock in (one, two):
                port = sock.getsockname()[1]
                assert ask(tmp_path, f"https://127.0.0.1:{port}", "/version")["major"] == "1"
    assert "https://api.example:6443" in (tmp_path / "admin.kubeconfig").read_text()


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"]
    with started(*words) as (process, url):
        version = ""
        for number in range(20):
            body = {"metadata": {"name": f"m{number}"}, "data": {"n": str(number)}}
            version = ask(tmp_path, url, "/api/v1/namespaces/default/configmaps", body)["metadata"]["resourceVersion"]
        process.kill()
    with started(*words) as (process, url):
        listed = ask(tmp_path, url, "/api/v1/namespaces/default/configmaps")
        assert {item["data"]["n"] for item in listed["items"]} == {str(number) for number in range(20)}
        assert listed["metadata"]["resourceVersion"] == version


def test_ready_within_a_second(tmp_path: Path) -> None:
    """The figure is the processor time, for the machine may be busy with other tests."""
    with started("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0") as (process, _):
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 1.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--listen", "6443"], "write ADDRESS:PORT"),
        (["--listen", "127.0.0.1:x"], "write ADDRESS:PORT"),
        (["--listen", "127.0.0.1:70000"], "write ADDRESS:PORT"),
        (["--listen", "192.0.2.1:6443"], "cannot listen on 192.0.2.1:6443"),
        (["--listen-fd", "99"], "--listen-fd 99 is no open socket"),
        (["--pod-cidr", "10.0.0.1"], "--pod-cidr[0]: Invalid value"),
        (["--pod-cidr", "10.0.0.0/8"], "10.96.0.0/16 overlaps --pod-cidr 10.0.0.0/8: give Services"),
        (["--pod-cidr", "10.0.0.0/8", "--pod-cidr", "10.0.0.0/8"], "--pod-cidr[1]: Invalid value"),
        (["--durability", "sometimes"], "durability"),
        (["--service-cluster-ip-range", "10.96.0.1/16"], "--service-cluster-ip-range: 10.96.0.1/16 has host bits set"),
        (["--service-cluster-ip-range", "10.0.0.0/8"], "the prefix of 10.0.0.0/8 must be from /12 to /30"),
        (["--service-cluster-ip-range", "10.96.0.0/16,10.97.0.0/16"], "there may be one range of each family"),
        (["--service-node-port-range", "30000"], "--service-node-port-range: '30000' must be LOW-HIGH"),
        (["--load-balancer-pool", "192.0.2.9-192.0.2.1"], "must run from a lower to a higher address"),
        (["--advertise-address", "here"], "--advertise-address: 'here' does not appear to be"),
    ],
)
def test_wrong_words_are_one_sentence_and_change_nothing(
    run: Run, tmp_path: Path, words: list[str], expected: str
) -> None:
    code, out, err = run("--data-dir", str(tmp_path / "data"), *words)
    assert (code, out) == (2, "")
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_taken_port(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("--data-dir", str(tmp_path), "--listen", f"127.0.0.1:{port}")
    assert code == 2
    assert "stop what uses it or choose another port" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_in_use_and_a_folder_that_cannot_be(run: Run, tmp_path: Path) -> None:
    with started("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"):
        code, _, err = run("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0")
        assert (code, "in use by another API server" in err) == (2, True)
    (tmp_path / "file").write_text("")
    code, _, err = run("--data-dir", str(tmp_path / "file"), "--listen", "127.0.0.1:0")
    assert (code, "cannot be used" in err) == (2, True)


def test_a_file_that_is_no_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "podnet.db").write_text("not a database, and long enough to be taken for one" * 100)
    code, _, err = run("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0")
    assert code == 2
    assert "podnet.db cannot be used" in err


def test_durability_is_documented_where_it_is_chosen(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    words = " ".join(out.split())
    assert "full: a power cut loses no acknowledged write; normal: at most the last second" in words
    assert "Example: podnet apiserver" in words


def test_it_ends_quickly_with_a_watch_open(tmp_path: Path) -> None:
    with started("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0") as (process, url):
        authority = pki.load_authority(str(tmp_path))
        context = pki.client_context(authority, pki.issue(authority, "admin", ("system:masters",)))
        with urllib.request.urlopen(f"{url}/api/v1/pods?watch=true", context=context, timeout=5) as answer:
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert answer.read() == b""
            assert process.wait(5) == 0
        assert time.monotonic() - begin < 3
