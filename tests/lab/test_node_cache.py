"""The DNS cache of each node: it answers untracked, outlives its agent, is replaced without a loss, and when it does
not answer, the Service does."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from podnet.client.api import Api
from podnet.kernel.netns import inside
from podnet.network.dns.node_cache import NAME
from podnet.objects.kinds import ENDPOINTSLICES, NAMESPACES, SERVICES
from podnet.objects.services import SERVICE_NAME
from podnet.wire import dns
from tests.lab.labs import LiveLab, Place, live_lab, needs_root, until
from tests.lab.service_world import HERE

pytestmark = [pytest.mark.lab, needs_root]

SERVERS = {"dns-1": "node1", "dns-2": "node2"}
CLIENTS = {"client": "node1", "flooder": "node1"}
SERVICE, LOCAL = ("10.96.0.10", "fd00:10:96::a"), ("169.254.20.10", "fd00:169:254:20::10")
WEB = "web.default.svc.cluster.local"
BACKING = 5353
MODES = tuple(mode for mode in HERE if mode != "ipvs")


class Heard(NamedTuple):
    """What became of one question: the address or the RCODE ("" for silence), and seconds."""

    said: str
    seconds: float


def ask(where: str, server: str, name: str = WEB, tries: int = 2, tcp: bool = False) -> Heard:
    """As a resolver asks: again after a second."""
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    began = time.monotonic()
    for number in range(tries):
        query = dns.question(1000 + number, dns.name(name), dns.A)
        with inside(where):
            channel = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind)
        with channel:
            channel.settimeout(1.0)
            try:
                channel.connect((server, 53))
                channel.sendall(struct.pack(">H", len(query)) + query if tcp else query)
                found = dns.read(channel.recv(4096)[2 if tcp else 0 :])
            except OSError:
                time.sleep(max(0.0, began + number + 1 - time.monotonic()))
                continue
            said = dns.shown(found.answers[0]) if found.answers else dns.RCODES[found.rcode]
            return Heard(said, time.monotonic() - began)
    return Heard("", time.monotonic() - began)


class World:
    """The lab, and what its DNS servers know."""

    def __init__(self, live: LiveLab, folder: Path) -> None:
        self.live = live
        self.names = folder / "names"
        self.pods: dict[str, Place] = {}

    def know(self, **addresses: str) -> None:
        """Names of Services in default, and their addresses; the servers know nothing else."""
        lines = [f"{name}.default.svc.cluster.local {address}\n" for name, address in addresses.items()]
        beside = self.names.with_suffix(".new")
        beside.write_text("".join(lines))
        beside.rename(self.names)

    def netns(self, pod: str = "client") -> str:
        return self.pods[pod].netns

    def pid(self) -> int:
        """Of node1's cache; 0 when there is none."""
        path = Path(self.live.lab.node("node1").state_dir) / "daemons" / NAME / "record.json"
        if not path.exists():
            return 0
        pid = int(msgspec.json.decode(path.read_bytes())["pids"][-1])
        with suppress(OSError):
            return pid if Path(f"/proc/{pid}/environ").read_bytes() else 0
        return 0

    def status(self) -> dict[str, Any]:
        return self.live.ask("node1", "status")

    def up(self) -> bool:
        return self.status().get("dnsCache") is True and self.live.settled("node1")

    def on(self, **more: object) -> None:
        self.live.configure(dns={"nodeLocal": True, **more})
        until(self.up, "the cache answers", 20.0)

    def off(self) -> None:
        self.live.configure(dns={"nodeLocal": False, "rateLimit": 2000})
        until(lambda: not self.pid() and self.live.settled("node1"), "the cache is off", 20.0)

    async def create(self, api: Api) -> None:
        """The DNS Service, in both families."""
        ports = [{"name": f"dns-{kind.lower()}", "port": 53, "protocol": kind} for kind in ("UDP", "TCP")]
        spec = {
            "clusterIP": SERVICE[0], "clusterIPs": [*SERVICE], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack", "ports": ports,
        }  # fmt: skip
        metadata = {"name": "kube-dns", "namespace": "kube-system"}
        existing = {each["metadata"]["name"] for each in await api.list(NAMESPACES, into=dict)}
        if "kube-system" not in existing:
            await api.create(NAMESPACES, {"metadata": {"name": "kube-system"}}, into=dict)
        await api.create(SERVICES, {"metadata": metadata, "spec": spec}, into=dict)
        for v6, family in enumerate(("IPv4", "IPv6")):
            entries = [{"addresses": [self.pods[name].addresses[v6]], "nodeName": SERVERS[name]} for name in SERVERS]
            document = {
                "metadata": {**metadata, "name": f"kube-dns-{family.lower()}", "labels": {SERVICE_NAME: "kube-dns"}},
                "addressType": family,
                "ports": [{**port, "port": BACKING} for port in ports],
                "endpoints": [{**entry, "conditions": {"ready": True}} for entry in entries],
            }
            await api.create(ENDPOINTSLICES, document, into=dict)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with live_lab("nodecache", "--nodes", "2", "--no-demo", "--no-dns", "--dual-stack") as live:
        made = World(live, tmp_path_factory.mktemp("dns"))
        made.know(web="192.0.2.1")
        command = [sys.executable, str(Path(__file__).with_name("dns_standin.py")), str(made.names), str(BACKING)]
        for name, node in SERVERS.items():
            live.create_pod(name, node, command=command)
        for name, node in CLIENTS.items():
            live.create_pod(name, node)
        for name in (*SERVERS, *CLIENTS):
            made.pods[name] = until(lambda name=name: live.running(name), f"pod {name} runs", 20.0)  # type: ignore[misc]
        live.api(made.create)
        for address in SERVICE:
            until(lambda address=address: ask(made.netns(), address, tries=1).said, "the Service answers", 20.0)  # type: ignore[misc]
        yield made


