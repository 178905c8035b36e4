"""iptables: kube-proxy's own chains, under kube-proxy's own names, because tools look for those.

A chain is one resource, so what changes is written again chain by chain and nothing else is; the jumps from the
built-in chains are resources of their own, since those chains belong to everybody. Rules are the words that would
follow `-A <chain>`. As the names are not ours alone, they bear no mark: OWNER does, an empty chain beside them. Where
it stands these names are ours, where it does not they are another program's, and are taken over only when wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from podnet.state.resource import Key, Resource

OWNER = "PODNET-PROXY"
"""The mark: a chain in the table `nat`, which is written first; it is deleted last."""

SERVICES = "KUBE-SERVICES"
"""The chain that leads to all others. Where it has rules in the table `nat` without OWNER beside it, another kube-proxy
is at work."""

CANARY = "KUBE-PROXY-CANARY"
"""An empty chain that goes when somebody flushes the rules, and so tells of it."""

KUBELET_CANARY = "KUBE-KUBELET-CANARY"
FIREWALL = "KUBE-FIREWALL"
"""A chain that the kubelet makes as well, with the same rule in it."""

RECENT = "xt_recent"
"""Where the lists of the match `recent` are, as if it were a table."""

FAMILIES = ("ip", "ip6")
TABLES = {
    "nat": frozenset({"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", CANARY, OWNER}),
    "filter": frozenset(
        {
            *("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"),
            *(FIREWALL, CANARY),
        }
    ),
    "mangle": frozenset({CANARY}),
}
"""The chains that there is one of, by table, in the order in which tables are written: first what most can go wrong
with, so that the others stay as they are when it does."""

_OF_A_SERVICE = re.compile(r"KUBE-(SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16}")
_NEW = "-m conntrack --ctstate NEW "


class IptablesChain(Resource, frozen=True, gc=False):
    """A chain and its rules, in order; with rules None it only has to be there. `family` is ip or ip6."""

    family: str
    table: str
    name: str
    rules: tuple[str, ...] | None = None

    @property
    def key(self) -> Key:
        """A chain by family, table and name."""
        return ("IptablesChain", "", self.family, self.table, self.name)


class IptablesJump(Resource, frozen=True, gc=False):
    """A rule of ours in a built-in chain; it is put first when it is missing, and stays where it is."""

    family: str
    table: str
    chain: str
    rule: str

    @property
    def key(self) -> Key:
        """A jump by its place and exact words."""
        return ("IptablesJump", "", self.family, self.table, self.chain, self.rule)


def _jump(comment: str, to: str, more: str = "") -> str:
    return f'{more}-m comment --comment "{comment}" -j {to}'


_EXTERNAL = _jump("kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES", _NEW)
_GUARD = _jump("kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL", _NEW)
_REFUSE = _jump("kubernetes service portals", "KUBE-SERVICES", _NEW)
_SERVE = _jump("kubernetes service portals", "KUBE-SERVICES")

JUMPS = (
    ("filter", "INPUT", _EXTERNAL),
    ("filter", "FORWARD", _EXTERNAL),
    ("filter", "INPUT", _jump("kubernetes health check service ports", "KUBE-NODEPORTS")),
    ("filter", "FORWARD", _REFUSE),
    ("filter", "OUTPUT", _REFUSE),
    ("filter", "FORWARD", _jump("kubernetes forwarding rules", "KUBE-FORWARD")),
    ("filter", "INPUT", _GUARD),
    ("filter", "OUTPUT", _GUARD),
    ("filter", "FORWARD", _GUARD),
    ("filter", "INPUT", f"-j {FIREWALL}"),
    ("filter", "OUTPUT", f"-j {FIREWALL}"),
    ("nat", "OUTPUT", _SERVE),
    ("nat", "PREROUTING", _SERVE),
    ("nat", "POSTROUTING", _jump("kubernetes postrouting rules", "KUBE-POSTROUTING")),
)
"""Every jump that there is, (table, chain, rule), in the order in which they are put first: the last one is on top."""


def jumps(family: str) -> Iterator[IptablesJump]:
    """All of them."""
    return (IptablesJump(family, *each) for each in JUMPS)


def named(table: str, chain: str) -> bool:
    """Whether a chain's name is one of kube-proxy's, or the mark."""
    return chain in TABLES.get(table, ()) or (table == "nat" and _OF_A_SERVICE.fullmatch(chain) is not None)


def of_the_kubelet(resource: Resource) -> bool:
    """Whether the kubelet makes the same thing, so that it is not ours to take away where a kubelet is."""
    if isinstance(resource, IptablesChain):
        return resource.name == FIREWALL
    return isinstance(resource, IptablesJump) and resource.rule.endswith(f" {FIREWALL}")
