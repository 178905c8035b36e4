"""Small files: whole or not at all, and unreadable ones count as missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from podnet.kernel.files import load, store


class Note(msgspec.Struct):
    words: list[str]


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    path = str(tmp_path / "note.json")
    for words in (["a"], ["b", "c"], []):
        store(path, Note(words))
        assert load(path, Note) == Note(words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"words": 1}', "\0\0\0"])
def test_a_file_of_another_shape_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "note.json"
    path.write_text(content)
    assert load(str(path), Note) is None


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert load(str(tmp_path / "note.json"), Note) is None


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    store(str(path), Note(["old"]))
    (tmp_path / f"note.json.{os.getpid()}.new").write_text('{"wor')
    assert load(str(path), Note) == Note(["old"])
    store(str(path), Note(["new"]))
    assert load(str(path), Note) == Note(["new"])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "note.json")
    script = f"from podnet.kernel.files import store\nfor _ in range(300): store({path!r}, {{'words': ['other']}})"
    with subprocess.Popen([sys.executable, "-c", script]) as other:
        while other.poll() is None:
            store(path, Note(["own"]))
    assert other.returncode == 0
    assert load(path, Note) in (Note(["own"]), Note(["other"]))


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store(str(tmp_path / "none" / "note.json"), Note([]))
