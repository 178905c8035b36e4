"""The golden worlds: for each tests/golden/<scheme>/<case>/cluster.yaml, what every node's kernel should hold, as text.

`pytest tests/network/test_golden.py --update-golden` writes the texts anew; review the difference like code. That
they are right was judged against what flannel and Calico leave in a kernel; test_observable.py holds those facts one
by one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from podnet.network.backends import BACKENDS
from podnet.network.desired import desired, node_state
from podnet.network.viewing import view
from podnet.state.plan import plan
from podnet.state.text import difference, listing
from tests.worlds import load_world

GOLDEN = Path(__file__).parents[1] / "golden"
WORLDS = sorted(path.parent for path in GOLDEN.glob("*/*/cluster.yaml"))
IDS = [str(world.relative_to(GOLDEN)) for world in WORLDS]


def plans(world: Path) -> dict[str, str]:
    """File name -> text, for each node of a world."""
    cluster, facts, attachments = load_world(world / "cluster.yaml")
    texts = {}
    for name in facts:
        seen = view(cluster, facts[name], attachments.get(name, ()))
        assert seen is not None, f"{world} has no usable NetworkConfig"
        texts[f"{name}.plan"] = listing(node_state(desired(seen)))
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
        made = difference(plan(node_state(desired(seen)), {}))
        assert sorted(line.removeprefix("+ ") for line in made.splitlines()) == sorted(text.splitlines())
