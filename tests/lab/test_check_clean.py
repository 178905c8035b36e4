"""`podnet clean` on a real kernel: all of ours goes, nothing of anybody else's changes, and parameters come back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.cli.main import main
from podnet.kernel import netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.lab import registry
from podnet.network.desired import desired, node_state
from podnet.network.view import Attachment, LocalFacts, NodeInfo, NodeView, PortMapping
from podnet.objects.network import NetworkSpec
from podnet.state.plan import plan
from podnet.state.text import listing

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("handmade")]

FOREIGN = """
table inet foreign {
    set s { type ipv4_addr; elements = { 10.0.0.9 }; }
    chain c { type filter hook forward priority 0; policy accept; ip saddr @s drop; }
}
"""


class Place:
    """A node's namespace with foreign things in it, and a lab that consists of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = str(folder / "node")
        self.pod = str(folder / "pod")
        self.lab = registry.Lab(
            "default",
            str(folder / "labs/default"),
            1,
            (registry.LabNode("node1", 1, str(folder / "labs/default/node1"), self.node, ("10.0.0.1",), ""),),
        )

    def run(self, *command: str, text: str = "") -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self.node}", *command], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def parameter(self, name: str) -> str:
        with netns.inside(self.node):
            return Path("/proc/sys", name).read_text().strip()

    def everything(self) -> dict[str, str]:
        """The whole network state of the node as text, without counters and times."""
        commands = {
            "links": ["ip", "-d", "link"],
            "addresses": ["ip", "-o", "addr"],
            "routes": ["ip", "route", "show", "table", "all"],
            "routes6": ["ip", "-6", "route", "show", "table", "all"],
            "neighbours": ["ip", "neigh", "show", "nud", "permanent"],
            "rules": ["ip", "rule"],
            "nft": ["nft", "-s", "list", "ruleset"],
        }
        return {name: self.run(*command) for name, command in commands.items()}

    def fill(self) -> None:
        """Everything that an agent would make, hostPort and pod included."""
        me = NodeInfo("node1", ("10.0.0.1",), ("10.244.1.0/24",))
        peer = NodeInfo("node2", ("10.0.0.2",), ("10.244.2.0/24",))
        pod = Attachment(
            "c1", "eth0", self.pod, addresses=("10.244.1.5/24",), mac="0a:58:0a:f4:01:05", ports=(PortMapping(80, 80),)
        )
        seen = NodeView(me, (peer,), NetworkSpec(), LocalFacts("node1", "up0", 1500, ("10.0.0.0/24",)), (pod,))
        state_dir = self.lab.nodes[0].state_dir
        Path(state_dir).mkdir(parents=True, exist_ok=True)
        dataplane = KernelDataplane(state_dir, self.node)
        wanted = node_state(desired(seen))
        outcome = dataplane.apply(plan(wanted, dataplane.read(wanted)))
        assert (outcome.failed, outcome.held) == ((), ())
        assert listing(dataplane.read({}))
        dataplane.close()
        conf_dir = Path(self.lab.nodes[0].conf_dir)
        conf_dir.mkdir(exist_ok=True)
        (conf_dir / "10-podnet.conflist").write_text("{}")
        (conf_dir / "99-loopback.conf").write_text("{}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "labs"))
    Path(made.lab.folder).mkdir(parents=True)
    registry.save(made.lab)
    for path in (made.node, made.pod):
        netns.create(path)
    made.run("ip", "-batch", "-", text="""\
link set lo up
link add up0 type veth peer name far
link set up0 up
link set far up
addr add 10.0.0.1/24 dev up0
route add 10.50.0.0/16 via 10.0.0.7
route add 10.244.9.0/24 via 10.0.0.7 proto static
neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev up0 nud permanent
link add mybridge type bridge
""")  # fmt: skip
    made.run("nft", "-f", "-", text=FOREIGN)
    yield made
    for path in (made.node, made.pod):
        netns.remove(path)


def clean(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, list[str]]]:
    with pytest.raises(SystemExit) as end:
        main(["clean", "--lab", "default", "--node", "node1", "-o", "json", *args])
    return int(end.value.code or 0), json.loads(capsys.readouterr().out)


def test_all_of_ours_goes_and_nothing_else(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    machine = os.readlink("/proc/self/ns/net")
    before, forwarding = place.everything(), place.parameter("net/ipv4/ip_forward")
    place.fill()
    assert place.everything() != before
    assert place.parameter("net/ipv4/ip_forward") == "1"

    code, listed = clean(capsys, "--dry-run")
    assert code == 0
    assert place.parameter("net/ipv4/ip_forward") == "1"
    for word in ("vxlan podnet.1", "bridge podnet0", "route 10.244.2.0/24", "nfttable inet podnet-masquerade"):
        assert any(each.startswith(word) for each in listed["removed"]), word

    code, removed = clean(capsys)
    assert (code, removed["removed"], removed["failed"]) == (0, listed["removed"], [])
    assert place.everything() == before
    assert place.parameter("net/ipv4/ip_forward") == forwarding
    assert os.listdir(place.lab.nodes[0].conf_dir) == ["99-loopback.conf"]
    assert os.readlink("/proc/self/ns/net") == machine


def test_again_there_is_nothing_to_do(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.fill()
    clean(capsys)
    before = place.everything()
    assert clean(capsys) == (0, {"node": "node1", "dryRun": False, "removed": [], "failed": []})
    assert place.everything() == before


def test_it_works_without_what_was_remembered(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks are enough: links, routes and tables go even if the state directory was lost."""
    before = place.everything()
    place.fill()
    for name in os.listdir(place.lab.nodes[0].state_dir):
        os.unlink(f"{place.lab.nodes[0].state_dir}/{name}")
    assert clean(capsys)[0] == 0
    assert place.everything() == before


def test_the_pod_keeps_its_namespace_and_loses_its_link(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def links() -> list[str]:
        show = ["nsenter", f"--net={place.pod}", "ip", "-j", "link"]
        return [link["ifname"] for link in json.loads(subprocess.run(show, capture_output=True, check=True).stdout)]

    place.fill()
    assert "eth0" in links()
    clean(capsys)
    assert "eth0" not in links()
