"""The golden worlds: for each tests/golden/<scheme>/<case>/cluster.yaml, what every node's kernel should hold, as text.

The worlds of golden/services show what Services add, without the chains for more than two slots.

`pytest tests/network/test_golden.py --update-golden` writes the texts anew; review the difference like code. That
they are right was judged against what flannel and Calico leave in a kernel; test_observable.py holds those facts one
by one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from podnet.network.backends import BACKENDS
from podnet.network.desired import desired, node_state
from podnet.network.proxy.nft_chains import TABLE
from podnet.network.view import NodeView
from podnet.network.viewing import view
from podnet.state.nft import NftTable
from podnet.state.plan import plan
from podnet.state.resource import NodeState, Resource
from podnet.state.text import difference, listing
from tests.worlds import load_world

GOLDEN = Path(__file__).parents[1] / "golden"
WORLDS = sorted(path.parent for path in GOLDEN.glob("*/*/cluster.yaml"))
IDS = [str(world.relative_to(GOLDEN)) for world in WORLDS]


MANY = re.compile(r"  chain [a-z](?![12] )\d+ \{\n.*?\n  \}\n", re.DOTALL)


def shown(world: Path, seen: NodeView) -> NodeState:
    """What a node should hold; of the worlds about Services, what Services add to it."""
    units = desired(seen)
    if world.parent.name != "services":
        return node_state(units)
    own = {unit: found for unit, found in units.items() if unit[0].startswith("service")}
    hairpins = tuple(each for found in units.values() for each in found if TABLE in each.key)
    return node_state({unit: tuple(map(shortened, found)) for unit, found in {**own, ("all",): hairpins}.items()})


def shortened(resource: Resource) -> Resource:
    """There are chains for each number of slots, which differ in nothing else."""
    return replace(resource, body=MANY.sub("", resource.body)) if isinstance(resource, NftTable) else resource


def plans(world: Path) -> dict[str, str]:
    """File name -> text, for each node of a world."""
    cluster, facts, attachments = load_world(world / "cluster.yaml")
    texts = {}
    for name in facts:
        seen = view(cluster, facts[name], attachments.get(name, ()))
        assert seen is not None, f"{world} has no usable NetworkConfig"
        texts[f"{name}.plan"] = listing(shown(world, seen))
    return texts


@pytest.mark.parametrize("world", WORLDS, ids=IDS)
def test_golden(world: Path, update_golden: bool) -> None:
    expected = plans(world)
    if update_golden:
        for stale in world.glob("*.plan"):
            stale.unlink()
        for name, text in expected.items():
            (world / name).write_text(text)
    assert {path.name: path.read_text() for path in world.glob("*.plan")} == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_golden_worlds(backend: str) -> None:
    cases = {world.name for world in WORLDS if world.parent.name == backend}
    waves = {"migration-1", "migration-2", "migration-3"}
    assert cases >= {"ipv4", "dual-stack", "ptp", "ports-and-bandwidth", "masquerade-off", "mtu", "mistakes"} | waves


@pytest.mark.parametrize("world", WORLDS, ids=IDS)
def test_a_plan_from_nothing_is_the_listing_with_plus_signs(world: Path) -> None:
    cluster, facts, attachments = load_world(world / "cluster.yaml")
    for name, text in plans(world).items():
        node = name.removesuffix(".plan")
        seen = view(cluster, facts[node], attachments.get(node, ()))
        assert seen is not None
        made = difference(plan(shown(world, seen), {}))
        assert sorted(line.removeprefix("+ ") for line in made.splitlines()) == sorted(text.splitlines())
