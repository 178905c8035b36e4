"""Who keeps an address in mode userspace: in every place that matters, the answer of mode nftables."""

from __future__ import annotations

import msgspec
import pytest

from podnet.network.proxy.bridged import MODULE
from podnet.network.proxy.origins import Keeping, origins
from podnet.network.service_port import Endpoint, Scope, ServicePort
from podnet.network.view import LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from tests.worlds import attachment

ME = NodeInfo("n1", ("192.168.77.11", "fd77::11"), ("10.244.1.0/24", "fd00:1::/64"))
PEER = NodeInfo("n2", ("192.168.77.12", "fd77::12"), ("10.244.2.0/24", "fd00:2::/64"))
SPEC = NetworkSpec(pod_cidrs=("10.244.0.0/16", "fd00::/16"))
VIEW = NodeView(ME, (PEER,), SPEC, LocalFacts("n1", addresses=("192.168.77.11", "203.0.113.9", "fd77::11")))
PORT = ServicePort("default", "web", "", "tcp", False, "10.96.0.1", 80)
LOCAL = msgspec.structs.replace(PORT, external_local=True)

POD, SIBLING, FAR, OUTSIDE, NODE = "10.244.1.2", "10.244.1.3", "10.244.2.2", "198.51.100.7", "192.168.77.11"


def keeps(view: NodeView, client: str, endpoint: str, scope: Scope = "cluster", port: ServicePort = PORT) -> bool:
    return Keeping(origins(view)).keeps(port, scope, client, Endpoint(endpoint, 80))


def with_spec(**fields: object) -> NodeView:
    return msgspec.structs.replace(VIEW, network=msgspec.structs.replace(SPEC, **fields))


@pytest.mark.parametrize(
    ("client", "endpoint", "kept"),
    [
        (POD, FAR, True),
        (POD, SIBLING, True),
        ("fd00:1::2", "fd00:2::2", True),
        (POD, POD, False),
        (NODE, FAR, False),
        ("127.0.0.1", FAR, False),
        ("::1", "fd00:2::2", False),
        (OUTSIDE, FAR, False),
        (POD, "192.168.77.12", True),
        (POD, "203.0.113.50", False),
    ],
)
def test_at_cluster_addresses_pods_are_seen_inside_the_cluster(client: str, endpoint: str, kept: bool) -> None:
    assert keeps(VIEW, client, endpoint) is kept
    assert not keeps(with_spec(proxy=ProxySpec(masquerade_all=True)), client, endpoint)


@pytest.mark.parametrize("scope", ["external", "balancer", "node"])
def test_at_external_addresses_the_policy_decides(scope: Scope) -> None:
    clients = {POD: True, FAR: True, OUTSIDE: True, "192.168.77.12": True, SIBLING: False}
    clients |= dict.fromkeys((NODE, "203.0.113.9", "127.0.0.1"), False)
    assert {client: keeps(VIEW, client, SIBLING, scope, LOCAL) for client in clients} == clients
    assert not any(keeps(VIEW, client, SIBLING, scope) for client in clients)
    masked = with_spec(proxy=ProxySpec(masquerade_all=True))
    assert keeps(masked, OUTSIDE, SIBLING, scope, LOCAL)


def test_what_leaves_the_cluster_is_seen_where_nobody_masquerades() -> None:
    assert keeps(with_spec(masquerade=False), POD, "203.0.113.50")
    assert keeps(VIEW, OUTSIDE, "203.0.113.50", "external", LOCAL)


def test_pods_of_a_bridge_that_the_node_does_not_see_are_not_kept_from_each_other() -> None:
    facts = LocalFacts("n1", missing={MODULE: "not there"})
    bridged = msgspec.structs.replace(VIEW, facts=facts, attachments=(attachment(1, 2, mode="bridge"),))
    assert not keeps(bridged, POD, SIBLING)
    assert keeps(bridged, POD, FAR)
    assert keeps(bridged, FAR, SIBLING, "external", LOCAL)
    assert keeps(msgspec.structs.replace(bridged, facts=LocalFacts("n1")), POD, SIBLING)


def test_an_address_of_one_link_is_not_taken_elsewhere() -> None:
    assert not keeps(VIEW, "fe80::1%eth0", "fd00:1::2", "node", LOCAL)
