"""Beside kube-proxy's chains: what their Services' addresses say at ports that no Service has."""

from __future__ import annotations

from podnet.network.proxy import unserved
from podnet.network.proxy.feature import MODES, frame, serve
from podnet.objects.network import ProxySpec
from podnet.state.nft import Element, NftTable
from tests.worlds import cluster, config, node, seen, service


def test_only_mode_iptables_has_it() -> None:
    for name in MODES:
        view = seen(
            cluster([node(1)], config(proxy=ProxySpec(name, service_cidrs=("10.96.0.0/12",))), 0, (service("s"),)), 1
        )
        made = [*frame(view), *(each for ports in view.services.values() for each in serve(view, ports))]
        tables = [each for each in made if isinstance(each, NftTable) and each.name == unserved.TABLE]
        known = {each.element for each in made if isinstance(each, Element) and each.table == unserved.TABLE}
        assert (len(tables), known) == ((1, {"10.96.0.1"}) if name == "iptables" else (0, set()))


def test_it_comes_after_kube_proxys_own_refusals_and_touches_first_packets_only() -> None:
    body = unserved.table(True, ("fd00:96::/112",)).body
    for hook in ("forward", "output"):
        base = f"    type filter hook {hook} priority filter + 10; policy accept;\n"
        rules = f"{base}    ct state new ct status & confirmed == 0 jump refuse\n"
        assert rules in body
    refusals = body.partition("chain refuse {")[2].partition("}\n  chain")[0].split("\n")
    assert [rule.strip() for rule in refusals if rule.strip()] == [
        "ip6 daddr @cluster-ips meta l4proto tcp reject with tcp reset",
        "ip6 daddr @cluster-ips reject",
        "ip6 daddr { fd00:96::/112 } drop",
    ]
    assert "drop" not in unserved.table(False, ()).body