@pytest.fixture
def cached(world: World) -> World:
    world.know(web="192.0.2.1")
    world.on()
    return world


class Asking:
    """A pod that asks every 20 ms, each question with one repetition after a second."""

    def __init__(self, where: str, server: str) -> None:
        self.heard: list[tuple[float, Heard]] = []
        self._where, self._server = where, server
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def _one(self) -> None:
        began = time.monotonic()
        self.heard.append((began, ask(self._where, self._server)))

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._threads.append(threading.Thread(target=self._one))
            self._threads[-1].start()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        runner = threading.Thread(target=self._run)
        runner.start()
        try:
            yield
        finally:
            self._over.set()
            runner.join()
            for thread in self._threads:
                thread.join()

    def check(self) -> None:
        """Everyone was answered."""
        assert self.heard
        assert {heard.said for _, heard in self.heard} == {"192.0.2.1"}

    def outage(self) -> float:
        """For how long questions were not answered at once, in seconds."""
        late = [began for began, heard in self.heard if heard.seconds >= 0.9]
        return max(late) - min(late) + 0.02 if late else 0.0


@pytest.mark.parametrize("mode", MODES)
def test_it_answers_at_its_addresses_untracked(cached: World, mode: str) -> None:
    live = cached.live
    live.configure(proxy={"mode": mode})
    until(cached.up, "the mode is changed", 30.0)
    cached.know(web="192.0.2.1", **{mode: "192.0.2.7"})
    name = f"{mode}.default.svc.cluster.local"
    assert ask(cached.netns(), SERVICE[0], name).said == "192.0.2.7", "the cache asks for what it has not"
    live.run("node1", "conntrack -F", code=None)
    for place in (cached.netns(), "node1"):
        for address in (*SERVICE, *LOCAL):
            for tcp in (False, True):
                assert ask(live.netns(place), address, tcp=tcp).said == "192.0.2.1", (place, address, tcp)
    tracked = "".join(live.run("node1", f"conntrack -L -f {family}", code=None) for family in ("ipv4", "ipv6"))
    mine = [line for line in tracked.splitlines() if f"dst={cached.pods['client'].addresses[0]}" in line]
    assert not [line for line in mine if "dport=53 " in line], tracked
    assert not [line for line in tracked.splitlines() if any(f"dst={at} " in line for at in (*SERVICE, *LOCAL))]
    live.configure(proxy={"mode": "nftables"})


