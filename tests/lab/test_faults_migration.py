"""Every backend with every attachment, IPv4 and dual-stack; and from each to the others, on a live cluster, unnoticed.

One lab for each attachment and stack. It begins with one backend and is led through the others by changing one field,
while `podnet check --watch` counts what is lost (nothing), and whatever the way, what a backend leaves in the kernel is
the same as it would be in a fresh lab.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from podnet.network.backends import scheme
from tests.lab.dumps import Dump
from tests.lab.labs import LiveLab, live_lab, needs_root, until, watching
from tests.lab.runtime import Runtime
from tests.lab.shapes import MTU, direct_shape, pod_shape, vxlan_shape

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.timeout(150)]

NODES = ("node1", "node2", "node3")
HOST_GW: dict[str, Any] = {"type": "host-gw"}
VXLAN: dict[str, Any] = {"type": "vxlan"}
OTHER_VNI, OTHER_PORT = VXLAN | {"vni": 42}, VXLAN | {"vni": 42, "port": 4789}
DIRECT = VXLAN | {"directRouting": True}
WAYS = {
    "vxlan to host-gw": HOST_GW,
    "host-gw to vxlan with a VNI": OTHER_VNI,
    "another port": OTHER_PORT,
    "another port and VNI": VXLAN,
    "direct routing": DIRECT,
    "no direct routing": VXLAN,
}


class Site(NamedTuple):
    """A lab, how its pods are attached, whether it is dual-stack, and what its nodes held at first."""

    live: LiveLab
    attachment: str
    dual_stack: bool
    first: dict[str, Dump]


def group(attachment: str, stack: str) -> object:
    name = f"{attachment}-{stack}"
    return pytest.param((attachment, stack), id=name, marks=pytest.mark.xdist_group(f"migration-{name}"))


@pytest.fixture(scope="module", params=[group(a, s) for a in ("bridge", "ptp") for s in ("ipv4", "dual")])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    attachment, stack = request.param
    options = ["--attachment", attachment, *(["--dual-stack"] if stack == "dual" else [])]
    with live_lab(f"{attachment}-{stack}", "--nodes", "3", "--backend", "vxlan", *options) as live:
        until(lambda: all(map(live.settled, NODES)), "the nodes are as they should be")
        yield Site(live, attachment, stack == "dual", {node: live.dump(node) for node in NODES})


def arrived(live: LiveLab, backend: dict[str, Any]) -> bool:
    """Every node has this configuration, asks for its scheme only, sends it only, and its kernel holds no other."""
    for node in NODES:
        status = live.ask(node, "status")
        if status["backend"] != backend:
            return False
        words = {word.partition("@")[0] for word in (*status["accepts"], *status["sends"])}
        if words != {scheme(backend)} or not live.settled(node):
            return False
    return True


def shape(site: Site, backend: dict[str, Any]) -> None:
    """The kernel's state is as backend, attachment and families ask for; CHECK and `podnet check` agree."""
    live, kind = site.live, backend["type"]
    if "directRouting" in backend or kind == "host-gw":
        direct_shape(live, tunnels=kind == "vxlan")
    else:
        vxlan_shape(live, backend.get("vni", 1), backend.get("port", 8472))
    for pod in live.places():
        pod_shape(live, pod, site.attachment, MTU[kind, site.dual_stack])
    assert json.loads(live.podnet("check", "-o", "json"))["ok"]
    for node in NODES:
        check_as_the_kubelet_would(live, node)


def check_as_the_kubelet_would(live: LiveLab, node: str) -> None:
    """CNI CHECK of every pod with the result that its ADD had, perhaps under another backend."""
    runtime = Runtime(live, node, Path(live.lab.node(node).folder))
    files = sorted(Path(live.lab.node(node).folder, "cni").iterdir())
    assert len(files) == 3
    for file in files:
        cached = json.loads(file.read_text())
        config = {"prevResult": cached["result"]}
        answer = runtime.call("CHECK", cached["containerId"], config, netns=cached["netns"])
        assert answer.exit == 0, answer


def test_the_first_backend(site: Site) -> None:
    shape(site, VXLAN)


def lead(site: Site, backend: dict[str, Any]) -> None:
    """Change the backend and wait until the cluster is there; pods are the same as before, not restarted ones."""
    before = site.live.places()
    change(site.live, backend)
    until(lambda: arrived(site.live, backend), f"the cluster uses {backend}", 20)
    assert site.live.places() == before


def change(live: LiveLab, backend: dict[str, Any]) -> None:
    """A merge patch: what the new backend does not say is taken back."""
    live.configure(backend={"vni": None, "port": None, "directRouting": None, **backend})


def as_at_first(site: Site) -> None:
    """Not a trace of other backends is left, nor of the way."""
    assert {node: site.live.dump(node) for node in NODES} == site.first


def test_every_migration_loses_nothing_and_leaves_nothing(site: Site) -> None:
    done = []
    with watching(site.live) as watched:
        for way, backend in WAYS.items():
            done.append((way, round(time.time(), 3)))
            lead(site, backend)
            shape(site, backend)
    watched[0].lossless(done)
    as_at_first(site)


def test_an_agent_that_is_down_is_waited_for(site: Site) -> None:
    """The others keep sending to it as it is, and keep what they need for that; when it is back, all go on."""
    live, before = site.live, site.live.places()
    with watching(live) as watched:
        for old, new in ((VXLAN, HOST_GW), (HOST_GW, VXLAN)):
            with live.without("agent-node2"):
                change(live, new)
                until(partial(others_accept_both, live, old, new), "the others accept both")
                assert len(live.ask("node1", "status")["sends"]) == 2
            until(partial(arrived, live, new), f"the cluster uses {new}", 20)
    watched[0].lossless()
    assert live.places() == before
    as_at_first(site)


def others_accept_both(live: LiveLab, old: dict[str, Any], new: dict[str, Any]) -> bool:
    for node in ("node1", "node3"):
        words = {word.partition("@")[0] for word in live.ask(node, "status")["accepts"]}
        if words != {scheme(old), scheme(new)} or not live.settled(node):
            return False
    return True


def test_all_agents_are_killed_in_the_midst_of_it(site: Site) -> None:
    live = site.live
    with watching(live) as watched:
        for backend in (HOST_GW, VXLAN):
            change(live, backend)
            pids = {node: live.kill(f"agent-{node}") for node in NODES}
            for node, pid in pids.items():
                live.back(f"agent-{node}", pid)
            lead(site, backend)
    watched[0].lossless()
    as_at_first(site)


def test_one_may_change_ones_mind_at_any_time(site: Site) -> None:
    """Each change meets another stage of the one before."""
    chance = random.Random(1)
    with watching(site.live) as watched:
        for turn in range(20):
            change(site.live, (HOST_GW, VXLAN, OTHER_VNI, OTHER_PORT)[turn % 4])
            time.sleep(chance.uniform(0, 0.2))
        lead(site, VXLAN)
    watched[0].lossless()
    as_at_first(site)
