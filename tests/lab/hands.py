"""Someone else's hands: a node's namespace with an uplink, changed through `ip`, `bridge`, `tc`, `nft` and `sysctl`.

Every namespace is a bind mount in a scratch folder; nothing is made in the machine's own namespace.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podnet.kernel import netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.monitor import Event, Monitor
from podnet.state.host import Daemon, Sysctl
from podnet.state.links import Link, PodLink, Redirect, Shaper
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step
from podnet.state.resource import Resource
from podnet.state.routes import Address, FdbEntry, Neighbour, Route
from tests.kernel.contract import UPLINK, UPLINK_ADDRESSES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class KernelNode:
    """A node's namespace, its dataplane and monitor, pods, and ways to disturb them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._names: list[str] = []
        self.netns = self.pod()
        self.run(f"ip link add {UPLINK} type veth peer name cable")
        for name in ("lo", "cable", UPLINK):
            self.quiet(name)
            self.run(f"ip link set {name} up")
        for address in UPLINK_ADDRESSES:
            self.run(f"ip addr add {address} dev {UPLINK} {'nodad' if ':' in address else ''}")
        self.plane = KernelDataplane(str(folder), self.netns)
        self.monitor = Monitor(self.netns, self.plane.own)
        # The kernel tells of an IPv6 address when it gets round to it.
        last = Address(UPLINK, "fd00::ffff/64")
        self.run(f"ip addr add {last.address} dev {UPLINK} nodad")
        wait_for(lambda: ("foreign", last) in self.events())
        self.run(f"ip addr del fd00::ffff/64 dev {UPLINK}")
        self.events()

    def close(self) -> None:
        for daemon in self.plane.daemons.read({}):
            self.plane.apply(Plan((Step("delete", daemon),)))
        self.plane.close()
        self.monitor.close()
        for path in self._names:
            netns.remove(path)

    def quiet(self, name: str) -> None:
        """A link of others that gets no IPv6 link-local address, whose coming would be told at any later time."""
        self.run(f"ip link set {name} addrgenmode none")

    def run(self, command: str, where: str | None = None, text: str = "") -> str:
        """Run a command line in a namespace (the node's); it must succeed."""
        words = ["nsenter", f"--net={where or self.netns}", *command.split()]
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def nft(self, commands: str) -> str:
        """Run nft commands in the node's namespace."""
        return self.run("nft -f -", text=commands)

    def pod(self) -> str:
        path = str(self.folder / f"ns{next(self._numbers)}")
        netns.create(path)
        self._names.append(path)
        return path

    def end(self, pod: str) -> None:
        """Its links go with it, but the kernel does that later: wait until they are gone."""
        before = self._links()
        inside = {line.split(":")[1].strip().split("@")[0] for line in self.run("ip -o link", pod).splitlines()} - {
            "lo"
        }
        netns.remove(pod)
        if inside:
            wait_for(lambda: self._links() != before)

    def _links(self) -> str:
        return self.run("ip -o -br link")

    def events(self) -> list[Event]:
        return [*self.monitor.read(), *self.plane.daemons.deaths.read()]

    def lose(self, resource: Resource) -> None:
        match resource:
            case Link(name=name):
                self.run(f"ip link del {name}")
            case Address(dev=dev, address=address, netns=where):
                self.run(f"ip addr del {address} dev {dev}", where)
            case Route(dst=dst, netns=where):
                self.run(f"ip route del {dst}", where)
            case Neighbour(dev=dev, address=address):
                self.run(f"ip neigh del {address} dev {dev}")
            case FdbEntry(dev=dev, mac=mac, dst=dst):
                self.run(f"bridge fdb del {mac} dev {dev} dst {dst}")
            case Shaper(dev=dev):
                self.run(f"tc qdisc del dev {dev} root")
            case Redirect(dev=dev):
                self.run(f"tc qdisc del dev {dev} ingress")
            case NftTable(family=family, name=name):
                self.nft(f"delete table {family} {name}")
            case Element(family=family, table=table, set=name, element=element):
                self.nft(f"delete element {family} {table} {name} {{ {element} }}")
            case Daemon(name=name):
                self.plane.daemons.signal(name, signal.SIGKILL)
                wait_for(lambda: resource.key not in self.plane.read({}, frozenset({"Daemon"})))
            case _:
                raise AssertionError(resource)

    def spoil(self, resource: Resource) -> None:
        match resource:
            case Link(name=name, mtu=mtu, up=up):
                self.run(f"ip link set {name} mtu {mtu} {'up' if up else 'down'}")
            case PodLink(name=name, mtu=mtu, netns=where):
                self.run(f"ip link set {name} mtu {mtu}", where)
            case Route(dst=dst, via=via, dev=dev):
                self.run(f"ip route replace {dst} via {via} dev {dev}")
            case Neighbour(dev=dev, address=address, mac=mac):
                self.run(f"ip neigh replace {address} lladdr {mac} dev {dev}")
            case FdbEntry(dev=dev, mac=mac, dst=dst):
                self.run(f"bridge fdb replace {mac} dev {dev} dst {dst}")
            case Shaper(dev=dev, rate=rate, burst=burst):
                self.run(f"tc qdisc replace dev {dev} root handle 1: tbf rate {rate} burst {burst // 8} latency 25ms")
            case NftTable(family=family, name=name):
                self.nft(f"add chain {family} {name} more")
            case Element(family=family, table=table, set=name, element=element, value=value):
                place = f"element {family} {table} {name}"
                self.nft(f"delete {place} {{ {element} }}\nadd {place} {{ {element} : {value} }}")
            case Sysctl(name=name, value=value):
                self.run(f"sysctl -qw {name}={value}")
            case _:
                raise AssertionError(resource)


def wait_for(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds; it must within `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@contextmanager
def kernel_node(folder: Path) -> Iterator[KernelNode]:
    """A node that is gone afterwards."""
    node = KernelNode(folder)
    try:
        yield node
    finally:
        node.close()
