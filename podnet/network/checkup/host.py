"""Kernel parameters and features without which packets vanish silently."""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.checkup.finding import Finding, error, warning
from podnet.network.checkup.survey import Survey
from podnet.network.view import is_v6
from podnet.state.resource import LINK_PREFIX

FORWARD = {False: "net/ipv4/ip_forward", True: "net/ipv6/conf/all/forwarding"}
STRICT = 1
FULL, FILLING = 0.9, 0.75
TUNNELS = ("vxlan", "ipip", "gre", "tun", "wireguard")


def features(survey: Survey) -> Iterator[Finding]:
    """Can this kernel do what podnet asks of it?"""
    for feature, reason in sorted(survey.missing.items()):
        fix = "load the module, or run a kernel that has it"
        yield error(f"the kernel lacks {feature}: {reason}", "what needs it can't be set up", fix)


def forwarding(survey: Survey) -> Iterator[Finding]:
    """A node routes for its pods."""
    for v6 in sorted({is_v6(cidr) for cidr in survey.agent.pod_cidrs}):
        if survey.sysctls.get(FORWARD[v6]) == "0":
            fix = f"the agent sets it; find who resets it: grep -r {FORWARD[v6].split('/')[-1]} /etc/sysctl.d"
            yield error(f"{FORWARD[v6]} is 0", "no packet passes from pods to other nodes or back", fix)


def reverse_path(survey: Survey) -> Iterator[Finding]:
    """The stricter of `all` and the link's own counts. Between a pod and another node, there is not the way back."""
    if survey.agent.backend.get("type", "") == "host-gw":
        return
    for link in survey.links:
        if link.name == survey.agent.uplink or (link.kind in TUNNELS and link.name.startswith(LINK_PREFIX)):
            values = [survey.number(f"net/ipv4/conf/{name}/rp_filter") or 0 for name in ("all", link.name)]
            if max(values) == STRICT:
                why = "a pod and another node reach each other through the tunnel one way only; strict drops that"
                fix = f"sysctl -w net.ipv4.conf.all.rp_filter=2 net/ipv4/conf/{link.name}/rp_filter=2 (2: loose)"
                yield error(f"rp_filter is strict on {link.name} (the larger of all and its own)", why, fix)


def conntrack(survey: Survey) -> Iterator[Finding]:
    """A full table drops every new connection."""
    limit = survey.number("net/netfilter/nf_conntrack_max") or 0
    share = survey.flows / limit if limit else 0.0
    if share >= FILLING:
        what = f"{survey.flows} of {limit} connections are tracked ({share:.0%})"
        fix = f"sysctl -w net.netfilter.nf_conntrack_max={limit * 2}"
        make = error if share >= FULL else warning
        yield make(what, "when the table is full, every new connection is dropped", fix)


def neighbours(survey: Survey) -> Iterator[Finding]:
    """The limits count for all namespaces of the machine together; permanent entries do not count."""
    limit = survey.number("net/ipv4/neigh/default/gc_thresh3")
    if limit is None:
        return
    needed = max(survey.neighbours, len(survey.cluster.nodes) + 2 * survey.attachments)
    if needed > limit * FILLING:
        what = f"about {needed} neighbour entries are needed, {limit} are allowed"
        fix = f"sysctl -w net.ipv4.neigh.default.gc_thresh3={limit * 4} net.ipv6.neigh.default.gc_thresh3={limit * 4}"
        make = error if needed > limit else warning
        yield make(what, "beyond that packets vanish (dmesg: neighbour table overflow)", fix)


def router_advertisements(survey: Survey) -> Iterator[Finding]:
    """A node that forwards IPv6 no longer accepts them, unless told to with 2; what they gave runs out."""
    name, uplink = survey.agent.uplink, survey.uplink
    if survey.sysctls.get(FORWARD[True]) != "1" or survey.sysctls.get(f"net/ipv6/conf/{name}/accept_ra") != "1":
        return
    if (uplink and uplink.advertised) or any(route.advertised and route.dev == name for route in survey.routes):
        why = "with IPv6 forwarding on, the kernel ignores the router that gave this node its address and default route"
        fix = f"sysctl -w net/ipv6/conf/{name}/accept_ra=2"
        yield warning(f"{name} lives on router advertisements and its accept_ra is 1", why, fix)