def test_a_killed_cache_costs_nobody_an_answer(cached: World) -> None:
    """A process that is killed is there again at once, with the sockets of the dead one."""
    for server in (SERVICE[0], LOCAL[0], SERVICE[1]):
        asking, before = Asking(cached.netns(), server), cached.pid()
        with asking.going_on():
            time.sleep(0.3)
            os.kill(before, signal.SIGKILL)
            until(lambda before=before: cached.pid() not in (0, before), "another one runs")  # type: ignore[misc]
            time.sleep(0.5)
        asking.check()
        assert asking.outage() < 1.0
        until(cached.up, "the cache answers again")


def test_a_cache_that_hangs_falls_through_within_a_second(cached: World) -> None:
    for server in (SERVICE[0], LOCAL[0]):
        asking, before = Asking(cached.netns(), server), cached.pid()
        with asking.going_on():
            time.sleep(0.3)
            os.kill(before, signal.SIGSTOP)
            until(lambda: cached.status()["dnsCache"] is False, "it is noticed", 3.0)
            assert ask(cached.live.netns("node1"), server).said == "192.0.2.1"
            until(lambda before=before: cached.pid() not in (0, before), "it is killed and started again")  # type: ignore[misc]
            until(cached.up, "the cache answers again")
            time.sleep(0.3)
        asking.check()
        print(f"fell through after {asking.outage():.2f} s")
        assert asking.outage() < 1.0


def test_a_cache_that_can_not_be_started_falls_through(cached: World) -> None:
    """Its folder is in the way, so that nothing can be started there."""
    log = Path(cached.live.lab.node("node1").state_dir) / "daemons" / NAME / "log"
    asking = Asking(cached.netns(), SERVICE[0])
    with asking.going_on():
        time.sleep(0.3)
        log.unlink()
        log.mkdir()
        try:
            os.kill(cached.pid(), signal.SIGKILL)
            until(lambda: cached.status()["dnsCache"] is False, "it is noticed", 3.0)
            time.sleep(0.5)
        finally:
            log.rmdir()
        until(cached.up, "the cache answers again", 20.0)
        time.sleep(0.3)
    asking.check()
    print(f"fell through after {asking.outage():.2f} s")
    assert asking.outage() < 1.0


def test_the_cache_outlives_its_agent(cached: World) -> None:
    before, asking = cached.pid(), Asking(cached.netns(), LOCAL[0])
    with asking.going_on():
        with cached.live.without("agent-node1"):
            time.sleep(0.5)
        until(cached.up, "the agent is back")
    asking.check()
    assert asking.outage() == 0.0
    assert cached.pid() == before
    os.kill(before, signal.SIGKILL)
    until(lambda: cached.pid() not in (0, before), "the new agent watches it")
    until(cached.up, "the cache answers again")


def test_a_new_name_is_answered_although_it_was_asked_before(cached: World) -> None:
    for number in range(3):
        name, address = f"late-{number}", f"10.96.1.{number + 1}"
        full = f"{name}.default.svc.cluster.local"
        assert ask(cached.netns(), SERVICE[0], full).said == "NXDOMAIN"
        cached.know(web="192.0.2.1", **{name: address})
        assert ask(cached.netns(), SERVICE[0], full).said == "NXDOMAIN", "the cache remembers"
        cached.live.api(partial(_create, name=name, address=address))
        _purged(cached, full, address)


