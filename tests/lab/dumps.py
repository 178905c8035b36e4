"""What a network namespace holds, read with `ip`, `bridge`, `tc`, `nft` and `sysctl`: none of podnet's own code.

Two dumps are equal when nothing a packet or a person could notice differs. Left out is what the kernel counts, numbers
or invents by itself: ifindexes, timers, statistics, link-local addresses, the MAC of a veth that nobody chose.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

Dump = dict[str, list[str]]
"""Section -> one line of JSON for each object, sorted."""

COMMANDS = {
    "links": "ip -d -j link",
    "addresses": "ip -j address",
    "routes": "ip -j -N route show table all",
    "routes6": "ip -j -N -6 route show table all",
    "rules": "ip -j rule",
    "neighbours": "ip -j neigh show nud permanent",
    "fdb": "bridge -j fdb",
    "qdiscs": "tc -j qdisc",
    "nft": "nft -j list ruleset",
    "sysctls": "cd /proc/sys/net && grep -r . ipv4/ip_forward ipv6/conf/all/forwarding ipv4/conf/*/route_localnet"
    " ipv4/conf/*/proxy_arp ipv4/conf/*/rp_filter ipv6/conf/*/accept_ra",
}
SEPARATOR = "\f"

VOLATILE = frozenset({
    *("ifindex", "link_index", "link_netnsid", "promiscuity", "allmulti", "operstate", "gc_timer", "hello_timer"),
    *("tcn_timer", "topology_change_timer", "bridge_id", "root_id", "valid_life_time", "preferred_life_time", "refcnt"),
    *("handle", "used", "confirmed", "updated", "probes", "num_tx_queues", "num_rx_queues"),
    *("tso_max_size", "tso_max_segs", "gso_max_size", "gso_max_segs", "gro_max_size"),
})  # fmt: skip

PORT_FLAGS = ("hairpin", "guard", "learning", "flood", "isolated", "proxy_arp", "neigh_suppress", "cost", "priority")


def dump(netns: str) -> Dump:
    """Everything in the namespace at a path."""
    script = f"\nprintf '{SEPARATOR}'\n".join(COMMANDS.values())
    done = subprocess.run(
        ["nsenter", f"--net={netns}", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    texts = done.stdout.split(SEPARATOR)
    assert len(texts) == len(COMMANDS), done.stderr
    return {section: sorted(_lines(section, text)) for section, text in zip(COMMANDS, texts, strict=True)}


def difference(before: Dump, after: Dump) -> list[str]:
    """What came (+) and what went (-), for an assertion's message."""
    lines = []
    for section in before:
        lines += [f"- {section} {line}" for line in before[section] if line not in after[section]]
        lines += [f"+ {section} {line}" for line in after[section] if line not in before[section]]
        if len(before[section]) != len(after[section]) and before[section] != after[section]:
            lines.append(f"~ {section}: {len(before[section])} -> {len(after[section])} entries")
    return lines


def _lines(section: str, text: str) -> Iterator[str]:
    if section == "sysctls":
        yield from text.splitlines()
        return
    found = json.loads(text or "[]")
    for each in _nft(found["nftables"]) if section == "nft" else found:
        kept = _JUDGES.get(section, _whole)(each)
        yield from (json.dumps(_stable(one), sort_keys=True) for one in kept)


def _whole(each: Any) -> list[Any]:
    return [each]


def _link(link: dict[str, Any]) -> list[Any]:
    """The flags tell admin state; the MAC of an ifb or a bridged veth is random."""
    kind = link.get("linkinfo", {}).get("info_kind")
    flags = sorted(set(link.pop("flags")) - {"LOWER_UP", "NO-CARRIER", "M-DOWN"})
    if kind == "ifb" or (kind == "veth" and link.get("master")):
        link.pop("address")
    if port := link.get("linkinfo", {}).get("info_slave_data"):
        link["linkinfo"]["info_slave_data"] = {key: port[key] for key in PORT_FLAGS}
    return [link | {"flags": flags}] if link["ifname"] != "lo" else []


def _addresses(link: dict[str, Any]) -> list[Any]:
    return [
        [link["ifname"], each["local"], each["prefixlen"], each["scope"], each.get("peer")]
        for each in link["addr_info"]
        if each["scope"] != "link" or each["family"] == "inet"
    ]


def _route(route: dict[str, Any]) -> list[Any]:
    """Without what follows from link-local addresses and multicast."""
    if route["dst"].startswith(("fe80:", "ff00:")) or route.get("prefsrc", "").startswith("fe80:"):
        return []
    return [route | {"flags": sorted(set(route["flags"]) - {"linkdown", "dead"})}]


def _fdb(entry: dict[str, Any]) -> list[Any]:
    """Where a tunnel leads; the rest is learned or multicast."""
    return [entry] if "dst" in entry else []


def _qdisc(qdisc: dict[str, Any]) -> list[Any]:
    return [qdisc] if qdisc["kind"] != "noqueue" else []


def _nft(found: list[dict[str, Any]]) -> Iterator[Any]:
    """Rules keep their place in their chain; elements have none."""
    places: dict[tuple[str, ...], int] = {}
    for each in found:
        ((kind, body),) = each.items()
        if kind in ("set", "map"):
            body["elem"] = sorted(body.get("elem", []), key=json.dumps)
        if kind == "rule":
            chain = (body["family"], body["table"], body["chain"])
            places[chain] = body["place"] = places.get(chain, 0) + 1
        if kind != "metainfo":
            yield each


_JUDGES = {"links": _link, "addresses": _addresses, "routes": _route, "routes6": _route, "fdb": _fdb, "qdiscs": _qdisc}


def _stable(value: Any) -> Any:
    """Without the keys that mean nothing."""
    if isinstance(value, dict):
        return {key: _stable(each) for key, each in value.items() if key not in VOLATILE}
    return [_stable(each) for each in value] if isinstance(value, list) else value
