"""Foreign firewalls: does what they drop by default include the pods' packets?

A verdict of accept in one table does not save a packet from a drop in another, so each base chain that drops by default
must itself let pods through. That is read off the rules' text: an accepting rule that speaks of our links or of the
pods' range, in the chain or in one it jumps to. Rules of iptables-legacy are put into the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from podnet.network.checkup.finding import Finding, error, info, warning
from podnet.network.checkup.survey import Chain, Survey
from podnet.network.pods import BRIDGE
from podnet.state.resource import LINK_PREFIX, TABLE_PREFIX

HOOKS = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
_COUNTER = re.compile(r"\bcounter(?: packets \d+ bytes \d+)?\s*")
_COMMENT = re.compile(r'\s*(?:-m comment --comment (?:"[^"]*"|\S+)|comment "[^"]*")')
_JUMP = re.compile(r"\b(?:jump|goto) ([\w.-]+)")
_BASE = re.compile(r"type \S+ hook (\S+) .*?priority [^;]*;(?: policy (\w+);)?")


def parse_nft(text: str) -> tuple[Chain, ...]:
    """The chains in the text of `nft list ruleset`, without those of podnet."""
    chains: list[Chain] = []
    family = table = name = hook = policy = ""
    rules: list[str] = []
    depth = 0
    for line in map(str.strip, text.splitlines()):
        words = line.split()
        if depth == 0 and words[:1] == ["table"]:
            family, table = words[1], words[2]
        elif depth == 1 and words[:1] == ["chain"]:
            name, hook, policy, rules = words[1], "", "", []
        elif depth == 2 and name and (base := _BASE.match(line)):
            hook, policy = base[1], base[2] or "accept"
        elif depth == 2 and name and line not in ("", "}"):
            rules.append(_plain(line))
        depth += line.count("{") - line.count("}")
        if depth == 1 and name and line == "}":
            if not table.startswith(TABLE_PREFIX):
                chains.append(Chain(family, table, name, hook, policy, tuple(rules)))
            name = ""
    return tuple(chains)


def parse_legacy(text: str, family: str, table: str = "filter") -> tuple[Chain, ...]:
    """The chains in the text of `iptables-legacy-save -t TABLE`."""
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            policies[name], rules[name] = policy.lower().strip("-"), []
        elif line.startswith("-A "):
            _, name, rule = line.split(" ", 2)
            rules.setdefault(name, []).append(_from_legacy(_COMMENT.sub("", rule)))
    return tuple(
        Chain(family, table, name, HOOKS.get(name, ""), policies.get(name, ""), tuple(made), legacy=True)
        for name, made in rules.items()
    )


def _plain(rule: str) -> str:
    return _COUNTER.sub("", _COMMENT.sub("", rule)).strip()


def _from_legacy(rule: str) -> str:
    matches, _, verdict = f" {rule}".partition(" -j ")
    target = verdict.split()[0] if verdict else ""
    word = target.lower() if target in ("ACCEPT", "DROP", "REJECT", "RETURN") else f"jump {target}"
    return f"{matches} {word}".strip()


def forward(survey: Survey) -> Iterator[Finding]:
    """Foreign chains at the forward hook that drop what they do not accept."""
    for chain in _shut(survey):
        what = f"{_named(chain)} drops forwarded packets by default and has no rule for pods"
        why = "pods reach nothing outside their node, and perhaps not each other"
        yield error(what, why, _remedy(chain, survey))


def bridged(survey: Survey) -> Iterator[Finding]:
    """With br_netfilter, frames between pods of one node pass the forward chains too, and Services need that."""
    called = survey.sysctls.get("net/bridge/bridge-nf-call-iptables")
    if (
        called is None
        and survey.agent.proxy not in ("", "none")
        and any(link.master == BRIDGE for link in survey.links)
    ):
        why = "bridged pods that reach pods of their own node through a Service come with the bridge's address"
        yield warning(
            "the kernel module br_netfilter is not loaded", why, "modprobe br_netfilter, or use attachment ptp"
        )
    if called == "1" and (shut := list(_shut(survey))):
        why = f"so packets between pods of one node too are dropped by {', '.join(map(_named, shut))}"
        yield info("bridge-nf-call-iptables is 1", why, "let pods pass there: see the forward firewall")


def tunnel_input(survey: Survey) -> Iterator[Finding]:
    """Foreign chains at the input hook that drop the tunnel's packets."""
    port = str(survey.agent.backend.get("port", 8472))
    if survey.agent.backend.get("type", "") != "vxlan":
        return
    for chain in _closed(survey.chains, "input"):
        rules = list(_reached(chain, survey.chains))
        if not any(rule.endswith("accept") and (port in rule.split() or _always(rule)) for rule in rules):
            what = f"{_named(chain)} drops incoming packets by default and has no rule for UDP port {port}"
            family = chain.family if chain.family == "inet" or chain.legacy else "ip"
            fix = f"nft insert rule {family} {chain.table} {chain.name} udp dport {port} accept"
            if chain.legacy:
                fix = f"iptables-legacy -I {chain.name} -p udp --dport {port} -j ACCEPT"
            why = "packets from other nodes' pods do not arrive, unless a rule accepts the nodes' addresses"
            yield warning(what, why, fix)


