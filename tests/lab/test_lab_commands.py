"""`podnet lab exec|status|logs|kubeconfig|add-node|remove-node` on a live lab, and its wiring."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from podnet.lab import process
from tests.lab.labs import PODNET, LiveLab, live_lab, needs_root, run, until, watching

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-commands"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("commands", "--nodes", "2") as made:
        yield made


def lab(live: LiveLab, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `podnet lab COMMAND --name NAME WORDS`."""
    argv = [PODNET, "lab", command, "--name", live.name, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


# -- the wiring


def test_the_fabric(live: LiveLab) -> None:
    made = live.lab
    addresses = run("nsenter", f"--net={made.fabric_netns}", "ip", "-4", "-o", "address", "show", "dev", "fabric0")
    assert " 192.168.77.1/24 " in addresses
    ports = json.loads(run("nsenter", f"--net={made.fabric_netns}", "bridge", "-j", "link"))
    assert {port["ifname"] for port in ports} == {"node1", "node2"}
    assert all(port["state"] == "forwarding" for port in ports)


def test_a_node_has_one_link_and_no_way_out(live: LiveLab) -> None:
    assert " 192.168.77.11/24 " in live.run("node1", "ip -4 -o address show dev eth0")
    assert json.loads(live.run("node1", "ip -j link show eth0"))[0]["mtu"] == 1500
    assert live.run("node1", "ip route show default") == ""
    live.run("node1", ["bash", "-c", "exec 3<>/dev/tcp/192.168.77.12/10250"])


def test_the_machine_can_not_be_reached_from_a_node(live: LiveLab) -> None:
    assert live.run("node1", f"curl -s --max-time 2 https://127.0.0.1:{live.lab.port}/", code=7) == ""


def test_the_api_is_reached_from_both_sides(live: LiveLab) -> None:
    kubeconfig = live.lab.nodes[0].kubeconfig
    assert "node2" in run("kubectl", "--kubeconfig", live.lab.kubeconfig, "get", "nodes")
    assert "node2" in live.run("node1", ["kubectl", "--kubeconfig", kubeconfig, "get", "nodes"])


def test_secrets_are_for_root_only(live: LiveLab) -> None:
    for path in (live.lab.kubeconfig, *(node.kubeconfig for node in live.lab.nodes)):
        assert os.stat(path).st_mode & 0o077 == 0


# -- exec


@pytest.mark.parametrize("code", [0, 1, 7, 255])
@pytest.mark.parametrize("place", ["node1", "demo/web-1"])
def test_exec_has_the_commands_exit_code(live: LiveLab, place: str, code: int) -> None:
    assert lab(live, "exec", place, "--", "sh", "-c", f"exit {code}").returncode == code


def test_exec_passes_arguments_input_and_output(live: LiveLab) -> None:
    argv = [PODNET, "lab", "exec", "--name", live.name, "demo/web-2", "--"]
    words = ["sh", "-c", 'cat; echo "$1" >&2', "x", "a  b"]
    done = subprocess.run([*argv, *words], input="in\n", capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("in\n", "a  b\n")


def test_exec_enters_the_nodes_network(live: LiveLab) -> None:
    shown = lab(live, "exec", "node2", "--", "readlink", "/proc/self/ns/net").stdout.strip()
    assert shown == f"net:[{os.stat(live.lab.nodes[1].netns).st_ino}]"


def test_exec_enters_the_container_that_is_named(live: LiveLab) -> None:
    for container, port in (("web", "8080"), ("side", "8081")):
        done = lab(live, "exec", "-c", container, "demo/web-1", "--", "cat", "/proc/self/environ")
        assert "HOSTNAME=web-1" in done.stdout
        listening = lab(live, "exec", "demo/web-1", "--", "ss", "-tln").stdout
        assert f":{port}" in listening


def test_exec_without_dashes_works_too(live: LiveLab) -> None:
    assert lab(live, "exec", "node1", "hostname").returncode == 0
    assert lab(live, "exec", "node1", "ip", "-o", "link", "show", "lo").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["node9", "--", "true"], "has no node 'node9'; its nodes: node1, node2"),
        (["demo/none", "--", "true"], "runs no pod demo/none"),
        (["-c", "none", "demo/web-1", "--", "true"], "it runs web, side"),
        (["node1"], "Missing argument"),
        (["node1", "--", "/no/such/program"], "/no/such/program"),
    ],
)
def test_exec_says_what_is_wrong(live: LiveLab, words: list[str], says: str) -> None:
    done = lab(live, "exec", *words)
    assert done.returncode not in (0, 1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# -- status, kubeconfig, logs


def test_status(live: LiveLab) -> None:
    found = json.loads(lab(live, "status", "-o", "json").stdout)
    assert found["ok"]
    assert [node["name"] for node in found["nodes"]] == ["node1", "node2"]
    assert all(node["ready"] for node in found["nodes"])
    assert sum(node["pods"] for node in found["nodes"]) == 9
    assert {program["name"] for program in found["programs"]} == {
        *("supervisor", "api"),
        *(f"{what}-{node}" for what in ("agent", "kubelet", "proxy") for node in ("node1", "node2")),
    }
    assert all(program["state"] == "running" and program["pid"] for program in found["programs"])


def test_status_of_a_lab_that_lost_something(live: LiveLab) -> None:
    with live.without("agent-node1"):
        done = lab(live, "status")
        assert done.returncode == 1
        assert "not running: agent-node1" in done.stdout
    until(lambda: lab(live, "status").returncode == 0, "all is well again", 20, 0.2)


def test_status_without_an_api(live: LiveLab) -> None:
    with live.without("api"):
        done = lab(live, "status", "-o", "json")
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert "no answer from" in found["summary"]
    assert [node["ready"] for node in found["nodes"]] == [None, None]


def test_kubeconfig_prints_a_path(live: LiveLab) -> None:
    path = lab(live, "kubeconfig").stdout.strip()
    assert path == live.lab.kubeconfig
    assert run("kubectl", "--kubeconfig", path, "get", "--raw", "/readyz").startswith("ok")


@pytest.mark.parametrize(
    ("what", "words"),
    [("api", ["podnet apiserver is ready"]), ("node1", ["agent-node1 ", "kubelet-node1 "]), ("supervisor", [])],
)
def test_logs(live: LiveLab, what: str, words: list[str]) -> None:
    done = lab(live, "logs", what)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)


