"""What only the node itself knows: the link that carries its address, and what its kernel can do.

Read first and passed on as plain values; nothing here changes anything. What the kernel can do is tried out in a
namespace of its own, which goes away with the trial, because that is the only answer that is always right: a module
may be missing, forbidden, or loaded just by asking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from ipaddress import ip_interface

import msgspec

from podnet.kernel.netlink import NETFILTER, ROUTE, Netlink, NetlinkError
from podnet.kernel.netns import fresh
from podnet.kernel.nft import Library, NftError
from podnet.state.resource import LINK_PREFIX, ROUTE_PROTOCOL
from podnet.wire import conntrack, links, routes, tc
from podnet.wire.conntrack import Pattern
from podnet.wire.links import LinkMessage, VxlanData
from podnet.wire.netlink import Request
from podnet.wire.routes import AddressMessage
from podnet.wire.spelling import IPV4


class Uplink(msgspec.Struct, frozen=True):
    """A link that carries addresses of the node: its name, MTU in bytes, addresses (ip/prefix), the CIDRs whose hosts
    are directly reachable on it; and `local`, the addresses of all links of the node that others can reach. What we put
    there ourselves is not among them, nor what another proxy did."""

    name: str
    mtu: int
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


SERVICES = "kube-ipvs0"
"""The link on which kube-proxy in mode ipvs has the addresses of all Services."""


def uplink(addresses: Collection[str], netns: str = "") -> Uplink | None:
    """The link that carries the first of `addresses` that any link has; None when none has one."""
    with Netlink(ROUTE, netns) as netlink:
        found = [routes.decode_address(body) for body in netlink.dump(routes.dump_addresses())]
        every = {link.index: link for link in map(links.decode, netlink.dump(links.dump()))}
    carriers = {message.address: message.index for message in found}
    index = next((carriers[address] for address in addresses if address in carriers), None)
    if index is None or index not in every:
        return None
    others = {link.index for link in every.values() if link.name == SERVICES or link.name.startswith(LINK_PREFIX)}
    there = [m for m in found if m.scope == routes.UNIVERSE and m.protocol != ROUTE_PROTOCOL and m.index not in others]
    held = tuple(f"{m.address}/{m.prefix}" for m in there if m.index == index)
    prefixes = sorted({str(ip_interface(address).network) for address in held})
    local = sorted({m.address for m in there})
    return Uplink(every[index].name, every[index].mtu or 0, held, tuple(prefixes), tuple(local))


def neighbours_refused() -> int:
    """How often since boot there was no place for a neighbour entry; all namespaces share the table. 0 if unknown."""
    try:
        with open("/proc/net/stat/arp_cache", encoding="ascii") as file:
            names, *cpus = (line.split() for line in file)
    except FileNotFoundError:  # told only in the first namespace
        return 0
    column = names.index("table_fulls")
    return sum(int(values[column], 16) for values in cpus)


def missing() -> dict[str, str]:
    """Modules that this namespace's kernel does without, and why; whoever loads one later is seen at the next look."""
    return {name: "this kernel has none" for name, path in _MODULES.items() if not os.path.exists(path)}


_MODULES = {"ip_vs": "/proc/net/ip_vs", "br_netfilter": "/proc/sys/net/bridge/bridge-nf-call-iptables"}


def features() -> dict[str, str | None]:
    """What podnet needs of a kernel: None where it works, else why not. Works in a namespace that is thrown away."""
    try:
        with fresh(), Netlink(ROUTE) as netlink:
            return {name: _why_not(trial, netlink) for name, trial in _TRIALS.items()}
    except PermissionError:
        return dict.fromkeys(_TRIALS, "needs root to be tried")


def _why_not(trial: Callable[[Netlink], None], netlink: Netlink) -> str | None:
    try:
        trial(netlink)
    except NftError as error:
        return error.failure.text
    except NetlinkError as error:
        return error.strerror
    except OSError as error:
        return str(error)
    return None


def _do(netlink: Netlink, *requests: Request) -> None:
    for problem in netlink.write(requests).values():
        raise NetlinkError(problem.errno, problem.text or os.strerror(problem.errno))


def _try_bridge(netlink: Netlink) -> None:
    _do(netlink, links.create(LinkMessage(name="bridge", kind="bridge")))


def _try_veth(netlink: Netlink) -> None:
    _do(netlink, links.create(LinkMessage(name="veth", kind="veth", peer=LinkMessage(name="peer"))))


def _try_vxlan(netlink: Netlink) -> None:
    _do(netlink, links.create(LinkMessage(name="vxlan", kind="vxlan", vxlan=VxlanData(1, 8472, learning=False))))


def _try_ipv6(netlink: Netlink) -> None:
    _do(netlink, routes.add_address(AddressMessage(_index(netlink, "lo"), "fd00::1", 128)))


def _try_shaper(netlink: Netlink) -> None:
    _do(netlink, tc.shape(_index(netlink, "lo"), 1_000_000, 1_000_000))


def _try_redirect(netlink: Netlink) -> None:
    _do(netlink, links.create(LinkMessage(name="ifb", kind="ifb")))
    lo, ifb = _index(netlink, "lo"), _index(netlink, "ifb")
    _do(netlink, tc.ingress(lo), tc.redirect(lo, ifb))


def _index(netlink: Netlink, name: str) -> int:
    return links.decode(netlink.get(links.get(name))).index


def _run_nft(commands: str) -> None:
    library = Library("")
    try:
        library.run(commands)
    finally:
        library.close()


def _try_conntrack(_netlink: Netlink) -> None:
    with Netlink(NETFILTER) as netlink:
        netlink.dump(conntrack.dump(Pattern(IPV4)))


_MAPS = """table inet trial {
    map data { typeof ip daddr . meta l4proto . th dport . numgen random mod 4 : ip daddr . th dport; }
    map verdicts { type ipv4_addr . inet_proto . inet_service : verdict; }
    chain every {
        type filter hook forward priority 0;
        ct state established accept;
        ip daddr . meta l4proto . th dport vmap @verdicts;
    }
}"""
_NAT = """table inet nat-trial {
    chain every {
        type nat hook postrouting priority 100;
        masquerade;
    }
}"""

_TRIALS: dict[str, Callable[[Netlink], None]] = {
    "bridge": _try_bridge,
    "veth": _try_veth,
    "vxlan": _try_vxlan,
    "ipv6": _try_ipv6,
    "shaper": _try_shaper,
    "redirect": _try_redirect,
    "nftables": lambda _: _run_nft(_MAPS),
    "nat": lambda _: _run_nft(_NAT),
    "conntrack": _try_conntrack,
}
"""Each feature that podnet uses and how it is tried."""
