"""Gathers what `podnet doctor` looks at, in a node's own namespace; it changes nothing and judges nothing.

Rare and wide, so it asks the usual tools for JSON or text (ip, nft, ethtool, iptables-legacy-save) rather than the
kernel itself. A process starts in the namespace of the thread that starts it, and /proc/thread-self/net and
/proc/sys/net show that thread's. A tool that is missing leaves its part of the survey empty.
"""

from __future__ import annotations

import glob
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from podnet.kernel.facts import features
from podnet.kernel.netns import inside
from podnet.network.checkup.firewall import parse_legacy, parse_nft
from podnet.network.checkup.survey import Agent, Chain, ClusterFacts, CniFile, Link, Port, Route, Survey
from podnet.state.resource import ROUTE_PROTOCOL

SECONDS = 10.0
NET = "/proc/thread-self/net"
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv6/conf/*/accept_ra",
    "net/bridge/bridge-nf-call-iptables",
)
MACHINE_SYSCTLS = ("net/netfilter/nf_conntrack_max", "net/ipv4/neigh/default/gc_thresh3")
"""Limits of the whole machine, which only its first namespace shows."""

ADVERTISED = "9"
"""Route protocol of what an IPv6 router advertised (RTPROT_RA)."""

PROGRAMS = {"NetworkManager": "NetworkManager", "systemd-network": "systemd-networkd"}
"""comm, which is cut at 15 characters, and the program's name."""


class Site(msgspec.Struct, frozen=True):
    """Where to look: the node's namespace ("": this process's own) and its CNI directory."""

    node: str
    netns: str
    conf_dir: str


def survey(site: Site, agent: Agent, cluster: ClusterFacts, problems: tuple[str, ...], attachments: int) -> Survey:
    """The survey of one node. Raises NoNamespace."""
    machine = _sysctls(MACHINE_SYSCTLS)
    with inside(site.netns):
        return Survey(
            node=site.node,
            agent=agent,
            cluster=cluster,
            problems=problems,
            kernel=_kernel(platform.release()),
            links=tuple(_links()),
            routes=tuple(_routes()),
            chains=tuple(_chains()),
            ports=tuple(_ports()),
            sysctls={**machine, **_sysctls(SYSCTLS)},
            flows=int(_sysctls(("net/netfilter/nf_conntrack_count",)).get("net/netfilter/nf_conntrack_count", 0)),
            neighbours=len(_json("ip", "-j", "neigh", "show", "nud", "all")),
            attachments=attachments,
            resolvers=tuple(_resolvers(_read("/etc/resolv.conf"))),
            programs=frozenset(_programs()),
            keeps_foreign_routes=_keeps_foreign_routes(),
            conflists=tuple(_conflists(site.conf_dir)),
            missing={name: reason for name, reason in features().items() if reason},
        )


def _run(*command: str) -> str:
    """What a tool prints; nothing when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _json(*command: str) -> list[dict[str, Any]]:
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(_run(*command), type=list[dict[str, Any]])
    return []


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _kernel(release: str) -> tuple[int, int]:
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _links() -> Iterator[Link]:
    managed = {
        line.split(":")[0]
        for line in _run("nmcli", "-t", "-f", "DEVICE,STATE", "device").splitlines()
        if not line.endswith(":unmanaged")
    }
    for entry in _json("ip", "-j", "-d", "addr"):
        data = entry.get("linkinfo", {})
        details = data.get("info_data", {})
        name, vxlan = entry["ifname"], data.get("info_kind") == "vxlan"
        yield Link(
            name=name,
            kind=data.get("info_kind", ""),
            mtu=entry.get("mtu", 0),
            mac=entry.get("address", ""),
            addresses=tuple(f"{a['local']}/{a['prefixlen']}" for a in entry.get("addr_info", ()) if "local" in a),
            vni=details.get("id", 0) if vxlan else 0,
            port=details.get("port", 0) if vxlan else 0,
            driver="" if data.get("info_kind") else _driver(name),
            checksum_offload=_offload(name) if vxlan else None,
            managed=name in managed,
            master=entry.get("master", ""),
            advertised=any(a.get("dynamic") and ":" in a.get("local", "") for a in entry.get("addr_info", ())),
        )


def _driver(link: str) -> str:
    lines = _run("ethtool", "-i", link).splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("driver: ")), "")


def _offload(link: str) -> bool | None:
    for line in _run("ethtool", "-k", link).splitlines():
        name, _, state = line.strip().partition(": ")
        if name == "tx-checksum-ip-generic":
            return state.startswith("on")
    return None


def _routes() -> Iterator[Route]:
    ours = str(ROUTE_PROTOCOL)
    for flag, default, bits in (("-4", "0.0.0.0/0", 32), ("-6", "::/0", 128)):
        for entry in _json("ip", "-j", "-N", flag, "route", "show", "table", "main"):
            dst = default if entry["dst"] == "default" else entry["dst"]
            dst = dst if "/" in dst else f"{dst}/{bits}"
            protocol = str(entry.get("protocol", ""))
            yield Route(dst, entry.get("dev", ""), protocol == ours, protocol == ADVERTISED)


def _chains() -> Iterator[Chain]:
    yield from parse_nft(_run("nft", "-s", "list", "ruleset"))
    for family, command, present in (("ip", "iptables", "ip_tables_names"), ("ip6", "ip6tables", "ip6_tables_names")):
        # Asking makes the legacy table if it is not there yet, so look first.
        there = _read(f"{NET}/{present}").split()
        for table in ("filter", "nat"):
            if table in there:
                yield from parse_legacy(_run(f"{command}-legacy-save", "-t", table), family, table)


def _ports() -> Iterator[Port]:
    """Open UDP ports. The kernel's own sockets, such as a tunnel's, belong to no process."""
    opened: dict[str, int] = {}
    for name in ("udp", "udp6"):
        for line in _read(f"{NET}/{name}").splitlines()[1:]:
            words = line.split()
            opened[words[9]] = int(words[1].rpartition(":")[2], 16)
    owners = _owners(set(opened)) if opened else {}
    for inode, number in opened.items():
        yield Port(number, owners.get(inode, ""))


def _owners(inodes: set[str]) -> dict[str, str]:
    """Which program holds which socket."""
    found: dict[str, str] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        with suppress(OSError):
            if inode := wanted.get(os.readlink(path)):
                found[inode] = _read(f"/proc/{path.split('/')[2]}/comm").strip()
    return found


def _sysctls(patterns: Iterable[str]) -> dict[str, str]:
    paths = (path for pattern in patterns for path in glob.iglob(f"/proc/sys/{pattern}"))
    return {path.removeprefix("/proc/sys/"): _read(path).strip() for path in paths}


def _resolvers(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            yield words[1]


def _programs() -> Iterator[str]:
    """Those of PROGRAMS that run in this namespace."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    for path in glob.iglob("/proc/[0-9]*/comm"):
        with suppress(OSError):
            name = PROGRAMS.get(_read(path).strip())
            if name and os.stat(f"{os.path.dirname(path)}/ns/net").st_ino == here:
                yield name


def _keeps_foreign_routes() -> bool:
    files = [
        path for root in ("/usr/lib", "/run", "/etc") for path in sorted(glob.glob(f"{root}/systemd/networkd.conf*"))
    ]
    files += [path for folder in files if os.path.isdir(folder) for path in sorted(glob.glob(f"{folder}/*.conf"))]
    words = [line.strip().lower() for path in files for line in _read(path).splitlines()]
    said = [line.partition("=")[2] for line in words if line.startswith("manageforeignroutes=")]
    return bool(said) and said[-1] in ("no", "false", "0", "off")


def _conflists(folder: str) -> Iterator[CniFile]:
    """What libcni would read: .conflist, .conf and .json, in the order of names."""
    for path in sorted(glob.glob(f"{glob.escape(folder)}/*")):
        name = os.path.basename(path)
        if name.endswith((".conflist", ".conf", ".json")):
            yield _conflist(name, _read(path))


def _conflist(name: str, text: str) -> CniFile:
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
        plugins = document["plugins"] if name.endswith(".conflist") else [document]
        return CniFile(name, tuple(str(plugin["type"]) for plugin in plugins))
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        return CniFile(name, fault=f"not a CNI configuration ({error})")
