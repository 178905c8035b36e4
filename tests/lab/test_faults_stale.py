"""What became stale while an agent was away goes when it is back, exactly that; ignorance never deletes anything."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from podnet.agent.attachments_file import NAME
from podnet.network.pods import host_ifname
from podnet.objects.kinds import NETWORKCONFIGS
from tests.lab.dumps import Dump, difference
from tests.lab.labs import PODNET, LiveLab, live_lab, needs_root, until, watching
from tests.lab.runtime import Runtime

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("stale")]

NODES = ("node1", "node2", "node3")
LIMITS = {"ingressRate": 10_000_000, "ingressBurst": 100_000, "egressRate": 10_000_000, "egressBurst": 100_000}
PORTS = [{"hostPort": 31000, "containerPort": 53, "protocol": "udp"}]

BY_HAND = """\
ip route add 10.99.0.0/24 via 192.168.77.1 proto 112
ip route add blackhole 10.98.0.0/24 proto 112
ip -6 route add fd00:99::/64 dev podnet0 proto 112
ip link add podnetbogus type bridge
ip addr add 10.97.0.1/24 dev podnet0
ip neigh add 10.96.0.1 lladdr 02:00:00:00:00:09 dev podnet.1 nud permanent
bridge fdb add 02:00:00:00:00:09 dev podnet.1 dst 192.168.77.99
nft add table inet podnet-bogus
nft add element inet podnet-masquerade nodes-ip '{ 192.168.77.99 }'
nft add table inet podnet-hostports
"""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("stale", "--nodes", "3") as made:
        yield made


def settled(live: LiveLab) -> None:
    until(lambda: all(map(live.settled, live.nodes())), "every node is as it should be", 15)


def dumps(live: LiveLab) -> dict[str, Dump]:
    return {node.name: live.dump(node.name) for node in live.lab.nodes}


def test_what_somebody_made_with_our_mark_goes(live: LiveLab) -> None:
    before = live.dump("node1")
    with live.without("agent-node1"):
        live.run("node1", ["sh", "-ec", BY_HAND])
        live.run("node1", "ip route add 172.30.0.0/16 via 192.168.77.1")
        assert len(difference(before, live.dump("node1"))) > 10
    left = difference(before, live.dump("node1"))
    live.run("node1", "ip route del 172.30.0.0/16")
    assert [line for line in left if "172.30.0.0/16" not in line and line[0] != "~"] == []
    assert [line for line in left if "172.30.0.0/16" in line]


def test_an_attachment_that_vanished_from_the_records_goes(live: LiveLab, tmp_path: Path) -> None:
    runtime, before = Runtime(live, "node1", tmp_path), live.dump("node1")
    with runtime.pod("lost"), runtime.pod("kept"):
        for pod in ("kept", "lost"):
            config: dict[str, Any] = {"bandwidth": LIMITS} | ({"portMappings": PORTS} if pod == "lost" else {})
            assert runtime.add(pod, **config).exit == 0
        both = live.dump("node1")
        assert runtime.call("DEL", "lost").exit == 0
        one = live.dump("node1")
        assert runtime.add("lost", bandwidth=LIMITS, portMappings=PORTS).exit == 0
        assert len(difference(one, both)) > 8
        with live.without("agent-node1"):
            database = f"{live.lab.node('node1').state_dir}/{NAME}"
            with closing(sqlite3.connect(database)) as db, db:
                for table in ("attachment", "address"):
                    assert db.execute(f"DELETE FROM {table} WHERE container_id = 'lost'").rowcount == 1
        assert difference(one, live.dump("node1")) == []
        assert "eth0" not in live.run(runtime.path("lost"), "ip -o link")
        assert runtime.call("DEL", "kept").exit == 0
    assert difference(before, live.dump("node1")) == []


def test_a_pod_deleted_meanwhile_goes(live: LiveLab) -> None:
    before = live.dump("node1")
    live.pod("brief", "node1", ports=[{"containerPort": 8080, "hostPort": 31001, "protocol": "UDP"}])
    link = host_ifname(live.record("brief"))
    with live.without("agent-node1"):
        live.ask_to_delete("brief")
        until(lambda: not live.running("brief"), "its containers ended")
        assert link in live.run("node1", "ip -o link")
    live.delete_pod("brief")
    assert difference(before, live.dump("node1")) == []


def test_an_agent_without_configuration_deletes_nothing(live: LiveLab) -> None:
    """It takes no pods, says why, and repairs what it knew; one that starts now leaves everything as it is."""
    document = live.api(lambda api: api.get(NETWORKCONFIGS, "default", into=dict))
    before = dumps(live)
    with watching(live) as watched:
        live.api(lambda api: api.delete(NETWORKCONFIGS, "default"))
        until(lambda: not any(map(live.ready, NODES)), "no agent is ready")
        assert "NetworkConfig/default" in live.ask("node1", "status")["reason"]
        assert not Path(live.lab.node("node1").conf_dir, "10-podnet.conflist").exists()
        with live.repaired("node1"):
            live.run("node1", "ip route add 10.99.0.0/24 via 192.168.77.1 proto 112")
        restart(live, "node1")
        until(lambda: "NetworkConfig/default" in live.ask("node1", "status")["reason"], "the agent has looked")
        assert dumps(live) == before
        fresh = {"metadata": {"name": "default"}, "spec": document["spec"]}
        live.api(lambda api: api.create(NETWORKCONFIGS, fresh, into=dict))
        settled(live)
        assert dumps(live) == before
    watched[0].lossless()


def restart(live: LiveLab, node: str) -> None:
    """Restart an agent that will not be ready."""
    pid = live.kill(f"agent-{node}")
    until(lambda: live.pid(f"agent-{node}") not in (0, pid) and live.speaks(node), "the agent speaks", 15)


def test_an_api_that_lists_nothing_deletes_nothing(live: LiveLab) -> None:
    """Its disk was lost, say, and is found again later. (A kubelet would end its pods, so those stand still.)"""
    before = dumps(live)
    folder = Path(live.lab.folder, "api")
    with watching(live) as watched, ExitStack() as still:
        for node in NODES:
            still.enter_context(live.frozen(f"kubelet-{node}"))
        files = [path for path in folder.iterdir() if path.name.startswith("podnet.db")]
        assert files
        with live.without("api"):
            moved(files, folder / "aside")
        assert live.nodes() == {}
        until(lambda: not any(map(live.ready, NODES)), "no agent is ready", 20)
        restart(live, "node1")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert dumps(live) == before
        with live.without("api"):
            for path in folder.iterdir():
                if path.name.startswith("podnet.db"):
                    path.unlink()
            moved(list((folder / "aside").iterdir()), folder)
        settled(live)
        assert dumps(live) == before
    watched[0].lossless()


def moved(files: list[Path], to: Path) -> None:
    to.mkdir(exist_ok=True)
    for path in files:
        os.rename(path, to / path.name)


def test_a_node_removed_meanwhile_goes(live: LiveLab) -> None:
    """What led to it, exactly: at once where an agent runs, elsewhere when the agent is back."""
    before = dumps(live)
    address, cidr = live.lab.node("node3").addresses[0], live.nodes()["node3"]["spec"]["podCIDR"]
    with live.without("agent-node1"):
        remove(live, "node3")
        until(lambda: live.dump("node2") != before["node2"], "node2 heard of it")
        assert live.dump("node1") == before["node1"]
    settled(live)
    for node in ("node1", "node2"):
        changed = [line for line in difference(before[node], live.dump(node)) if line[0] != "~"]
        gone, come = ([line for line in changed if line[0] == sign] for sign in "-+")
        assert sorted(line.split()[1] for line in gone) == ["fdb", "neighbours", "nft", "routes"], changed
        assert all(cidr.partition("/")[0] in line or address in line for line in gone), changed
        assert [line.split()[1] for line in come] == ["nft"]  # the set of the nodes, without it
        assert address not in come[0]


def remove(live: LiveLab, node: str) -> None:
    """`podnet lab remove-node` waits for the supervisor to end the node's programs; it stands still, so we do that."""
    words = [PODNET, "lab", "remove-node", "--name", live.name, node]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as removing:
        until(lambda: node not in [each.name for each in live.lab.nodes], f"{node} is drained", 20)
        for program in ("agent", "kubelet", "proxy"):
            live.kill(f"{program}-{node}")
        said, _ = removing.communicate(timeout=20)
        assert removing.returncode == 0, said
