"""What is bridged passes the node while there are bridged pods and a mode that needs it."""

from __future__ import annotations

import pytest

from podnet.network.desired import desired, node_state
from podnet.network.proxy.bridged import FILTERED, MODULE, TABLE, unfiltered
from podnet.network.proxy.feature import MODES
from podnet.objects.network import ProxySpec
from tests.worlds import attachment, cluster, config, node, seen, state_of

WANTED = {("Sysctl", "", name) for name in FILTERED.values()}


@pytest.mark.parametrize("mode", [*MODES, "none"])
@pytest.mark.parametrize(
    ("spec", "pod", "bridged"), [("bridge", "ptp", True), ("ptp", "bridge", True), ("ptp", "ptp", False)]
)
def test_as_long_as_there_is_a_bridge(mode: str, spec: str, pod: str, bridged: bool) -> None:
    world = cluster([node(1, dual=True)], config(dual=True, attachment=spec, proxy=ProxySpec(mode=mode)))
    state = state_of(world, 1, [attachment(1, 1, mode=pod)])
    assert WANTED & state.keys() == (WANTED if bridged and mode != "none" else set())


def test_without_the_module_the_bridge_s_address_is_shown_instead_and_it_is_said() -> None:
    world = cluster([node(1, dual=True)], config(dual=True, proxy=ProxySpec()))
    view = seen(world, 1, [attachment(1, 1)], missing={MODULE: "this kernel has none"})
    state = node_state(desired(view))
    assert not WANTED & state.keys()
    assert {key[2] for key in state if key[0] == "NftTable" and key[-1] == TABLE} == {"ip", "ip6"}
    problem = unfiltered(view)
    assert problem
    assert "modprobe br_netfilter" in problem.message
    assert unfiltered(seen(world, 1, [attachment(1, 1)])) is None
