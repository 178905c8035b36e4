"""Reading CRI logs: filters, the tail, following, rotation."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from podnet.lab import logs
from podnet.lab.logs import Options, options, render, tail
from podnet.lab.status import unix
from tests.labs.values import until, write_text

NOW = 1_800_000_000.0


def entry(second: int, text: str, tag: str = "F", stream: str = "stdout") -> str:
    return f"2027-01-15T08:00:{second:02}.000000000Z {stream} {tag} {text}\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "log").write_text("".join(entry(second, f"line {second}") for second in range(5)))
    return str(tmp_path / "log")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FOLLOW_SECONDS", 0.005)


async def read(path: str, **wanted: Any) -> str:
    return b"".join([text async for text in logs.read(path, Options(**wanted))]).decode()


# -- options


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Options()),
        (
            {"follow": "true", "timestamps": "1", "previous": "True"},
            Options(follow=True, timestamps=True, previous=True),
        ),
        ({"follow": "false", "timestamps": "0"}, Options()),
        ({"tailLines": "10", "limitBytes": "0"}, Options(tail=10, limit=0)),
        ({"sinceSeconds": "60"}, Options(since=NOW - 60)),
        ({"sinceTime": "1970-01-01T00:01:00Z"}, Options(since=60.0)),
        ({"unknown": "x"}, Options()),
    ],
)
def test_options(query: dict[str, str], expected: Options) -> None:
    assert options(query, NOW) == expected


@pytest.mark.parametrize(
    "query", [{"tailLines": "-1"}, {"tailLines": "x"}, {"sinceSeconds": ""}, {"limitBytes": "1.5"}]
)
def test_wrong_options_name_the_parameter(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(query))):
        options(query, NOW)


def test_a_wrong_time() -> None:
    with pytest.raises(ValueError):
        options({"sinceTime": "yesterday"}, NOW)


# -- lines


@pytest.mark.parametrize(
    ("line", "wanted", "expected"),
    [
        (entry(1, "text"), Options(), "text\n"),
        (entry(1, "two words "), Options(), "two words \n"),
        (entry(1, ""), Options(), "\n"),
        (entry(1, "part", "P"), Options(), "part"),
        (entry(1, "text", stream="stderr"), Options(), "text\n"),
        (entry(1, "text"), Options(timestamps=True), "2027-01-15T08:00:01.000000000Z text\n"),
        ("torn\n", Options(), ""),
    ],
)
def test_render(line: str, wanted: Options, expected: str) -> None:
    assert render(line.encode(), wanted).decode() == expected


def test_render_leaves_out_what_is_too_old() -> None:
    since = unix("2027-01-15T08:00:02Z")
    assert render(entry(1, "old").encode(), Options(since=since)) == b""
    assert render(entry(2, "new").encode(), Options(since=since)) == b"new\n"


@pytest.mark.parametrize(
    ("count", "expected"), [(None, "abcde"), (0, ""), (1, "e"), (2, "bcde"), (3, "abcde"), (9, "abcde")]
)
def test_tail_counts_whole_lines(count: int | None, expected: str) -> None:
    """Three lines: a / b c d (two parts and their end) / e."""
    entries = [entry(1, "a"), entry(2, "b", "P"), entry(2, "c", "P"), entry(2, "d"), entry(3, "e")]
    found = tail([line.encode() for line in entries], count)
    assert "".join(line.split(b" ")[3].decode().strip() for line in found) == expected


def test_the_tail_of_nothing() -> None:
    assert list(tail([], 3)) == []


# -- reading


async def test_everything(path: str) -> None:
    assert await read(path) == "line 0\nline 1\nline 2\nline 3\nline 4\n"


async def test_the_last_lines(path: str) -> None:
    assert await read(path, tail=2) == "line 3\nline 4\n"


@pytest.mark.parametrize(
    ("limit", "expected"), [(0, ""), (3, "lin"), (7, "line 0\n"), (10, "line 0\nlin"), (999, None)]
)
async def test_so_many_bytes(path: str, limit: int, expected: str | None) -> None:
    assert await read(path, limit=limit) == (await read(path) if expected is None else expected)


async def test_the_rotated_file_comes_first(path: str) -> None:
    write_text(f"{path}.1", entry(0, "older"))
    assert (await read(path)).startswith("older\nline 0\n")


async def test_a_line_that_is_being_written_is_left_out(path: str) -> None:
    append(path, entry(6, "half")[:30])
    assert (await read(path)).endswith("line 4\n")


async def test_no_log_yet(tmp_path: Path) -> None:
    assert await read(str(tmp_path / "none")) == ""


# -- following


class Following:
    """A reader that follows a log until it is told that nothing more will come."""

    def __init__(self, path: str, **wanted: Any) -> None:
        self.text = ""
        self.over = False
        self._task = asyncio.create_task(self._read(path, Options(follow=True, **wanted)))

    async def _read(self, path: str, wanted: Options) -> None:
        async for text in logs.read(path, wanted, lambda: self.over):
            self.text += text.decode()

    async def until(self, ending: str) -> None:
        await until(lambda: self.text.endswith(ending))

    async def end(self) -> str:
        self.over = True
        async with asyncio.timeout(5):
            await self._task
        return self.text


def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


async def test_follow_gives_what_comes(path: str) -> None:
    following = Following(path, tail=1)
    await following.until("line 4\n")
    append(path, entry(5, "line 5"))
    await following.until("line 5\n")
    assert await following.end() == "line 4\nline 5\n"


async def test_follow_ends_with_the_last_line(path: str) -> None:
    following = Following(path, tail=1)
    await following.until("line 4\n")
    append(path, entry(5, "last"))
    assert await following.end() == "line 4\nlast\n"


async def test_follow_waits_for_the_rest_of_a_line(path: str) -> None:
    following = Following(path, tail=0)
    append(path, entry(5, "halves")[:36])
    await asyncio.sleep(0.05)
    assert following.text == ""
    append(path, entry(5, "halves")[36:])
    await following.until("halves\n")
    await following.end()


async def test_follow_goes_on_after_rotation(path: str) -> None:
    following = Following(path, tail=1)
    await following.until("line 4\n")
    append(path, entry(5, "before"))
    os.rename(path, f"{path}.1")
    append(path, entry(6, "after"))
    await following.until("after\n")
    assert await following.end() == "line 4\nbefore\nafter\n"


async def test_follow_of_a_log_that_begins_later(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    following = Following(path)
    await asyncio.sleep(0.02)
    append(path, entry(1, "first"))
    await following.until("first\n")
    assert await following.end() == "first\n"


async def test_follow_of_a_log_that_never_begins(tmp_path: Path) -> None:
    assert await Following(str(tmp_path / "log")).end() == ""


async def test_follow_stops_at_the_limit(path: str) -> None:
    found = b"".join([text async for text in logs.read(path, Options(follow=True, limit=7), lambda: False)])
    assert found == b"line 0\n"
