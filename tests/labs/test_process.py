"""Processes below the shim: what their folder says of them, whatever happens to whom."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.lab import process
from podnet.lab.process import CANNOT_START, LOST, Command, Ended, Running, StartError
from tests.labs.values import until

pytestmark = pytest.mark.usefixtures("shim")

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)")


def sh(script: str, **options: object) -> Command:
    return Command(("sh", "-c", script), {"PATH": os.environ["PATH"]}, **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    """A process's folder; what runs there at the end is killed."""
    path = str(tmp_path / "run")
    yield path
    process.stop_now(path)


def log(folder: str) -> list[tuple[str, str, str]]:
    """(stream, tag, text) of each entry; every line must have the CRI form."""
    entries = []
    for line in Path(folder, "log").read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        entries.append((match[1], match[2], match[3]))
    return entries


async def said(folder: str, word: str) -> None:
    """Wait for a line of output."""
    await until(lambda: word in [text for _, _, text in log(folder)])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    await until(lambda: not alive(pid))


def running(folder: str) -> Running:
    found = process.look(folder)
    assert isinstance(found, Running)
    return found


# -- exit codes


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("false", 1)],
)
async def test_exit_codes(folder: str, script: str, code: int) -> None:
    before = time.time()
    process.start(folder, sh(script))
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == code
    assert before <= ended.at <= time.time()
    assert process.look(folder) == ended


def test_nothing_was_ever_started(folder: str) -> None:
    assert process.look(folder) is None


async def test_waiting_for_nothing_ends_at_once(folder: str) -> None:
    assert await process.ended(folder) is None
    assert await process.stop(folder, 1) is None


async def test_several_may_wait(folder: str) -> None:
    process.start(folder, sh("sleep 0.1; exit 3"))
    assert {ended.code for ended in await asyncio.gather(*(process.ended(folder) for _ in range(3))) if ended} == {3}


async def test_a_folder_is_used_again(folder: str) -> None:
    for code in (1, 2):
        process.start(folder, sh(f"exit {code}"))
        ended = await process.ended(folder)
        assert ended is not None
        assert ended.code == code


# -- start


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Command(("/no/such/program",)), "exec /no/such/program: No such file or directory"),
        (Command(("/etc/passwd",)), "exec /etc/passwd: Permission denied"),
        (Command(("true",), cwd="/no/such/folder"), "enter directory /no/such/folder: No such file or directory"),
        (
            Command(("true",), netns="/no/such/netns"),
            "open network namespace /no/such/netns: No such file or directory",
        ),
    ],
)
def test_what_can_not_be_started_says_why(folder: str, command: Command, reason: str) -> None:
    with pytest.raises(StartError) as error:
        process.start(folder, command)
    assert str(error.value) == reason
    assert not isinstance(process.look(folder), Running)


