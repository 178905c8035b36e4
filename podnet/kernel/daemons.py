"""Daemons: somebody else's programs, started, recognised, handed over and ended.

Each has a folder below the state directory: its files, its log, and a record of its process ids, of which each is
believed only while /proc shows our mark in that process's environment. So they outlive the agent, whose successor finds
them again; a dead one is simply not there, and is started.

A difference is a hand-over. The agent holds copies of the daemon's sockets, which it takes from the running process, so
that they stay open, with all that is queued in them, also when the process is killed; a successor starts with the very
same sockets, and when it waits for clients the predecessor is told to drain (native/libpodnet-sockets.c).
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from podnet.kernel.files import load, store
from podnet.kernel.inherited import sockets_of
from podnet.kernel.monitor import Event
from podnet.kernel.netns import inside
from podnet.kernel.outcome import Tally
from podnet.state.host import Daemon
from podnet.state.plan import Step
from podnet.state.resource import NodeState
from podnet.wire.netlink import Failure

MARK = "PODNET_DAEMON"
LIBRARY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "libpodnet-sockets.so")
DRAIN = signal.SIGRTMIN + 8
READY_SECONDS = 0.5
"""How long a daemon may take until it waits for clients; meanwhile nothing else is done to the kernel."""

AGAIN_SECONDS = 0.5
"""How long one that died had to live to be started again at once."""

END_SECONDS = 1.0
LOG_BYTES = 1 << 20
_TOLD_BYTES = 300
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Record(msgspec.Struct, frozen=True):
    """What is written about a daemon: its processes, the newest last; the executable they began with."""

    daemon: Daemon
    pids: tuple[int, ...]
    binary: tuple[int, ...]


class Daemons:
    """Those of one node. One thread calls all methods but `signal`; `deaths` may be read by another."""

    def __init__(self, state_dir: str, netns: str = "") -> None:
        self._folder = os.path.join(state_dir, "daemons")
        self._netns = netns
        self._held: dict[str, dict[str, int]] = {}
        self._started: dict[str, float] = {}
        self._dying: frozenset[str] = frozenset()
        self.deaths = Deaths()

    def read(self, desired: NodeState) -> Iterator[Daemon]:
        """Those that run. Takes copies of their sockets, if it has none, and lets those go that nobody wants."""
        names = sorted(os.listdir(self._folder)) if os.path.isdir(self._folder) else []
        for name in names:
            found = self._alive(name)
            if found is not None:
                record, pid = found
                self._settle(record, pid)
                self._hold(record.daemon, pid)
                self._shorten(name)
                current = _identity(record.daemon.argv[0]) in ((), record.binary)
                yield msgspec.structs.replace(record.daemon, current=current)
            elif ("Daemon", "", name) not in desired:
                self._let_go(name)

    def apply(self, step: Step, tally: Tally) -> None:
        """Start one, replace it by a successor, or end it."""
        daemon = step.resource
        assert isinstance(daemon, Daemon)
        try:
            if step.verb == "delete":
                self._end(daemon)
            else:
                self._start(daemon)
        except OSError as error:
            tally.fail(step, Failure(error.errno or errno.EIO, error.strerror or ""))
        else:
            tally.succeed(step)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one, if it runs."""
        found = self._alive(name)
        if found is not None:
            _kill(found[1], number)

    def close(self) -> None:
        """Give back the copies; the daemons go on."""
        for name in tuple(self._held):
            self._let_go(name)
        self.deaths.close()

    # -- one daemon

    def _start(self, daemon: Daemon) -> None:
        """Raises OSError."""
        folder, before = self._folder_of(daemon.name), self._alive(daemon.name)
        binary = _identity(daemon.argv[0])
        if before is None and self._dies_again(daemon.name):
            raise OSError(errno.EAGAIN, f"{daemon.name} had just been started: {_last_words(folder)}")
        if not binary:
            raise OSError(errno.ENOENT, f"{daemon.argv[0]} is not installed")
        if daemon.sockets and not os.path.exists(LIBRARY):
            raise OSError(errno.ENOENT, f"{LIBRARY} is missing: install podnet again")
        os.makedirs(folder, mode=0o755, exist_ok=True)
        for name, content in daemon.files:
            _write(os.path.join(folder, name), content)
        if before is not None:
            self._hold(daemon, before[1])
        old = (before[1],) if before else ()
        self._started[daemon.name] = time.monotonic()
        process, ready = self._spawn(daemon, folder)
        self._record(Record(daemon, (*old, process.pid), binary))
        try:
            _await_ready(process, ready, daemon, folder)
        except OSError:
            process.kill()
            process.wait()
            if before is None:
                self._record(None, daemon.name)
            else:
                self._record(before[0])
            raise
        finally:
            os.close(ready)
        process.returncode = 0  # as far as Popen is concerned: it is to outlive us
        self.deaths.watch(process.pid)
        for pid in old:
            _drain(pid, daemon)
        self._record(Record(daemon, (process.pid,), binary))
        self._let_go(daemon.name)
        self._hold(daemon, process.pid)

    def _dies_again(self, name: str) -> bool:
        """Whether it died soon after its start, and so had its last life too: who may try again must wait."""
        soon = time.monotonic() - self._started.get(name, -AGAIN_SECONDS) < AGAIN_SECONDS
        again = soon and name in self._dying
        self._dying = self._dying | {name} if soon else self._dying - {name}
        return again

    def _spawn(self, daemon: Daemon, folder: str) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and the end of the pipe at which it tells that it is ready."""
        held = {key: number for key, number in self._held.get(daemon.name, {}).items() if key in daemon.sockets}
        ready, tell = os.pipe()
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", MARK: _mark(daemon)}
        if daemon.sockets:
            listed = ",".join(f"{key}={held.get(key, -1)}" for key in daemon.sockets)
            environment |= {"LD_PRELOAD": LIBRARY, "PODNET_SOCKETS": listed}
            environment |= {"PODNET_READY": str(tell), "PODNET_DRAIN": str(DRAIN)}
        try:
            with inside(self._netns), open(os.path.join(folder, "log"), "ab") as log:
                process = subprocess.Popen(
                    daemon.argv, cwd=folder, env=environment, start_new_session=True, pass_fds=(tell, *held.values()),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
        except OSError:
            os.close(ready)
            raise
        finally:
            os.close(tell)
        return process, ready

    def _end(self, daemon: Daemon) -> None:
        found = self._alive(daemon.name)
        self._let_go(daemon.name)
        self._started.pop(daemon.name, None)
        if found is not None:
            self.deaths.watch(found[1])
            _drain(found[1], found[0].daemon)
            if not found[0].daemon.sockets:
                _see_off(found[1])
        shutil.rmtree(self._folder_of(daemon.name), ignore_errors=True)

    def _alive(self, name: str) -> tuple[Record, int] | None:
        """The record of a daemon, and its newest process that is alive."""
        record = load(os.path.join(self._folder_of(name), "record.json"), Record)
        for pid in reversed(record.pids) if record else ():
            if record and _bears(pid, name):
                self.deaths.watch(pid)
                return record, pid
        return None

    def _settle(self, record: Record, pid: int) -> None:
        """An agent that was killed in the middle of a hand-over has left a predecessor."""
        others = [other for other in record.pids if other != pid and _bears(other, record.daemon.name)]
        for other in others:
            _drain(other, record.daemon)
        if others:
            self._record(msgspec.structs.replace(record, pids=(pid,)))

    def _hold(self, daemon: Daemon, pid: int) -> None:
        if daemon.sockets and daemon.name not in self._held:
            self._held[daemon.name] = sockets_of(pid, daemon.sockets)

    def _let_go(self, name: str) -> None:
        for number in self._held.pop(name, {}).values():
            os.close(number)

    def _record(self, record: Record | None, name: str = "") -> None:
        """None: nothing runs any more."""
        path = os.path.join(self._folder_of(record.daemon.name if record else name), "record.json")
        if record is not None:
            store(path, record)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _shorten(self, name: str) -> None:
        """A log begins anew when it is long."""
        path = os.path.join(self._folder_of(name), "log")
        with suppress(FileNotFoundError):
            if os.stat(path).st_size > LOG_BYTES:
                os.truncate(path, 0)

    def _folder_of(self, name: str) -> str:
        return os.path.join(self._folder, name)


class Deaths:
    """Tells when a daemon ends, as a monitor does; and takes in what is left of those that were our children."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._watched: dict[int, int] = {}

    def watch(self, pid: int) -> None:
        """Until it ends; once is enough."""
        if pid in tuple(self._watched.values()):
            return
        with suppress(ProcessLookupError):
            there = os.pidfd_open(pid)
            self._watched[there] = pid
            self._poll.register(there, select.EPOLLIN)

    @property
    def filenos(self) -> tuple[int, ...]:
        """What to wait on until it is readable."""
        return (self._poll.fileno(),)

    def read(self) -> list[Event]:
        """See Monitor."""
        ended = [number for number, _ in self._poll.poll(0)]
        for number in ended:
            self._poll.unregister(number)
            with suppress(ChildProcessError):  # of an agent before us
                os.waitid(os.P_PIDFD, number, os.WEXITED | os.WNOHANG)
            del self._watched[number]
            os.close(number)
        return [("dirty", "Daemon")] if ended else []

    def close(self) -> None:
        """Watch nobody."""
        self.read()
        for number in self._watched:
            os.close(number)
        self._watched.clear()
        self._poll.close()


