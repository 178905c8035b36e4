"""Somebody else's Services: the rules of another kube-proxy on the same node."""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.checkup.finding import Finding, warning
from podnet.network.checkup.survey import Chain, Survey
from podnet.state.iptables import OWNER, SERVICES

TABLE = "kube-proxy"
WHY = "both translate the same packets, and whose rule comes first decides; podnet does not fight it"
CLEAN = "stop it and run kube-proxy --cleanup"
REFUSED = "spec.proxy.mode iptables is refused on this node, which uses mode nftables instead"
FIX = f"{CLEAN}, or set spec.proxy.mode of NetworkConfig/default to none"


def others(survey: Survey) -> Iterator[Finding]:
    """Rules that lead to Services and are not ours. Beside mode none they are as they should be."""
    if survey.agent.proxy == "none":
        return
    for name in dict.fromkeys(_tables(survey)):
        yield warning(f"another proxy is at work: {name}", WHY, FIX)
    for name in _chains(survey):
        if survey.agent.proxy == "iptables":
            yield warning(f"another proxy is at work, in mode iptables' place: {name}", REFUSED, CLEAN)
        else:
            yield warning(f"another proxy is at work: {name}", WHY, FIX)


def _tables(survey: Survey) -> Iterator[str]:
    for chain in survey.chains:
        if chain.table == TABLE and chain.family in ("ip", "ip6"):
            yield f"the nft table {chain.family} {TABLE}"


def _chains(survey: Survey) -> Iterator[str]:
    owned = {_home(chain) for chain in survey.chains if chain.name == OWNER}
    for chain in survey.chains:
        if chain.name == SERVICES and chain.table == "nat" and chain.rules and _home(chain) not in owned:
            kind = "iptables-legacy" if chain.legacy else "iptables-nft"
            yield f"the {kind} chain {chain.family} nat {SERVICES} has {len(chain.rules)} rules that are not podnet's"


def _home(chain: Chain) -> tuple[str, str, bool]:
    return (chain.family, chain.table, chain.legacy)
