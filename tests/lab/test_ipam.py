"""`podnet ipam check` against a real kernel: what is there is seen, what is missing or foreign is found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from podnet.agent.attachments import Attachments
from podnet.agent.attachments_file import boot_id
from podnet.agent.census import POD_LINK
from podnet.cli.ipam import findings
from podnet.cli.target import Node
from podnet.network.ipam import ranges
from podnet.network.pods import attach, segment
from podnet.network.view import Attachment
from podnet.state.plan import plan
from podnet.state.resource import state
from tests.agent.fakes import node_view
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]
SETS = ranges.of_node(["10.244.1.0/24", "fd00:1::/64"])


class Site:
    """A node with two pods whose records and kernel state agree."""

    def __init__(self, kernel: KernelNode, folder: Path) -> None:
        self.kernel = kernel
        self.node = Node("n1", kernel.netns, str(folder / "run"), str(folder / "state"), "")
        self.pods = [asyncio.run(self.record(f"c{n}", kernel.pod())) for n in range(2)]
        view = node_view()
        view = type(view)(view.me, view.peers, view.network, view.facts, mtu=1400)
        wanted = state(iter([*segment(view), *(each for pod in self.pods for each in attach(view, pod))]))
        outcome = kernel.plane.apply(plan(wanted, kernel.plane.read(wanted)))
        assert not outcome.failed

    async def record(self, name: str, netns: str) -> Attachment:
        store = await Attachments.open(self.node.state_dir, boot_id())
        given = await store.add(Attachment(name, "eth0", netns), SETS)
        await store.close()
        return given

    def check(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The command itself, in the node's namespace."""
        podnet = os.path.join(os.path.dirname(sys.executable), "podnet")
        folders = ("--state-dir", self.node.state_dir, "--run-dir", self.node.run_dir)
        words = ["nsenter", f"--net={self.node.netns}", podnet, "ipam", "check", *args, *folders]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def kinds(self) -> list[str]:
        return [finding.kind for finding in findings(self.node)]


def test_everything(tmp_path: Path) -> None:
    with kernel_node(tmp_path) as kernel:
        site = Site(kernel, tmp_path)
        first, second = site.pods
        assert site.kinds() == []
        assert (site.check().returncode, site.check().stdout) == (0, "every record agrees with what is there\n")

        # Somebody's hands in the pod and on the node.
        kernel.run("ip addr add 192.0.2.7/24 dev eth0", first.netns)
        kernel.run("ip addr del 10.244.1.2/24 dev eth0", first.netns)
        assert site.kinds() == ["missing", "foreign"]
        kernel.run("ip addr add 10.244.1.2/24 dev eth0", first.netns)
        kernel.run("ip addr del 192.0.2.7/24 dev eth0", first.netns)
        kernel.run("ip link add podnet0123456ab type veth peer name x")
        assert POD_LINK.fullmatch("podnet0123456ab")
        assert site.kinds() == ["stray"]

        # A pod that vanished without DEL.
        kernel.end(second.netns)
        assert sorted(site.kinds()) == ["leaked", "stray"]
        found = site.check()
        assert found.returncode == 1
        assert f"its namespace {second.netns} is gone" in found.stdout

        repaired = site.check("--repair")
        assert repaired.returncode == 0, repaired.stdout
        assert site.kinds() == []
        assert "podnet0123456ab" not in kernel.run("ip -o link")
        # What agrees was left alone.
        assert "10.244.1.2/24" in kernel.run("ip -o addr", first.netns)


def test_a_node_that_is_gone(tmp_path: Path) -> None:
    with kernel_node(tmp_path) as kernel:
        site = Site(kernel, tmp_path)
    gone = site.check()
    assert gone.returncode != 0
