"""Daemons outlive whoever started them; a successor takes over their sockets, so that no query is ever lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from podnet.kernel import netns
from podnet.kernel.daemons import AGAIN_SECONDS, Daemons
from podnet.kernel.netns import inside
from podnet.kernel.outcome import Tally
from podnet.state.host import Daemon
from podnet.state.plan import Step
from tests.lab.hands import needs_root, wait_for

pytestmark = [pytest.mark.lab, needs_root]

PLACE = ("127.0.0.53", 53)
QUERY = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\x03web\x04test\0" + struct.pack(">HH", 1, 1)
PACE = 1 / 2000


def cache(**more: object) -> Daemon:
    options = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --log-facility=-"
    words = (*options.split(), "--pid-file=", f"--listen-address={PLACE[0]}", "--address=/web.test/192.0.2.1")
    sockets = tuple(f"{protocol}/{PLACE[0]}/{PLACE[1]}" for protocol in ("udp", "tcp"))
    return msgspec.structs.replace(Daemon("cache", ("dnsmasq", *words), sockets=sockets), **more)


def sized(number: int) -> Daemon:
    """Another configuration."""
    return cache(argv=(*cache().argv, f"--cache-size={number}"))


class Place:
    """A namespace and the daemons in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.netns = str(folder / "ns")
        netns.create(self.netns)
        with inside(self.netns):
            os.system("ip link set lo up")
        self.daemons = Daemons(str(folder), self.netns)

    def start(self, daemon: Daemon) -> str:
        """What went wrong, "" when nothing."""
        tally = Tally()
        self.daemons.apply(Step("add", daemon), tally)
        return "".join(map(str, tally.outcome().failed))

    def pid(self) -> int:
        return int(msgspec.json.decode((self.folder / "daemons/cache/record.json").read_bytes())["pids"][-1])

    def processes(self) -> int:
        mark = b"PODNET_DAEMON=cache:"
        found = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                same = os.stat(f"/proc/{name}/ns/net").st_ino == os.stat(self.netns).st_ino
                found += same and mark in Path(f"/proc/{name}/environ").read_bytes()
        return found

    def again(self) -> None:
        """The agent was killed, and another one is there."""
        self.daemons.close()
        self.daemons = Daemons(str(self.folder), self.netns)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        yield made
    finally:
        for daemon in tuple(made.daemons.read({})):
            made.daemons.apply(Step("delete", daemon), Tally())
        wait_for(lambda: made.processes() == 0, 8)
        made.daemons.close()
        netns.remove(made.netns)


def ask(channel: socket.socket) -> bool:
    """One question, once."""
    channel.send(QUERY)
    return channel.recv(512)[:2] == QUERY[:2]


def ask_udp(where: str) -> bool:
    with inside(where), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5)
        channel.connect(PLACE)
        return ask(channel)


def ask_tcp(where: str) -> bool:
    with inside(where), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as channel:
        channel.settimeout(5)
        channel.connect(PLACE)
        channel.send(struct.pack(">H", len(QUERY)) + QUERY)
        return channel.recv(2) != b""


