"""What a node's and a pod's kernel show of a scheme, by `ip -d -j` and `bridge -j`: flannel's and Calico's shapes."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

from tests.lab.labs import LiveLab, Place

MTU = {("host-gw", False): 1500, ("host-gw", True): 1500, ("vxlan", False): 1450, ("vxlan", True): 1430}
"""By backend and whether the lab is dual-stack; the uplink's is 1500."""

ROUTER = "ee:ee:ee:ee:ee:ee"


def show(live: LiveLab, place: str, command: str) -> list[dict[str, Any]]:
    """A command's JSON."""
    found: list[dict[str, Any]] = json.loads(live.run(place, command) or "[]")
    return found


def toward(live: LiveLab, node: str, what: str, address: str) -> list[dict[str, Any]]:
    """The routes or neighbours for an address or a range."""
    return show(live, node, f"ip -j {'-6' if ':' in address else '-4'} {what} show {address}")


def devices(live: LiveLab, node: str) -> dict[str, dict[str, Any]]:
    """The VXLAN devices of a node by name."""
    return {link["ifname"]: link for link in show(live, node, "ip -d -j link show type vxlan")}


def vxlan_shape(live: LiveLab, vni: int, port: int) -> None:
    """flannel's: a device a family, and to each peer a route, a permanent neighbour and a forwarding entry."""
    nodes = {node.name: node for node in live.lab.nodes}
    cidrs = {name: node["spec"]["podCIDRs"] for name, node in live.nodes().items()}
    made = {name: devices(live, name) for name in nodes}
    for name, node in nodes.items():
        assert len(made[name]) == len(node.addresses), f"{name} has {list(made[name])}"
        by_address = {link["linkinfo"]["info_data"].get("local") or link["linkinfo"]["info_data"]["local6"]: link
                      for link in made[name].values()}  # fmt: skip
        for family, address in enumerate(node.addresses):
            link = by_address[address]
            about = link["linkinfo"]["info_data"]
            assert (about["id"], about["port"], about["link"]) == (vni, port, "eth0")
            assert (about["learning"], link["mtu"], "UP" in link["flags"]) == (False, 1430 if family else 1450, True)
            own = show(live, name, f"ip -j {'-6' if family else '-4'} address show dev {link['ifname']} scope global")
            assert [(each["local"], each["prefixlen"]) for each in own[0]["addr_info"] if each] == [
                (str(ip_network(cidrs[name][family])[0]), 128 if family else 32)
            ]
            for peer in nodes.keys() - {name}:
                remote = next(
                    other for other in made[peer].values()
                    if (other["linkinfo"]["info_data"].get("local6") is not None) == bool(family)
                )  # fmt: skip
                _tunnelled(
                    live, name, link["ifname"], cidrs[peer][family], nodes[peer].addresses[family], remote["address"]
                )


def _tunnelled(live: LiveLab, node: str, dev: str, cidr: str, address: str, mac: str) -> None:
    vtep = cidr.partition("/")[0]
    (route,) = toward(live, node, "route", cidr)
    assert (route["gateway"], route["dev"], route["flags"]) == (vtep, dev, ["onlink"])
    (neighbour,) = toward(live, node, "neigh", vtep)
    assert (neighbour["dev"], neighbour["lladdr"], neighbour["state"]) == (dev, mac, ["PERMANENT"])
    entries = [entry for entry in show(live, node, f"bridge -j fdb show dev {dev}") if entry["mac"] == mac]
    assert [(entry["dst"], entry["flags"], entry["state"]) for entry in entries] == [(address, ["self"], "permanent")]


def direct_shape(live: LiveLab, tunnels: bool = False) -> None:
    """A route to each peer's pods over the peer; and no device, unless it is vxlan that needs none on this link."""
    cidrs = {name: node["spec"]["podCIDRs"] for name, node in live.nodes().items()}
    for node in live.lab.nodes:
        assert bool(devices(live, node.name)) == tunnels
        for peer in live.lab.nodes:
            for cidr, address in zip(cidrs[peer.name], peer.addresses, strict=True) if peer != node else ():
                (route,) = toward(live, node.name, "route", cidr)
                assert (route["gateway"], route["dev"], route["flags"]) == (address, "eth0", [])


def pod_shape(live: LiveLab, pod: Place, attachment: str, mtu: int) -> None:
    """How a pod sees its network, and the node's end of it."""
    (link,) = show(live, pod.netns, "ip -d -j link show eth0")
    assert (link["mtu"], "UP" in link["flags"]) == (mtu, True)
    given = {each["local"]: each["prefixlen"] for each in show(live, pod.netns, "ip -j addr show eth0")[0]["addr_info"]}
    routes = {route["dst"]: route for route in show(live, pod.netns, "ip -j route show")}
    gateway = {"bridge": str(ip_network(f"{pod.addresses[0]}/24", strict=False)[1]), "ptp": "169.254.1.1"}[attachment]
    assert (routes["default"]["gateway"], routes["default"]["dev"]) == (gateway, "eth0")
    prefixes = {"bridge": (24, 64), "ptp": (32, 128)}[attachment]
    for address, prefix in zip(pod.addresses, prefixes, strict=False):
        assert given[address] == prefix
    if attachment == "ptp":
        assert (routes["169.254.1.1"]["scope"], routes["169.254.1.1"]["dev"]) == ("link", "eth0")
        (neighbour,) = show(live, pod.netns, "ip -j neigh show 169.254.1.1")
        assert neighbour["lladdr"] == ROUTER
    node_end(live, pod, attachment, mtu)


def node_end(live: LiveLab, pod: Place, attachment: str, mtu: int) -> None:
    """On a bridge: a port with hairpin. Else: routed to, with proxy ARP and a MAC that is always the same."""
    alias = f"{pod.namespace}/{pod.name} eth0"
    (link,) = (each for each in show(live, pod.node, "ip -d -j link show type veth") if each.get("ifalias") == alias)
    assert (link["mtu"], "UP" in link["flags"]) == (mtu, True)
    if attachment == "bridge":
        assert (link["master"], link["linkinfo"]["info_slave_data"]["hairpin"]) == ("podnet0", True)
        return
    assert (link["address"], "master" in link) == (ROUTER, False)
    for address in pod.addresses:
        (route,) = toward(live, pod.node, "route", address)
        assert route["dev"] == link["ifname"]
        assert "gateway" not in route
    assert live.run(pod.node, f"cat /proc/sys/net/ipv4/conf/{link['ifname']}/proxy_arp") == "1\n"