def test_logs_of_nobody(live: LiveLab) -> None:
    done = lab(live, "logs", "node9")
    assert done.returncode == 2
    assert "has no node 'node9'" in done.stderr


def test_logs_follow(live: LiveLab) -> None:
    live.back("kubelet-node1", live.kill("kubelet-node1"))  # so that there is a line to begin with
    argv = [PODNET, "lab", "logs", "--name", live.name, "-f", "--tail", "1", "supervisor"]
    following = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout
        assert following.stdout.readline()
        pid = live.kill("kubelet-node2")
        assert "kubelet-node2 ended with 137" in following.stdout.readline()
        live.back("kubelet-node2", pid)
    finally:
        following.kill()
        following.communicate()


# -- nodes


def test_a_node_comes_and_goes_and_the_others_do_not_notice(live: LiveLab) -> None:
    with watching(live) as watched:
        done = lab(live, "add-node")
        assert done.returncode == 0, done.stderr
        assert "node3 is ready" in done.stderr
        run(PODNET, "check", "--lab", live.name)
        live.create_pod("guest", "node3")
        until(lambda: live.running("guest"), "a pod runs there", 15)
        done = lab(live, "remove-node", "node3")
        assert done.returncode == 0, done.stderr
        assert "1 pod of node3 ended" in done.stderr
    watched[0].lossless()
    assert [node.name for node in live.lab.nodes] == ["node1", "node2"]
    assert "node3" not in live.nodes()
    assert not os.path.exists(f"{live.lab.folder}/nodes/node3")
    assert not os.path.exists(f"{live.lab.folder}/netns/node3")
    assert not os.path.exists(live.lab.program("agent-node3"))
    assert "node3" not in run("nsenter", f"--net={live.lab.fabric_netns}", "ip", "link")
    assert not process.shims(f"{live.lab.folder}/nodes/node3")
    assert lab(live, "status").returncode == 0


def test_removing_a_node_that_is_not_there(live: LiveLab) -> None:
    done = lab(live, "remove-node", "node9")
    assert done.returncode == 2
    assert "its nodes: node1, node2" in done.stderr


# -- wrong input changes nothing


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "5"], "has 2 nodes: use podnet lab add-node"),
        (["--dual-stack"], "is IPv4 only"),
        (["--backend", "carrier-pigeon"], "there is no backend 'carrier-pigeon': use one of"),
        (["--backend", "host-gw"], "the cluster's backend is vxlan"),
        (["--attachment", "bridge"], "the cluster's attachment is ptp"),
        (["--nodes", "0"], "is not in the range"),
        (["--attachment", "glue"], "is not one of"),
    ],
)
def test_up_with_other_wishes(live: LiveLab, words: list[str], says: str) -> None:
    before = open_programs(live)
    done = lab(live, "up", "--no-check", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert open_programs(live) == before


def open_programs(live: LiveLab) -> dict[str, object]:
    return {name: process.look(live.lab.program(name)) for name in os.listdir(f"{live.lab.folder}/programs")}


@pytest.mark.parametrize("command", ["status", "kubeconfig", "exec", "add-node", "remove-node", "logs"])
def test_a_lab_that_is_not_there(live: LiveLab, command: str) -> None:
    more = {"exec": ["x", "--", "true"], "remove-node": ["x"], "logs": ["api"]}.get(command, [])
    done = subprocess.run(
        [PODNET, "lab", command, "--name", "nowhere", *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("podnet: no lab is named 'nowhere'; there are: ")
