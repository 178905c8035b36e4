"""The conflist: what runtimes read in it, that it comes and goes whole, and that the neighbours stay as they are."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from podnet.agent.conflist import Conflist
from podnet.errors import UserError

SOCKET = "/run/podnet/cni.sock"


def test_contents(tmp_path: Path) -> None:
    Conflist(str(tmp_path), SOCKET).publish()
    assert json.loads((tmp_path / "10-podnet.conflist").read_bytes()) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "podnet",
        "plugins": [
            {
                "type": "podnet-cni",
                "capabilities": {
                    "portMappings": True, "bandwidth": True, "ips": True, "mac": True, "ipRanges": True, "dns": True
                },
                "agentSocket": SOCKET,
            }
        ],
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "10-podnet.conflist").stat().st_mode) == 0o644


def test_it_comes_and_goes_and_nothing_else_does(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    file = Conflist(str(folder), SOCKET)
    assert os.listdir(folder) == []
    (folder / "00-other.conflist").write_text("{}")
    file.withdraw()
    file.publish()
    file.publish()
    assert sorted(os.listdir(folder)) == ["00-other.conflist", "10-podnet.conflist"]
    file.withdraw()
    file.withdraw()
    assert os.listdir(folder) == ["00-other.conflist"]
    assert (folder / "00-other.conflist").read_text() == "{}"


def test_an_equal_file_is_not_written_again(tmp_path: Path) -> None:
    Conflist(str(tmp_path), SOCKET).publish()
    before = (tmp_path / "10-podnet.conflist").stat()
    Conflist(str(tmp_path), SOCKET).publish()
    assert (tmp_path / "10-podnet.conflist").stat().st_ino == before.st_ino


@pytest.mark.parametrize("old", [b"", b"{", b"\xff" * 10000])
def test_a_changed_or_torn_file_is_replaced(tmp_path: Path, old: bytes) -> None:
    (tmp_path / "10-podnet.conflist").write_bytes(old)
    (tmp_path / ".10-podnet.conflist.new").write_bytes(b"left by a kill")
    Conflist(str(tmp_path), SOCKET).publish()
    assert json.loads((tmp_path / "10-podnet.conflist").read_bytes())["name"] == "podnet"
    assert os.listdir(tmp_path) == ["10-podnet.conflist"]


def test_a_new_socket_is_a_new_file(tmp_path: Path) -> None:
    Conflist(str(tmp_path), SOCKET).publish()
    Conflist(str(tmp_path), "/run/other.sock").publish()
    assert b"/run/other.sock" in (tmp_path / "10-podnet.conflist").read_bytes()


def test_a_reader_never_sees_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens before the rename, the name leads to nothing or to the old file."""
    file = Conflist(str(tmp_path), SOCKET)

    def power_cut(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("podnet.agent.conflist.os.fsync", power_cut)
        file.publish()
    assert not (tmp_path / "10-podnet.conflist").exists()
    file.publish()
    assert (tmp_path / "10-podnet.conflist").exists()


def test_a_full_disk_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = Conflist(str(tmp_path / "net.d"), SOCKET)
    os.rmdir(tmp_path / "net.d")
    file.publish()
    assert "container runtimes start no pods" in caplog.text


def test_a_directory_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another directory"):
        Conflist(str(tmp_path / "file"), SOCKET)


def test_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podnet.agent.conflist.os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="run as root"):
        Conflist(str(tmp_path), SOCKET)
