"""Beside kube-proxy's chains: what their Services' addresses say at ports that no Service has."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from podnet.network.proxy import unserved
from podnet.network.proxy.feature import MODES, frame, serve
from podnet.network.proxy.iptables import shared
from podnet.network.service_port import ServicePort
from podnet.objects.network import ProxySpec
from podnet.state.nft import Element, NftTable
from tests.network.proxy.kube_proxy import SERVICES, SETTINGS, SVC6
from tests.worlds import cluster, config, node, seen, service

EMPTY = replace(SVC6, service="empty", node_port=3006, external_ips=("192.168.99.66",), balancer_ips=("6.6.6.6",))
HOOKS = {"KUBE-SERVICES": "refused", "KUBE-EXTERNAL-SERVICES": "refused-outside"}


def test_only_mode_iptables_has_it() -> None:
    for name in MODES:
        view = seen(
            cluster([node(1)], config(proxy=ProxySpec(name, service_cidrs=("10.96.0.0/12",))), 0, (service("s"),)), 1
        )
        made = [*frame(view), *(each for ports in view.services.values() for each in serve(view, ports))]
        tables = [each for each in made if isinstance(each, NftTable) and each.name == unserved.TABLE]
        known = {each.element for each in made if isinstance(each, Element) and each.table == unserved.TABLE}
        assert (len(tables), known) == ((1, {"10.96.0.1", "10.96.0.1 . 80"}) if name == "iptables" else (0, set()))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("port", [*SERVICES, EMPTY], ids=lambda port: port.service)
def test_what_kube_proxy_refuses_is_known_for_tcp(port: ServicePort, protocol: str) -> None:
    """Nothing less, and nothing that its chains drop or let pass."""
    port = replace(port, protocol=protocol)
    refused = {line for line in shared(port, SETTINGS) if line[2].endswith("-j REJECT")} if protocol == "tcp" else set()
    known = {(each.set, each.element) for each in unserved.serve(port)} - {("cluster-ips", port.cluster_ip)}
    assert known == {(HOOKS[chain] if "-d " in rule else "refused-ports", _to(rule)) for _, chain, rule in refused}


def _to(rule: str) -> str:
    words = rule.split()
    return " . ".join(words[words.index(option) + 1] for option in ("-d", "--dport") if option in words)


def test_each_hook_resets_what_kube_proxy_refuses_there_just_before_it_does() -> None:
    body = unserved.table(False, ()).body
    for hook, sets in (("input", "outside ports"), ("forward", " outside"), ("output", "")):
        base = f"    type filter hook {hook} priority filter - 10; policy accept;\n"
        rules = body.partition(base)[2].partition("  }")[0].strip().split("\n")
        assert [rule.partition("@")[2] for rule in rules] == [
            f"refused{'-' * bool(name)}{name} reject with tcp reset" for name in sets.split(" ")
        ]
        assert all(rule.strip().startswith("ct state new ") for rule in rules)


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