class Asking:
    """Asks in threads of its own, at 2,000 questions/s by UDP and as fast as it goes, one by one, by TCP."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.answered = {"udp": 0, "tcp": 0}
        self.lost: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._udp, self._tcp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _udp(self) -> None:
        """Questions go on while answers are awaited: each number must come back once."""
        with inside(self.where):
            channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        channel.connect(PLACE)
        channel.setblocking(False)
        asked, heard, due = 0, set[int](), time.monotonic()
        end = 0.0
        while not end or (len(heard) < min(asked, 65536) and time.monotonic() < end):
            if not end and self._over.is_set():
                end = time.monotonic() + 5
            if not end and time.monotonic() >= due and asked < 65536:
                try:
                    channel.send(struct.pack(">H", asked) + QUERY[2:])
                    asked, due = asked + 1, due + PACE
                except OSError as error:
                    self.lost.append(f"udp {asked}: {error}")
            try:
                heard.add(struct.unpack(">H", channel.recv(512)[:2])[0])
            except BlockingIOError:
                time.sleep(PACE / 4)
            except OSError as error:
                self.lost.append(f"udp {asked}: {error}")
        self.answered["udp"] = len(heard)
        self.lost += [f"udp {number}" for number in range(asked) if number not in heard]
        channel.close()

    def _tcp(self) -> None:
        while not self._over.is_set():
            try:
                assert ask_tcp(self.where)
                self.answered["tcp"] += 1
            except (OSError, AssertionError) as error:
                self.lost.append(f"tcp: {error}")


def test_twenty_upgrades_under_load_lose_no_query(place: Place) -> None:
    assert place.start(sized(100)) == ""
    pids = {place.pid()}
    with Asking(place.netns) as asking:
        for turn in range(20):
            assert place.start(sized(101 + turn)) == ""
            pids.add(place.pid())
            time.sleep(0.1)
    assert asking.lost == []
    assert len(pids) == 21
    assert asking.answered["udp"] > 1000
    assert asking.answered["tcp"] > 100
    wait_for(lambda: place.processes() == 1, 8)


def test_what_is_asked_of_a_killed_daemon_its_successor_answers(place: Place) -> None:
    """But the one question that it may have had in its hands."""
    assert place.start(cache()) == ""
    kills = 5
    with Asking(place.netns) as asking:
        for _ in range(kills):
            time.sleep(AGAIN_SECONDS + 0.05)
            os.kill(place.pid(), signal.SIGKILL)
            wait_for(lambda: ("dirty", "Daemon") in place.daemons.deaths.read())
            assert tuple(place.daemons.read({cache().key: cache()})) == ()
            assert place.start(cache()) == ""
    assert len([lost for lost in asking.lost if lost.startswith("udp")]) <= kills


def test_another_agent_finds_it_and_its_sockets(place: Place) -> None:
    assert place.start(cache()) == ""
    before = place.pid()
    place.again()
    assert tuple(place.daemons.read({})) == (cache(),)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: ("dirty", "Daemon") in place.daemons.deaths.read())
    heard: list[bool] = []
    asking = threading.Thread(target=lambda: heard.append(ask_udp(place.netns)))
    asking.start()
    time.sleep(0.05)
    wait_for(lambda: place.start(cache()) == "")
    asking.join()
    assert heard == [True]


def test_a_successor_that_can_not_start_leaves_the_predecessor_alone(place: Place) -> None:
    assert place.start(cache()) == ""
    before = place.pid()
    said = place.start(cache(argv=("dnsmasq", "--no-such-option")))
    assert "cache ended at once" in said
    assert "bad command line options" in said
    assert "is not installed" in place.start(cache(argv=("no-such-program",)))
    assert place.pid() == before
    assert tuple(place.daemons.read({})) == (cache(),)
    assert ask_udp(place.netns)
    assert ask_tcp(place.netns)


def test_a_stopped_one_is_replaced_too(place: Place) -> None:
    assert place.start(cache()) == ""
    os.kill(place.pid(), signal.SIGSTOP)
    assert place.start(sized(99)) == ""
    assert ask_udp(place.netns)
    wait_for(lambda: place.processes() == 1, 8)


def test_a_new_executable_is_a_difference(place: Place) -> None:
    program = place.folder / "dnsmasq"
    program.write_bytes(Path("/usr/sbin/dnsmasq").read_bytes())
    program.chmod(0o755)
    wanted = cache(argv=(str(program), *cache().argv[1:]))
    assert place.start(wanted) == ""
    assert [daemon.current for daemon in place.daemons.read({})] == [True]
    (place.folder / "new").write_bytes(program.read_bytes())
    (place.folder / "new").chmod(0o755)
    (place.folder / "new").rename(program)
    assert [wanted.changes(daemon) for daemon in place.daemons.read({})] == [("current",)]
    assert place.start(wanted) == ""
    assert [daemon.current for daemon in place.daemons.read({})] == [True]


def test_one_that_dies_again_and_again_is_not_started_all_the_time(place: Place) -> None:
    """Once at once, whenever it died; then only after a while."""
    for _ in range(2):
        assert place.start(cache()) == ""
        os.kill(place.pid(), signal.SIGKILL)
        wait_for(lambda: ("dirty", "Daemon") in place.daemons.deaths.read())
    assert "had just been started" in place.start(cache())
    wait_for(lambda: place.start(cache()) == "")
    assert ask_udp(place.netns)


def test_files_and_signals(place: Place) -> None:
    script = 'trap "echo heard >> heard" HUP; while :; do sleep 0.02; done'
    daemon = Daemon("cache", ("sh", "loop"), files=(("loop", script),))
    assert place.start(daemon) == ""
    heard = place.folder / "daemons/cache/heard"

    def told() -> bool:
        place.daemons.signal("cache", signal.SIGHUP)
        return heard.exists()

    time.sleep(0.1)
    wait_for(told)
    place.daemons.apply(Step("delete", daemon), Tally())
    wait_for(lambda: place.processes() == 0)
    assert not heard.exists()


def test_a_query_under_way_is_answered_by_who_heard_it(place: Place) -> None:
    """The predecessor has asked upstream, and gets the answer after its successor has started."""
    upstream = _in(place.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    upstream.bind(("127.0.0.9", 53))
    upstream.settimeout(5)
    wanted = cache(argv=(*cache().argv, "--server=127.0.0.9"))
    assert place.start(wanted) == ""
    client = _in(place.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(5)
    client.connect(PLACE)
    client.send(QUERY.replace(b"web", b"far"))
    query, sender = upstream.recvfrom(512)
    assert place.start(msgspec.structs.replace(wanted, argv=(*wanted.argv, "--cache-size=7"))) == ""
    upstream.sendto(query[:2] + b"\x81\x83" + query[4:], sender)
    assert client.recv(512)[:2] == QUERY[:2]
    wait_for(lambda: place.processes() == 1, 8)
    for channel in (upstream, client):
        channel.close()


def _in(where: str, make: Callable[[], socket.socket]) -> socket.socket:
    with inside(where):
        return make()
