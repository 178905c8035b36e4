"""The way between nodes: the tunnel's port, packet sizes, checksums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from podnet.network.backends import BACKENDS, options
from podnet.network.checkup.finding import Finding, error, info, warning
from podnet.network.checkup.survey import Link, Survey
from podnet.network.view import Options, is_v6
from podnet.state.resource import LINK_PREFIX

FIXED_IN = (5, 7)
"""Linux that no longer breaks the UDP checksum of a tunnel's packet when NAT rewrites it (netfilter: nat)."""

BAD_OFFLOAD = {"vmxnet3": "it computes wrong checksums inside tunnels on ports other than 4789, and NSX drops UDP 8472"}


def port(survey: Survey) -> Iterator[Finding]:
    """Nobody else may have the tunnel's UDP port, nor its VNI on that port."""
    chosen = _options(survey)
    number = getattr(chosen, "port", 0)
    for link in survey.links:
        if link.kind == "vxlan" and link.port == number and not link.name.startswith(LINK_PREFIX):
            same = link.vni == getattr(chosen, "vni", 0)
            what = f"{link.name} is a VXLAN device of somebody else on UDP port {number}, VNI {link.vni}"
            fix = f"remove it (ip link del {link.name}), or set spec.backend.port of the NetworkConfig to another"
            if same:
                yield error(what, "the kernel can have only one with that port and VNI: ours can't be made", fix)
            else:
                yield info(what, "both work side by side, but tell their packets apart by VNI only", fix)
    for other in survey.ports:
        if number and other.number == number and other.owner:
            fix = f"stop {other.owner}, or set spec.backend.port of the NetworkConfig to another on all nodes"
            yield error(f"UDP port {number} is taken by {other.owner}", "the tunnel device can't be made", fix)


def mtu(survey: Survey) -> Iterator[Finding]:
    """A pod's packet and what the scheme adds must fit the uplink."""
    chosen, uplink = _options(survey), survey.uplink
    if chosen is None or uplink is None or not survey.agent.mtu:
        return
    families = {is_v6(cidr) for cidr in survey.agent.pod_cidrs} or {False}
    cost = max(BACKENDS[chosen.type].overhead(chosen, v6) for v6 in families)
    room = uplink.mtu - cost
    if survey.agent.mtu > room:
        what = f"pods may send {survey.agent.mtu} bytes, {chosen.type} adds {cost}, {uplink.name} takes {uplink.mtu}"
        fix = f"set spec.mtu of the NetworkConfig to 0 (derived) or at most {room}"
        yield error(what, "big packets vanish: TLS and downloads hang, pings work", fix)
    elif survey.agent.mtu < room:
        what = f"pods may send {survey.agent.mtu} bytes where {room} would fit"
        yield info(what, "smaller packets cost throughput; harmless otherwise", "set spec.mtu to 0 unless it is meant")
    if True in families and room < 1280:
        why = "IPv6 needs links of 1280 bytes; the kernel takes IPv6 off smaller ones"
        yield error(f"only {room} bytes are left for pods", why, f"raise the MTU of {uplink.name}")


def unequal_mtu(surveys: Sequence[Survey]) -> Iterator[Finding]:
    """A packet that fits here must fit there."""
    sizes = {survey.node: survey.uplink.mtu for survey in surveys if survey.uplink}
    if len(set(sizes.values())) > 1:
        what = "uplinks differ in MTU: " + ", ".join(f"{node} {size}" for node, size in sorted(sizes.items()))
        why = "a node with more sends packets that a node with less never sees"
        yield warning(
            what, why, f"give all the same, or set spec.mtu of the NetworkConfig by the smallest: {min(sizes.values())}"
        )


def offloads(survey: Survey) -> Iterator[Finding]:
    """Checksums inside a tunnel: left to the card or the kernel, and some of both compute them wrong."""
    tunnels = [link for link in survey.links if link.kind == "vxlan" and link.name.startswith(LINK_PREFIX)]
    for tunnel in tunnels:
        if tunnel.checksum_offload is False:
            yield info(
                f"checksum offload of {tunnel.name} is off",
                "safe, but every packet's checksum costs processor time",
                f"ethtool -K {tunnel.name} tx-checksum-ip-generic on, if nobody turned it off on purpose",
            )
        elif tunnel.checksum_offload and (reason := _breaks_checksums(survey)):
            why = f"{reason}: TCP between nodes hangs or is very slow, pings work"
            yield warning(
                f"checksum offload of {tunnel.name} is on", why, f"ethtool -K {tunnel.name} tx-checksum-ip-generic off"
            )


def _breaks_checksums(survey: Survey) -> str:
    uplink: Link | None = survey.uplink
    if uplink is not None and uplink.driver in BAD_OFFLOAD:
        return f"{uplink.name} is a {uplink.driver}: {BAD_OFFLOAD[uplink.driver]}"
    if (0, 0) < survey.kernel < FIXED_IN:
        return f"Linux {'.'.join(map(str, survey.kernel))} breaks the checksum of tunnelled packets that NAT rewrites"
    return ""


def _options(survey: Survey) -> Options | None:
    """The backend in use; None when the agent did not say, or has one that this program does not know."""
    if survey.agent.backend.get("type", "") not in BACKENDS:
        return None
    try:
        return options(survey.agent.backend)
    except msgspec.ValidationError:
        return None