def mixed(survey: Survey) -> Iterator[Finding]:
    """Both variants of iptables in use: each sees only its own rules, the kernel applies both."""
    legacy = [chain for chain in survey.chains if chain.legacy and (chain.rules or chain.policy == "drop")]
    modern = [chain for chain in survey.chains if not chain.legacy and _by_iptables(chain) and chain.rules]
    if legacy and modern:
        why = "a packet must pass both, and iptables -S shows only one of them"
        fix = "compare iptables-legacy-save and iptables-nft-save; let all programs use one variant"
        yield warning("iptables rules exist in the legacy variant and in the nft variant", why, fix)


def _by_iptables(chain: Chain) -> bool:
    return chain.family in ("ip", "ip6") and chain.table in ("filter", "nat", "mangle", "raw")


def _closed(chains: Iterable[Chain], hook: str) -> Iterator[Chain]:
    """Base chains that drop or reject whatever reaches their end."""
    for chain in chains:
        last = chain.rules[-1] if chain.rules else ""
        if chain.hook == hook and (chain.policy == "drop" or last == "drop" or last.startswith("reject")):
            yield chain


def _shut(survey: Survey) -> Iterator[Chain]:
    """Chains that drop what pods send to other nodes, or get from there."""
    return (chain for chain in _closed(survey.chains, "forward") if not _lets_pods_through(chain, survey))


def _lets_pods_through(chain: Chain, survey: Survey) -> bool:
    cidrs = (*survey.cluster.pod_cidrs, *survey.agent.pod_cidrs)
    for rule in _reached(chain, survey.chains):
        ours = LINK_PREFIX in rule or any(cidr in rule for cidr in cidrs)
        if rule.endswith("accept") and (ours or _always(rule)):
            return True
    return False


def _always(rule: str) -> bool:
    return rule == "accept"


def _reached(chain: Chain, chains: Iterable[Chain]) -> Iterator[str]:
    """The rules of a chain and of every chain it can jump to."""
    same: Mapping[str, Chain] = {
        each.name: each
        for each in chains
        if (each.family, each.table, each.legacy) == (chain.family, chain.table, chain.legacy)
    }
    waiting, seen = [chain.name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in same:
            continue
        seen.add(name)
        for rule in same[name].rules:
            yield rule
            waiting += _JUMP.findall(rule)


def _named(chain: Chain) -> str:
    kind = "iptables-legacy" if chain.legacy else "nft"
    return f"the {kind} chain {chain.family} {chain.table} {chain.name}"


def _remedy(chain: Chain, survey: Survey) -> str:
    """A command in the words of whoever owns the chain."""
    cidrs = [each for each in survey.cluster.pod_cidrs or survey.agent.pod_cidrs if _speaks(chain, each)] or [
        "POD-CIDR"
    ]
    cidr = cidrs[0]
    names = {each.name for each in survey.chains if (each.family, each.table) == (chain.family, chain.table)}
    command = f"{'ip6tables' if ':' in cidr else 'iptables'}{'-legacy' if chain.legacy else ''}"
    if chain.table == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-source={cidr} && firewall-cmd --reload"
    if any(name.startswith("ufw") for name in names):
        return f"ufw route allow from {cidr} && ufw route allow to {cidr}"
    if _by_iptables(chain) or chain.legacy:
        place = "DOCKER-USER" if "DOCKER-USER" in names else chain.name
        return f"{command} -I {place} -s {cidr} -j ACCEPT && {command} -I {place} -d {cidr} -j ACCEPT"
    ip = "ip6" if ":" in cidr else "ip"
    rule = f"nft insert rule {chain.family} {chain.table} {chain.name} {ip}"
    return f"{rule} saddr {cidr} accept && {rule} daddr {cidr} accept"


def _speaks(chain: Chain, cidr: str) -> bool:
    return chain.family not in ("ip", "ip6") or (chain.family == "ip6") == (":" in cidr)
