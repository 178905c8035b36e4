"""`podnet clean` on a node of a live cluster: everything of ours goes, nothing else, and the agent can put it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import foreign
from tests.lab.dumps import Dump, difference
from tests.lab.labs import PODNET, LiveLab, live_lab, needs_root, run, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("clean")]

LIMITS = {"kubernetes.io/ingress-bandwidth": "100M", "kubernetes.io/egress-bandwidth": "100M"}
PORTS = [{"containerPort": 8080, "hostPort": 30080, "protocol": "UDP"}]
GIVEN_BACK = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("clean", "--nodes", "2", "--no-demo", "--dual-stack") as made:
        for node in ("node1", "node2"):
            made.pod(f"on-{node}", node, ports=PORTS, annotations=LIMITS)
        until(lambda: made.settled("node1") and made.settled("node2"), "the nodes are as they should be")
        yield made


def clean(live: LiveLab, *words: str, code: int = 0) -> str:
    return live.podnet("clean", "--node", "node1", *words, code=code)


def ours(dump: Dump) -> list[str]:
    """The lines that bear our mark, or stand on what does."""
    return [line for lines in dump.values() for line in lines if "podnet" in line or '"protocol": "112"' in line]


def sysctls(dump: Dump) -> dict[str, str]:
    return dict(line.partition(":")[::2] for line in dump["sysctls"])


def test_it_refuses_beside_an_agent(live: LiveLab) -> None:
    before = live.dump("node1")
    done = run(PODNET, "clean", "--lab", live.name, "--node", "node1", code=2)
    assert done == ""
    assert difference(before, live.dump("node1")) == []


def test_it_removes_all_of_ours_and_nothing_else(live: LiveLab) -> None:
    peer = live.nodes()["node2"]["spec"]["podCIDR"]
    before, elsewhere = live.dump("node1"), live.dump("node2")
    with live.without("agent-node1"), foreign.things(live, "node1", peer):
        with_theirs = live.dump("node1")
        assert len(ours(with_theirs)) > 60
        listed = clean(live, "--dry-run")
        assert difference(with_theirs, live.dump("node1")) == []
        said = clean(live)
        after = live.dump("node1")
        assert said.replace("removed ", "would remove ") == listed
        assert ours(after) == []
        assert not Path(live.lab.node("node1").conf_dir, "10-podnet.conflist").exists()
        only_theirs(with_theirs, after)
        assert difference(elsewhere, live.dump("node2")) == []
        assert clean(live) == "there is nothing of podnet here\n"
        assert difference(after, live.dump("node1")) == []
    until(lambda: live.settled("node1"), "the agent put it back")
    assert difference(before, live.dump("node1")) == []
    assert '"ok": true' in live.podnet("check", "-o", "json")


def only_theirs(before: Dump, after: Dump) -> None:
    """All that went was ours, and all that came are former values of parameters.

    A router of IPv6 has anycast routes, which the kernel makes and removes with its forwarding.
    """
    changed = [line for line in difference(before, after) if line[0] != "~" and '"type": "4"' not in line]
    values, former = sysctls(before), sysctls(after)
    strange = [line for line in changed if "podnet" not in line and '"protocol": "112"' not in line]
    given_back = [name for name, value in former.items() if values[name] != value]
    assert set(GIVEN_BACK) <= set(given_back)
    assert all(former[name] == "0" for name in GIVEN_BACK)
    assert sorted(strange) == sorted(
        [f"- sysctls {name}:{values[name]}" for name in given_back]
        + [f"+ sysctls {name}:{former[name]}" for name in given_back]
    )
