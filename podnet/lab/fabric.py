"""The machines of a lab: a namespace per node and one for the bridge between them.

    fabric   fabric0  192.168.77.1/24   the link; the API server listens on it
    nodeN    eth0     192.168.77.1N/24  a veth whose other end, nodeN, is a port of fabric0

A dual-stack lab has fd77::1/64 and fd77::1N/64 as well. There is no way out, and nothing is made in the machine's own
namespace: both ends of every veth are born inside. All functions may be repeated; they add what is missing.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from podnet.errors import UserError
from podnet.kernel import netns
from podnet.lab.process import identity
from podnet.lab.registry import SUBNET4, SUBNET6, Lab, LabNode

BRIDGE = "fabric0"
MAC = "0a:58:c0:a8:4d:01"
"""A bridge without a MAC of its own takes one of its ports', and another when that port goes: then the API server is
out of the nodes' reach until their ARP caches expire."""

MTU = 1500


def exists(path: str) -> bool:
    """Whether a namespace is mounted at a path."""
    return identity(path) is not None


def make_namespace(path: str) -> None:
    """A namespace at a path; one that is there stays. A name that lost its mount (a reboot) is used again."""
    if not exists(path):
        netns.remove(path)
        netns.create(path)


def configure(path: str, lines: list[str]) -> None:
    """Run lines of `ip -batch` inside a namespace. Raises UserError with ip's words when the kernel refuses."""
    done = subprocess.run(
        ["nsenter", f"--net={path}", "ip", "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"the lab's network can't be made: {done.stderr.strip().splitlines()[0]}")


def links(path: str) -> set[str]:
    """The names of the links in a namespace."""
    done = subprocess.run(
        ["nsenter", f"--net={path}", "ip", "-o", "link", "show"], capture_output=True, text=True, check=True
    )
    return {line.split(": ")[1].partition("@")[0] for line in done.stdout.splitlines()}


def make_fabric(lab: Lab) -> bool:
    """The bridge's namespace; True when it had to be made."""
    if exists(lab.fabric_netns) and BRIDGE in links(lab.fabric_netns):
        return False
    make_namespace(lab.fabric_netns)
    nodes = {node.name for node in lab.nodes}
    six = [f"address add {SUBNET6}:1/64 dev {BRIDGE} nodad"] if lab.dual_stack else []
    configure(
        lab.fabric_netns,
        [
            f"link add {BRIDGE} address {MAC} mtu {MTU} type bridge mcast_snooping 0",
            f"address add {SUBNET4}.1/24 dev {BRIDGE}",
            *six,
            "link set lo up",
            f"link set {BRIDGE} up",
            *(f"link set {name} master {BRIDGE}" for name in sorted(links(lab.fabric_netns) & nodes)),
        ],
    )
    return True


def make_node(lab: Lab, node: LabNode) -> bool:
    """A node's namespace, plugged into the fabric; True when it had to be made."""
    plugged = exists(node.netns) and "eth0" in links(node.netns)
    if plugged:
        return False
    make_namespace(node.netns)
    with suppress(UserError):  # the port of a node that vanished
        configure(lab.fabric_netns, [f"link delete {node.name}"])
    configure(
        lab.fabric_netns,
        [
            f"link add {node.name} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {node.netns}",
            f"link set {node.name} master {BRIDGE} up",
        ],
    )
    four, *six = node.addresses
    configure(
        node.netns,
        [
            "link set lo up",
            "link set eth0 up",
            f"address add {four}/24 dev eth0",
            *(f"address add {address}/64 dev eth0 nodad" for address in six),
        ],
    )
    return True


def remove_node(node: LabNode) -> None:
    """Unmount a node's namespace; its links go with the last process in it."""
    netns.remove(node.netns)


def mounted_below(folder: str) -> list[str]:
    """Every mount at or below a folder, innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split(" ")[4].encode().decode("unicode_escape") for line in file]
    return sorted((point for point in points if f"{point}/".startswith(f"{folder}/")), key=len, reverse=True)


def unmount_below(folder: str) -> None:
    """Take away every mount at or below a folder."""
    while points := mounted_below(folder):
        for point in points:
            netns.remove(point) if os.path.isfile(point) else subprocess.run(["umount", "--lazy", point], check=True)
