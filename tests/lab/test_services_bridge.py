"""Services between pods on one bridge, in every mode: the rows of the table that a bridge can spoil.

All else is as with point-to-point links (test_services_table.py). The machine's kernel may let bridged packets pass its
IP hooks by itself, so that is taken away first, and the agents have to see to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from podnet.network.proxy.bridged import FILTERED
from tests.lab.labs import needs_root, until
from tests.lab.service_asks import Ask, Client, ask_all
from tests.lab.service_world import HERE, PORT, PROTOCOLS, TALK, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("services-bridge")]


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("svcb", "--attachment", "bridge") as built:
        built.service("one", "a", type="NodePort")
        for name in FILTERED.values():
            built.live.run("node1", f"sysctl -qw {name}=0")
            until(lambda name=name: built.live.run("node1", f"sysctl -n {name}").strip() == "1", "it is set again")  # type: ignore[misc]
        yield built


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_pods_of_one_bridge(lab: World, v6: bool) -> None:
    """Each other, and a pod itself, by cluster address and by node port; and whoever is elsewhere."""
    service, node1 = lab.services["one"], lab.live.lab.node("node1").addresses[v6]
    cluster = {"near": "a from near", "far": "a from far", "a": "a from node1", "node1": "a from node1"}
    at_node = dict.fromkeys(("near", "a", "far", "node1", "outside"), "a from node1")
    lab.check_all([(service.cluster(v6), 80, cluster), (node1, service.node_port, at_node)])


def test_pods_beside_the_bridge(made: World) -> None:
    """After a change of the attachment new pods have links of their own; both kinds reach each other, also in IPv6."""
    made.live.configure(attachment="ptp")
    place = made.live.pod("apart", "node1", command=[*TALK, "serve", "apart", str(PORT)])
    apart = Client("apart", place.netns, place.addresses)
    asks = [Ask(made.clients["near"], host, PORT, protocol) for host in place.addresses for protocol in PROTOCOLS]
    for v6 in (False, True):
        hosts = {made.pods["a"].addresses[v6]: PORT, made.services["one"].cluster(v6): 80}
        asks += [Ask(apart, host, port, protocol) for host, port in hosts.items() for protocol in PROTOCOLS]
    until(lambda: [each.server for each in ask_all(asks)] == ["apart"] * 4 + ["a"] * 8, "they reach each other")