def test_an_old_address_is_forgotten_although_it_was_asked_before(cached: World) -> None:
    """Of a Service that is made anew with another one, and deleted at last."""
    name, old, new = "moved", "10.96.1.11", "10.96.1.12"
    full = f"{name}.default.svc.cluster.local"
    cached.know(web="192.0.2.1", **{name: old})
    cached.live.api(partial(_create, name=name, address=old))
    until(lambda: ask(cached.netns(), SERVICE[0], full).said == old, "it is there", 5.0)
    cached.know(web="192.0.2.1", **{name: new})
    assert ask(cached.netns(), SERVICE[0], full).said == old, "the cache remembers"

    async def replace(api: Api) -> None:
        await api.delete(SERVICES, name, "default")
        await _create(api, name, new)

    cached.live.api(replace)
    _purged(cached, full, new)
    cached.know(web="192.0.2.1")
    assert ask(cached.netns(), SERVICE[0], full).said == new, "the cache remembers"
    cached.live.api(lambda api: api.delete(SERVICES, name, "default"))
    _purged(cached, full, "NXDOMAIN")


async def _create(api: Api, name: str, address: str) -> None:
    spec = {"ports": [{"port": 80}], "clusterIP": address}
    await api.create(SERVICES, {"metadata": {"name": name, "namespace": "default"}, "spec": spec}, into=dict)


def _purged(world: World, name: str, said: str) -> None:
    """The cache answers so now, soon after the change."""
    began = time.monotonic()
    until(lambda: ask(world.netns(), SERVICE[0], name).said == said, f"{name} is {said}", 5.0)
    print(f"purged after {time.monotonic() - began:.3f} s")


def test_a_flooding_pod_is_limited_and_named(cached: World) -> None:
    """What it takes from others is compared with the same flood to where nobody is. Without a limit they lose answers;
    a busy machine has delays of its own, which differ by more than what is looked for."""
    cached.on(rateLimit=500)
    with _flood(cached.netns("flooder"), "192.0.2.9"):
        aside = _p99(cached)
    with _flood(cached.netns("flooder"), SERVICE[0]):
        until(lambda: cached.status()["dnsLimited"] == ["default/flooder"], "the flood is told of")
        limited = _p99(cached)
    print(f"p99 beside a flood {limited:.2f} ms, {aside:.2f} when it is not for DNS")
    assert limited <= max(2 * aside, 50)
    cached.on(rateLimit=2000)


def _p99(world: World) -> float:
    """Of 800 questions, in milliseconds; fewer a second than are allowed."""
    heard = []
    for _ in range(800):
        heard.append(ask(world.netns(), SERVICE[0], tries=1))
        time.sleep(0.003)
    assert {each.said for each in heard} == {"192.0.2.1"}, "some were lost"
    return sorted(each.seconds for each in heard)[-8] * 1e3


FLOOD = """
import socket, sys
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.connect((sys.argv[1], 53))
query = bytes.fromhex(sys.argv[2])
while True:
    try:
        channel.send(query)
    except OSError:  # said of an earlier one
        pass
"""


@contextmanager
def _flood(where: str, server: str) -> Iterator[None]:
    """As fast as one process can, which is nice: it is the cache that is tried, not the scheduler."""
    query = dns.question(7, dns.name(WEB), dns.A).hex()
    words = ["nice", "nsenter", f"--net={where}", sys.executable, "-c", FLOOD, server, query]
    flood = subprocess.Popen(words)
    try:
        yield
    finally:
        flood.kill()
        flood.wait()


def test_off_is_gone(cached: World) -> None:
    asking = Asking(cached.netns(), SERVICE[0])
    with asking.going_on():
        cached.off()
    asking.check()
    assert asking.outage() == 0.0
    assert cached.status()["dnsCache"] is None
    said = cached.live.run("node1", "ip -o address") + cached.live.run("node1", "ip -o link")
    assert "podnet-dns" not in said
    table = cached.live.run("node1", "nft list table inet podnet-dns")
    assert LOCAL[0] not in table
    assert "10.96.0.10" in table, "pods are limited all the same"
    cached.live.configure(dns={"rateLimit": 0})
    until(lambda: "podnet-dns" not in cached.live.run("node1", "nft list tables"), "nothing is left")
    cached.live.configure(dns={"rateLimit": 2000})
