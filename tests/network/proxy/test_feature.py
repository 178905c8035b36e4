"""Which mode a node uses, and what it refuses."""

from __future__ import annotations

import msgspec

from podnet.network.proxy.feature import MODES, mode_of, refusal
from podnet.objects.network import ProxySpec
from tests.worlds import cluster, config, node, seen


def test_each_mode_is_what_the_configuration_says() -> None:
    for name, mode in MODES.items():
        view = seen(cluster([node(1)], config(proxy=ProxySpec(mode=name))), 1)
        assert mode_of(view) is mode
        assert refusal(view) is None
    assert mode_of(seen(cluster([node(1)], config(proxy=ProxySpec(mode="none"))), 1)) is None


def test_ipvs_is_refused_with_the_name_of_what_is_missing() -> None:
    view = seen(cluster([node(1)], config(proxy=ProxySpec(mode="ipvs"))), 1)
    view = msgspec.structs.replace(
        view, facts=msgspec.structs.replace(view.facts, missing={"ip_vs": "this kernel has none"})
    )
    problem = refusal(view)
    assert problem
    assert (problem.object, problem.field) == ("NetworkConfig/default", "spec.proxy.mode")
    assert "kernel module ip_vs: this kernel has none" in problem.message
    assert mode_of(view) is MODES["nftables"]


def test_iptables_is_refused_where_another_kube_proxy_is() -> None:
    chain = "the iptables-nft chain ip nat KUBE-SERVICES"
    view = seen(cluster([node(1)], config(proxy=ProxySpec(mode="iptables"))), 1)
    view = msgspec.structs.replace(view, facts=msgspec.structs.replace(view.facts, others=(chain,)))
    problem = refusal(view)
    assert problem
    assert f"spec.proxy.mode iptables is refused: another kube-proxy's rules stand in {chain}" in problem.message
    assert "kube-proxy --cleanup" in problem.message
    assert mode_of(view) is MODES["nftables"]
