"""Processes that outlive whoever started them: podnet's programs and the containers alike.

Each runs below a podnet-shim (native/podnet-shim.c), which leaves three files in the process's folder: `pid`, locked as
long as the shim lives, `log`, and `exit`, written when the process ended. What a process does is therefore read from
its folder alone (`look`), by this program or by its successor after a kill -9, and no number is trusted that the lock
does not vouch for.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

T = TypeVar("T")

BIN = os.path.dirname(sys.executable)
SHIM = f"{BIN}/podnet-shim"
LOST = 137
CANNOT_START = 128
POLL_SECONDS = 0.005


class Value(msgspec.Struct, frozen=True):
    """Base of the values in this module."""


class Command(Value, frozen=True):
    """What to run and where.

    netns     path of the network namespace, "" for the caller's
    hostname  "" shares the caller's UTS namespace
    binds     (source, target): files bound over others, in a mount namespace of its own
    keep      what it leaves behind in sessions of its own lives on (a program that starts containers)
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    netns: str = ""
    hostname: str = ""
    binds: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    keep: bool = False


class Running(Value, frozen=True):
    """A live process: its pid, which is also its group, and the shim's. Valid as long as `look` gives it again."""

    pid: int
    shim: int


class Ended(Value, frozen=True):
    """How a process ended: exit code (128 + signal for a signal, LOST when nobody saw it) and Unix time."""

    code: int
    at: float


class Done(Value, frozen=True):
    """A command that ran to its end."""

    code: int
    stdout: bytes
    stderr: bytes


class StartError(Exception):
    """The command could not be started; the text says why."""


def shim_arguments(folder: str, command: Command) -> list[str]:
    """The command line of podnet-shim."""
    arguments = [SHIM, "-p", f"{folder}/pid", "-l", f"{folder}/log", "-e", f"{folder}/exit"]
    arguments += ["-k"] if command.keep else []
    for flag, value in (("-n", command.netns), ("-h", command.hostname), ("-w", command.cwd)):
        arguments += [flag, value] if value else []
    for source, target in command.binds:
        arguments += ["-b", f"{source}={target}"]
    return [*arguments, "--", *command.argv]


def start(folder: str, command: Command, pass_fds: Sequence[int] = ()) -> None:
    """Run a command; returns when it was executed (5 ms). The folder must hold no live process. Raises StartError."""
    os.makedirs(folder, exist_ok=True)
    for name in ("pid", "exit"):
        with suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")
    try:
        done = subprocess.run(
            shim_arguments(folder, command), env=command.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            pass_fds=pass_fds, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise StartError(f"{SHIM} is missing: run make setup") from None
    if done.returncode:
        raise StartError(done.stderr.strip())


def void(folder: str) -> None:
    """Make sure that no start that is still on its way can begin in a folder; without effect on what began."""
    with suppress(FileExistsError):
        os.close(os.open(f"{folder}/pid", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def started_at(folder: str) -> float:
    """Unix time at which the process of a folder was started."""
    return os.stat(f"{folder}/pid").st_mtime


def look(folder: str) -> Running | Ended | None:
    """What the process of a folder does; None when there never was one."""
    try:
        fd = os.open(f"{folder}/pid", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        numbers = os.pread(fd, 64, 0).split()
        return Running(*map(int, numbers)) if len(numbers) == 2 else Running(0, 0)
    else:
        return _ended(folder, os.fstat(fd).st_mtime)
    finally:
        os.close(fd)


def _ended(folder: str, began: float) -> Ended:
    try:
        with open(f"{folder}/exit", encoding="ascii") as file:
            code, nanoseconds = file.read().split()
        return Ended(int(code), int(nanoseconds) / 1e9)
    except FileNotFoundError:
        return Ended(LOST, began)


async def finish(work: Awaitable[T]) -> T:
    """Await something that must not be left half done; a cancellation counts when it is done."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def settled(folder: str) -> Running | Ended | None:
    """`look`, once a process that is just being started shows its pid."""
    while True:
        found = look(folder)
        if not isinstance(found, Running) or found.pid:
            return found
        await asyncio.sleep(POLL_SECONDS)


async def ended(folder: str) -> Ended | None:
    """Wait for the end of the process of a folder; None when there never was one."""
    while isinstance(found := await settled(folder), Running):
        await _gone(found.shim, folder)
    return found


async def _gone(shim: int, folder: str) -> None:
    """Wait until the shim of a folder ended; its pid counts only if the folder is still locked once we hold a pidfd."""
    try:
        fd = os.pidfd_open(shim)
    except ProcessLookupError:
        return
    try:
        if isinstance(look(folder), Running):
            await _readable(fd)
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def send(folder: str, number: signal.Signals) -> None:
    """Signal the whole group of a folder's process, if it runs."""
    found = look(folder)
    if isinstance(found, Running) and found.pid:
        with suppress(ProcessLookupError):
            os.killpg(found.pid, number)


async def stop(folder: str, grace: float) -> Ended | None:
    """SIGTERM, SIGKILL after `grace` seconds; returns how it ended, None when there never was a process."""
    await settled(folder)
    if grace > 0:
        send(folder, signal.SIGTERM)
        with suppress(TimeoutError):
            return await asyncio.wait_for(ended(folder), grace)
    send(folder, signal.SIGKILL)
    return await ended(folder)


async def call(
    argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, seconds: float = 60.0
) -> Done:
    """Run a short command and collect its output; after so many seconds it is killed. Raises TimeoutError, OSError."""
    child = await asyncio.create_subprocess_exec(
        *argv, env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await child.communicate(stdin)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Done(child.returncode or 0, stdout, stderr)


def enter(pid: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in the namespaces of a container's process."""
    return ["nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--wdns=/", "--", *command]


def watch_children() -> None:
    """Let asyncio wait for children by pidfd, without a thread for each (the default from Python 3.12 on)."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


def stop_now(folder: str) -> None:
    """SIGKILL without an event loop: the process, and the shim if it won't go by itself."""
    found = look(folder)
    if isinstance(found, Running) and found.pid:
        for pid in (found.pid, found.shim):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def members(namespaces: frozenset[tuple[int, int]]) -> list[int]:
    """Every process whose network namespace is one of these (device, inode)."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    return [pid for pid in pids if identity(f"/proc/{pid}/ns/net") in namespaces]


def shims(folder: str) -> dict[int, str]:
    """Every live shim whose files are below a folder: its pid, and the path of its pid file. From its command line."""
    found = {}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            words = file.read().split("\0")
            if os.path.basename(words[0]) == os.path.basename(SHIM) and words[2].startswith(f"{folder}/"):
                found[pid] = words[2]
    return found


def kill_session(leader: int, netns: str) -> None:
    """SIGKILL what is left of the session of a process that is gone, inside one network namespace.

    The shim does this itself; this is for the case that someone killed the shim.
    """
    for pid in members(frozenset(filter(None, [identity(netns)]))) if leader else ():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def identity(path: str) -> tuple[int, int] | None:
    """(device, inode) of the namespace at a path; None when there is none."""
    try:
        stat = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.ENOTDIR):
            return None
        raise
    return (stat.st_dev, stat.st_ino) if stat.st_dev == _nsfs() else None


def _nsfs() -> int:
    return os.stat("/proc/self/ns/net").st_dev
