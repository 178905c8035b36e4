"""What marks an iptables chain as ours, and how chains and jumps are compared, ordered and shown."""

from __future__ import annotations

import pytest

from podnet.state.iptables import (
    CANARY,
    FIREWALL,
    JUMPS,
    OWNER,
    TABLES,
    IptablesChain,
    IptablesJump,
    jumps,
    named,
    of_the_kubelet,
)
from podnet.state.plan import plan
from podnet.state.resource import state
from podnet.state.text import describe, difference

CHAIN = IptablesChain("ip", "nat", "KUBE-SVC-XPGD46QRK7WJZT7O", ("-j KUBE-A", "-j KUBE-B"))


@pytest.mark.parametrize("kind", ["SVC", "SVL", "EXT", "FW", "SEP"])
def test_chains_of_services_are_known_by_their_names(kind: str) -> None:
    name = f"KUBE-{kind}-XPGD46QRK7WJZT7O"
    assert named("nat", name)
    assert not named("filter", name)
    assert not named("nat", name.lower())
    assert not named("nat", f"{name}A")
    assert not named("nat", name[:-1] + "0"), "0, 1, 8 and 9 are no letters of base32"


@pytest.mark.parametrize(
    "name",
    ["INPUT", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP", "KUBE-ROUTER-INPUT", "KUBE-NWPLCY-X", "cali-INPUT", "KUBE-"],
)
def test_chains_of_others(name: str) -> None:
    assert not any(named(table, name) for table in (*TABLES, "raw"))


def test_every_table_has_the_canary_and_one_the_mark() -> None:
    assert all(named(table, CANARY) for table in TABLES)
    assert [table for table in TABLES if named(table, OWNER)] == ["nat"]


def test_jumps_lead_from_built_in_chains_to_ours() -> None:
    for jump in jumps("ip6"):
        assert jump.family == "ip6"
        assert not named(jump.table, jump.chain)
        assert named(jump.table, jump.rule.split()[-1])
    assert len({jump.key for jump in jumps("ip")}) == len(JUMPS)


def test_new_connections_only_are_looked_at_in_the_table_filter() -> None:
    always = {rule.split()[-1] for table, _, rule in JUMPS if table == "filter" and "NEW" not in rule}
    assert always == {"KUBE-NODEPORTS", "KUBE-FORWARD", FIREWALL}
    assert not any("NEW" in rule for table, _, rule in JUMPS if table == "nat")


def test_what_the_kubelet_makes_too() -> None:
    both = [jump for jump in jumps("ip") if of_the_kubelet(jump)]
    assert [(jump.table, jump.chain) for jump in both] == [("filter", "INPUT"), ("filter", "OUTPUT")]
    assert of_the_kubelet(IptablesChain("ip", "filter", FIREWALL))
    assert not of_the_kubelet(IptablesChain("ip", "filter", "KUBE-PROXY-FIREWALL"))


def test_rules_of_none_are_not_compared() -> None:
    there = IptablesChain("ip", "nat", CHAIN.name)
    assert there.changes(CHAIN) == ()
    assert CHAIN.changes(there) == ("rules",)
    assert not CHAIN.replaces(there)


def test_the_order_of_rules_matters() -> None:
    assert CHAIN.changes(IptablesChain("ip", "nat", CHAIN.name, CHAIN.rules[::-1] if CHAIN.rules else None)) == (
        "rules",
    )


def test_chains_come_before_jumps_and_go_after_them() -> None:
    jump = next(jumps("ip"))
    both = state(iter((jump, CHAIN)))
    assert [step.resource for step in plan(both, {}).steps] == [CHAIN, jump]
    assert [step.resource for step in plan({}, both).steps] == [jump, CHAIN]


def test_text() -> None:
    assert describe(CHAIN) == "iptableschain ip nat KUBE-SVC-XPGD46QRK7WJZT7O {\n  -j KUBE-A\n  -j KUBE-B\n}"
    assert "KUBE-FIREWALL" in describe(IptablesChain("ip", "filter", FIREWALL))
    assert "{" not in describe(IptablesChain("ip", "filter", CANARY, ()))
    jump = IptablesJump("ip", "filter", "INPUT", f"-j {FIREWALL}")
    text = difference(plan(state(iter((jump, CHAIN))), {}))
    assert text == f"+ {describe(CHAIN)}\n+ {describe(jump)}\n"
