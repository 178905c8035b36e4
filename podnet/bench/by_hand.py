"""What podnet is compared with on the path: two nodes with a pod each, wired by somebody who types `ip` commands.

The nodes and the link between them are those of a lab, so that nothing differs but what podnet makes: here a bridge, a
veth pair, forwarding and the routes to the other node, and no nftables at all unless asked for: what masquerades must
track connections, which costs each packet something, whoever asks for it.
"""

from __future__ import annotations

import os
import subprocess

from podnet.kernel import netns
from podnet.lab import fabric, registry
from podnet.lab.registry import Lab, LabNode

OVERHEAD = {"host-gw": 0, "vxlan": 50}

Pods = tuple[tuple[str, str], ...]
"""(path of the namespace, address) of each pod."""


_MASQUERADE = "ip saddr 10.99.0.0/16 ip daddr != 10.99.0.0/16 masquerade"


def build(backend: str, name: str = "hand", masquerade: bool = False) -> Pods:
    """The pods of both nodes. The folder of that lab name must not exist yet."""
    lab = _lab(registry.folder(name))
    os.makedirs(os.path.dirname(lab.fabric_netns))
    fabric.make_fabric(lab)
    for node in lab.nodes:
        fabric.make_node(lab, node)
    pods = tuple(_pod(lab, node, fabric.MTU - OVERHEAD[backend]) for node in lab.nodes)
    one, two = lab.nodes
    for me, peer in ((one, two), (two, one)):
        _vxlan(me, peer) if backend == "vxlan" else _host_gw(me, peer)
        if masquerade:
            rules = f"table ip hand {{ chain out {{ type nat hook postrouting priority srcnat\n{_MASQUERADE}\n}}\n}}"
            subprocess.run(["nsenter", f"--net={me.netns}", "nft", rules], check=True)
    return pods


def _lab(folder: str) -> Lab:
    nodes = tuple(registry.make_node(folder, number, dual_stack=False) for number in (1, 2))
    return Lab(name=os.path.basename(folder), folder=folder, port=0, nodes=nodes)


def _pod(lab: Lab, node: LabNode, mtu: int) -> tuple[str, str]:
    path, cidr = f"{lab.folder}/netns/pod{node.number}", _range(node)
    fabric.make_namespace(path)
    fabric.configure(
        node.netns,
        [
            f"link add cni0 mtu {mtu} type bridge",
            f"address add {cidr}.1/24 dev cni0",
            "link set cni0 up",
            f"link add veth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {path}",
            "link set veth0 master cni0 up",
        ],
    )
    fabric.configure(path, ["link set eth0 up", f"address add {cidr}.2/24 dev eth0", f"route add default via {cidr}.1"])
    with netns.inside(node.netns), open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")
    return path, f"{cidr}.2"


def _range(node: LabNode) -> str:
    return f"10.99.{node.number}"


def _host_gw(me: LabNode, peer: LabNode) -> None:
    fabric.configure(me.netns, [f"route add {_range(peer)}.0/24 via {peer.addresses[0]}"])


def _vxlan(me: LabNode, peer: LabNode) -> None:
    vtep, mac = f"{_range(peer)}.0", _mac(peer)
    fabric.configure(
        me.netns,
        [
            f"link add vxlan1 mtu {fabric.MTU - OVERHEAD['vxlan']} type vxlan id 1 dev eth0 dstport 8472 nolearning",
            f"link set vxlan1 address {_mac(me)}",
            f"address add {_range(me)}.0/32 dev vxlan1",
            "link set vxlan1 up",
            f"neighbour add {vtep} lladdr {mac} dev vxlan1 nud permanent",
            f"route add {vtep}/24 via {vtep} dev vxlan1 onlink",
        ],
    )
    entry = ["bridge", "fdb", "append", mac, "dev", "vxlan1", "dst", peer.addresses[0]]
    subprocess.run(["nsenter", f"--net={me.netns}", *entry], check=True)


def _mac(node: LabNode) -> str:
    return f"02:00:00:00:00:{node.number:02x}"
