"""A tiny cluster made by hand with plain `ip`: what the prober is let loose on, with faults put in on purpose.

    a1, a2 -- node1 ==== node2 -- b1        dual-stack, routed like host-gw, MTU 1500

Every namespace is a bind mount in a scratch folder; nothing is made in the machine's own namespace.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podnet.kernel import netns
from podnet.network.reach import Endpoint

PODS = {"a1": ("node1", 1, 2), "a2": ("node1", 1, 3), "b1": ("node2", 2, 2)}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Handmade:
    """The cluster, and hands to break it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoints: list[Endpoint] = []

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, name: str, *argv: str, text: str = "") -> str:
        """Run a command in a namespace; it must succeed."""
        command = ["nsenter", f"--net={self.path(name)}", *argv]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, name: str, *lines: str) -> None:
        self.run(name, "ip", "-batch", "-", text="\n".join(lines))

    def nft(self, name: str, rules: str) -> None:
        self.run(name, "nft", "-f", "-", text=rules)

    def sysctl(self, name: str, parameter: str, value: str) -> None:
        with netns.inside(self.path(name)):
            Path("/proc/sys", parameter).write_text(value)

    def add(self, name: str) -> None:
        netns.remove(self.path(name))
        netns.create(self.path(name))
        self.ip(name, "link set lo up")

    def node(self, number: int) -> None:
        name = f"node{number}"
        self.add(name)
        self.sysctl(name, "net/ipv4/ip_forward", "1")
        self.sysctl(name, "net/ipv6/conf/all/forwarding", "1")
        addresses = (f"10.9.0.{number}", f"fd00:9::{number}")
        self.endpoints.append(Endpoint(name, name, "node", name, self.path(name), addresses, "up0"))

    def wire(self) -> None:
        self.ip("node1", f"link add up0 type veth peer name up0 netns {self.path('node2')}")
        for one, other in ((1, 2), (2, 1)):
            self.ip(
                f"node{one}",
                f"addr add 10.9.0.{one}/24 dev up0",
                f"addr add fd00:9::{one}/64 dev up0 nodad",
                "link set up0 up",
                f"route add 10.1.{other}.0/24 via 10.9.0.{other}",
                f"route add fd00:1:{other}::/64 via fd00:9::{other}",
            )

    def pod(self, name: str, listed_first: float = 0.0) -> Endpoint:
        """Make a pod; `listed_first` is how many seconds it is listed before it is connected."""
        node, net, host = PODS[name]
        v4, v6 = f"10.1.{net}.{host}", f"fd00:1:{net}::{host}"
        endpoint = Endpoint(f"{name}/eth0", f"default/{name}", "pod", node, self.path(name), (v4, v6), "eth0")
        self.add(name)
        self.endpoints.append(endpoint)
        time.sleep(listed_first)
        self.ip(node, f"link add {name} type veth peer name eth0 netns {self.path(name)}")
        self.ip(
            node,
            f"addr add 169.254.1.1/32 dev {name}",
            f"addr add fe80::1/64 dev {name} nodad",
            f"link set {name} up",
            f"route add {v4} dev {name}",
            f"route add {v6} dev {name}",
        )
        self.ip(
            name,
            f"addr add {v4}/32 dev eth0",
            f"addr add {v6}/128 dev eth0 nodad",
            "link set eth0 up",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1 dev eth0",
            "route add default via fe80::1 dev eth0",
        )
        return endpoint

    def close(self) -> None:
        for path in self.folder.iterdir():
            netns.remove(str(path))


@contextmanager
def handmade(folder: Path) -> Iterator[Handmade]:
    made = Handmade(folder)
    try:
        for number in (1, 2):
            made.node(number)
        made.wire()
        for name in PODS:
            made.pod(name)
        yield made
    finally:
        made.close()