def _await_ready(process: subprocess.Popen[bytes], ready: int, daemon: Daemon, folder: str) -> None:
    """Raises OSError with the daemon's last words."""
    if not daemon.sockets:
        return
    waiting = select.poll()
    waiting.register(ready, select.POLLIN)
    if not waiting.poll(READY_SECONDS * 1000):
        raise OSError(errno.ETIMEDOUT, f"{daemon.name} was not ready within {READY_SECONDS} s")
    if not os.read(ready, 1):
        raise OSError(errno.ECHILD, f"{daemon.name} ended at once: {_last_words(folder)}")


def _last_words(folder: str) -> str:
    try:
        with open(os.path.join(folder, "log"), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TOLD_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1].strip() if lines else "it said nothing"


def _drain(pid: int, daemon: Daemon) -> None:
    """End a process that its clients no longer meet. One that is stopped could not hear."""
    _kill(pid, DRAIN if daemon.sockets else signal.SIGTERM)
    _kill(pid, signal.SIGCONT)


def _see_off(pid: int) -> None:
    """Wait for the end of a process that was asked to; one that does not hear is killed."""
    with suppress(ProcessLookupError):
        there = os.pidfd_open(pid)
        try:
            if not select.select([there], [], [], END_SECONDS)[0]:
                _kill(pid, signal.SIGKILL)
        finally:
            os.close(there)


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _mark(daemon: Daemon) -> str:
    spec = msgspec.json.encode(msgspec.structs.replace(daemon, current=True))
    return f"{daemon.name}:{hashlib.sha256(spec).hexdigest()[:16]}"


def _bears(pid: int, name: str) -> bool:
    """Whether a process is ours by that name; a zombie has no environment any more."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(word.startswith(f"{MARK}={name}:".encode()) for word in file.read().split(b"\0"))
    except OSError:
        return False


def _identity(program: str) -> tuple[int, ...]:
    """What tells an executable, with the library it is run with, from others; () when it is not there."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        return ()
    found = [os.stat(each) for each in (path, LIBRARY) if os.path.exists(each)]
    return tuple(number for each in found for number in (each.st_dev, each.st_ino, each.st_mtime_ns))


def _write(path: str, content: str) -> None:
    beside = f"{path}.new"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(content)
    os.replace(beside, path)