def test_a_missing_shim_says_what_to_do(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SHIM", "/no/such/shim")
    with pytest.raises(StartError, match="make setup"):
        process.start(folder, sh("true"))


async def test_the_command_gets_its_environment_and_directory_and_nothing_else(folder: str, tmp_path: Path) -> None:
    process.start(folder, Command(("/usr/bin/env",), {"A": "1", "B": "two words"}))
    await process.ended(folder)
    assert sorted(text for _, _, text in log(folder)) == ["A=1", "B=two words"]
    process.start(f"{folder}2", sh("pwd", cwd=str(tmp_path)))
    await process.ended(f"{folder}2")
    assert log(f"{folder}2") == [("stdout", "F", str(tmp_path))]


async def test_it_leads_its_own_session_and_reads_nothing(folder: str) -> None:
    process.start(folder, sh("cat; ps -o pid=,pgid=,sid= -p $$; readlink /proc/$$/fd/0"))
    await process.ended(folder)
    (_, _, numbers), (_, _, stdin) = log(folder)
    assert len(set(numbers.split())) == 1
    assert stdin == "/dev/null"


async def test_files_can_be_passed_on(folder: str) -> None:
    read, write = os.pipe()
    os.write(write, b"hello\n")
    os.close(write)
    process.start(folder, sh(f"cat /proc/self/fd/{read}"), pass_fds=[read])
    os.close(read)
    await process.ended(folder)
    assert log(folder) == [("stdout", "F", "hello")]


def test_only_one_of_two_starts_wins(folder: str) -> None:
    process.start(folder, sh("sleep 60"))
    second = subprocess.run(process.shim_arguments(folder, sh("sleep 60")), capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "File exists" in second.stderr
    assert running(folder).pid


def test_a_void_folder_can_not_be_started_by_a_latecomer(folder: str) -> None:
    os.makedirs(folder)
    process.void(folder)
    late = subprocess.run(process.shim_arguments(folder, sh("sleep 60")), capture_output=True, text=True, check=False)
    assert late.returncode == 1
    found = process.look(folder)
    assert isinstance(found, Ended)
    assert found.code == LOST


def test_void_does_nothing_to_what_runs(folder: str) -> None:
    process.start(folder, sh("sleep 60"))
    process.void(folder)
    assert running(folder).pid


@pytest.mark.parametrize("arguments", [[], ["-x"], ["-p", "a", "-l", "b", "-e", "c"], ["--", "true"], ["-b", "nope"]])
def test_wrong_arguments_print_the_usage(shim: Path, arguments: list[str]) -> None:
    done = subprocess.run([shim, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: podnet-shim" in done.stderr


# -- stop


async def test_stop_asks_first(folder: str) -> None:
    process.start(folder, sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"))
    await said(folder, "ready")
    ended = await process.stop(folder, 5)
    assert ended is not None
    assert ended.code == 5
    assert ("stdout", "F", "bye") in log(folder)


async def test_stop_kills_what_does_not_go(folder: str) -> None:
    process.start(folder, sh("trap '' TERM; echo ready; while :; do sleep 0.01; done"))
    await said(folder, "ready")
    before = time.monotonic()
    ended = await process.stop(folder, 0.2)
    assert ended is not None
    assert ended.code == 137
    assert 0.2 <= time.monotonic() - before < 2


async def test_no_grace_kills_at_once(folder: str) -> None:
    process.start(folder, sh("trap 'exit 5' TERM; echo ready; sleep 60 & wait"))
    await said(folder, "ready")
    ended = await process.stop(folder, 0)
    assert ended is not None
    assert ended.code == 137


async def test_stop_reaches_the_whole_group(folder: str) -> None:
    child = "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.01; done"
    process.start(folder, sh(f'trap : TERM; sh -c "{child}" & wait; wait'))
    await said(folder, "ready")
    await process.stop(folder, 2)
    assert ("stdout", "F", "told") in log(folder)


async def test_stopping_twice_is_fine(folder: str) -> None:
    process.start(folder, sh("sleep 60"))
    assert await process.stop(folder, 1) == await process.stop(folder, 1)


def test_stop_now_needs_no_loop(folder: str) -> None:
    process.start(folder, sh("sleep 60"))
    process.stop_now(folder)
    deadline = time.monotonic() + 5
    while isinstance(process.look(folder), Running) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not isinstance(process.look(folder), Running)


# -- what is left behind


async def test_children_in_sessions_of_their_own_are_killed(folder: str, tmp_path: Path) -> None:
    process.start(folder, sh(f"setsid sh -c 'echo $$ > {tmp_path}/pid; sleep 60' & sleep 0.1; exit 0"))
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == 0
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_with_keep_they_live_on(folder: str, tmp_path: Path) -> None:
    process.start(folder, sh(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' >&- 2>&- & sleep 0.1", keep=True))
    await process.ended(folder)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


async def test_a_survivor_that_holds_the_output_delays_nothing(folder: str, tmp_path: Path) -> None:
    """A daemon that a killed agent started must not keep the next agent from starting."""
    process.start(
        folder, sh(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & sleep 0.1; echo last", keep=True)
    )
    async with asyncio.timeout(5):
        ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == 0
    assert log(folder) == [("stdout", "F", "last")]
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_with_keep_the_group_still_ends(folder: str, tmp_path: Path) -> None:
    process.start(folder, sh(f"sleep 60 & echo $! > {tmp_path}/pid", keep=True))
    await process.ended(folder)
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_killed_shim_takes_the_command_along(folder: str) -> None:
    process.start(folder, sh("sleep 60 & wait"))
    found = running(folder)
    os.kill(found.shim, signal.SIGKILL)
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == LOST
    await gone(found.pid)


async def test_the_rest_of_a_killed_shims_session_is_swept(folder: str, tmp_path: Path) -> None:
    process.start(folder, sh(f"sleep 60 & echo $! > {tmp_path}/pid; wait"))
    found = running(folder)
    await asyncio.sleep(0.1)
    child = int((tmp_path / "pid").read_text())
    os.kill(found.shim, signal.SIGKILL)
    await gone(found.pid)
    assert alive(child)
    process.kill_session(found.pid, "/proc/self/ns/net")
    await gone(child)


def test_sweeping_no_session_touches_nobody() -> None:
    process.kill_session(0, "/proc/self/ns/net")
    process.kill_session(1, "/no/such/netns")


async def test_whoever_started_it_may_die(folder: str, shim: Path, tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in process.shim_arguments(folder, sh("sleep 0.3; echo done; exit 4")))
    os.makedirs(folder)
    parent = await asyncio.create_subprocess_exec("sh", "-c", f"{words}; kill -KILL $$", start_new_session=True)
    assert await parent.wait() == -9
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == 4
    assert log(folder) == [("stdout", "F", "done")]


# -- logs


async def test_lines_keep_their_stream_and_order(folder: str) -> None:
    process.start(folder, sh("echo one; sleep 0.05; echo two >&2; sleep 0.05; echo; sleep 0.05; printf three"))
    await process.ended(folder)
    assert log(folder) == [
        ("stdout", "F", "one"),
        ("stderr", "F", "two"),
        ("stdout", "F", ""),
        ("stdout", "F", "three"),
    ]


async def test_a_long_line_comes_in_parts(folder: str) -> None:
    process.start(folder, sh("head -c 40000 /dev/zero | tr '\\0' x; echo end"))
    await process.ended(folder)
    entries = log(f"{folder}")
    assert "".join(text for _, _, text in entries) == "x" * 7232 + "end" or entries[-1][1] == "F"
    assert all(tag == "P" for _, tag, _ in entries[:-1])


async def test_the_log_turns_over(folder: str) -> None:
    process.start(folder, sh("i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done"))
    await process.ended(folder)
    assert 0 < os.stat(f"{folder}/log.1").st_size <= 4096
    assert 0 < os.stat(f"{folder}/log").st_size <= 4096
    assert log(folder)[-1] == ("stdout", "F", "line 299")


async def test_output_after_the_end_of_the_command_is_not_lost(folder: str) -> None:
    process.start(folder, sh("head -c 60000 /dev/zero | tr '\\0' y | fold -w 100; exit 9"))
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == 9


async def test_closed_output_is_no_end(folder: str) -> None:
    process.start(folder, sh("exec >&- 2>&-; sleep 0.1; exit 6"))
    ended = await process.ended(folder)
    assert ended is not None
    assert ended.code == 6


async def test_a_restart_appends_to_the_log(folder: str) -> None:
    for word in ("first", "second"):
        process.start(folder, sh(f"echo {word}"))
        await process.ended(folder)
    assert [text for _, _, text in log(folder)] == ["first", "second"]


# -- short commands


async def test_call_returns_everything() -> None:
    done = await process.call(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in")
    assert (done.code, done.stdout, done.stderr) == (3, b"in", b"err\n")


async def test_call_kills_what_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await process.call(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], seconds=0.2)
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_call_of_nothing_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await process.call(["/no/such/program"])


def test_entering_a_container() -> None:
    words = process.enter(42, ["ip", "addr"])
    assert words[0] == "nsenter"
    assert "--target=42" in words
    assert {"--net", "--mount", "--uts"} <= set(words)
    assert words[words.index("--") + 1 :] == ["ip", "addr"]


# -- namespaces


def test_identity_of_a_namespace() -> None:
    own = process.identity("/proc/self/ns/net")
    assert own is not None
    assert own == process.identity(f"/proc/{os.getpid()}/ns/net")
    assert own != process.identity("/proc/self/ns/uts")


@pytest.mark.parametrize("path", ["/no/such/file", "/etc/hosts", "/etc/hosts/x", "/proc/0/ns/net"])
def test_what_is_no_namespace_has_none(path: str) -> None:
    assert process.identity(path) is None


def test_members_of_a_namespace_include_ourselves() -> None:
    own = process.identity("/proc/self/ns/net")
    assert own is not None
    assert os.getpid() in process.members(frozenset({own}))
    assert process.members(frozenset()) == []


async def test_finish_does_the_work_although_cancelled() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.set()

    task = asyncio.create_task(process.finish(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done.is_set()


async def test_finish_passes_results_and_errors_on() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise KeyError("x")

    assert await process.finish(good()) == 7
    with pytest.raises(KeyError):
        await process.finish(bad())


def test_a_start_error_has_its_own_code() -> None:
    assert CANNOT_START == 128
