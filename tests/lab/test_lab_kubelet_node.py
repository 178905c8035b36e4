"""The lab's kubelet as part of its node: logs, ports, the Node object, its own death and its agent's."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from podnet.client.errors import ApiError
from podnet.lab import process
from podnet.lab.containers import runs
from podnet.objects.kinds import LEASES, NODES
from tests.lab.kubelet_pods import ECHO, PAUSE, Pods, pods_of, sh
from tests.lab.labs import LiveLab, live_lab, needs_root, run, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-kubelet-node"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("kubelet2", "--nodes", "2", "--no-demo", "--dual-stack") as made:
        yield made


@pytest.fixture
def pods(live: LiveLab) -> Iterator[Pods]:
    with pods_of(live) as found:
        yield found


# -- logs


def test_logs_with_every_option(pods: Pods) -> None:
    pods.create("writer", sh("for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; sleep 600"))
    pods.ready("writer")
    until(lambda: pods.logs("writer").endswith("err\n") or pods.logs("writer").count("\n") == 6, "it wrote")
    assert sorted(pods.logs("writer").splitlines()) == ["err", *(f"line {i}" for i in range(1, 6))]
    assert pods.logs("writer", tailLines=1).count("\n") == 1
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z ", pods.logs("writer", timestamps=True, tailLines=1))
    assert pods.logs("writer", limitBytes=4) == "line"
    assert pods.logs("writer", sinceSeconds=3600).count("\n") == 6


def test_logs_follow_to_the_end(pods: Pods) -> None:
    pods.create("talk", sh("for i in 1 2 3; do echo $i; sleep 0.3; done"), restartPolicy="Never")
    until(lambda: pods.status("talk").get("phase") in ("Running", "Succeeded"), "it runs")
    assert pods.logs("talk", follow=True) == "1\n2\n3\n"


def test_logs_of_the_run_before(pods: Pods) -> None:
    pods.create("twice", sh("echo run; exit 1"))
    until(lambda: pods.container("twice")["restartCount"] >= 1, "it was restarted")
    assert pods.logs("twice", previous=True) == "run\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [({"container": "none"}, "container none is not valid"), ({"previous": True}, "previous terminated container")],
)
def test_logs_that_are_not_there(pods: Pods, options: dict[str, Any], says: str) -> None:
    pods.create("quiet", PAUSE)
    pods.ready("quiet")
    with pytest.raises(ApiError, match=says) as error:
        pods.logs("quiet", **options)
    assert error.value.code == 400


def test_logs_only_with_a_certificate(live: LiveLab) -> None:
    url = "https://192.168.77.11:10250/containerLogs/default/x/y"
    words = ["curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", url]
    done = live.run("node2", words, code=None)
    assert done == "000"


def test_kubectl_agrees(pods: Pods, live: LiveLab) -> None:
    kubectl = ["kubectl", "--kubeconfig", live.lab.kubeconfig]
    pods.create("seen", sh("echo hello; sleep 600"))
    pods.ready("seen")
    assert "1/1" in run(*kubectl, "get", "pod", "seen")
    until(lambda: pods.logs("seen"), "it wrote")
    assert run(*kubectl, "logs", "seen") == "hello\n"
    assert run(*kubectl, "wait", "--for=condition=Ready", "pod/seen", "--timeout=5s")
    run(*kubectl, "delete", "pod", "seen", "--wait")


# -- ports and bandwidth (what they do is the agent's tests' business)


def test_host_ports_and_bandwidth_reach_the_plugin(pods: Pods) -> None:
    ports = [{"containerPort": 8080, "hostPort": 18080}]
    limits = {"kubernetes.io/ingress-bandwidth": "10M"}
    pods.create("ports", {"name": "main", "command": [*ECHO, "8080"], "ports": ports}, annotations=limits)
    pods.ready("ports")
    known = pods.live.record("ports")
    assert [(port.host_port, port.container_port) for port in known.ports] == [(18080, 8080)]
    assert known.bandwidth is not None
    assert known.bandwidth.ingress_rate == 10_000_000


# -- the node


def test_the_node_object(live: LiveLab) -> None:
    node = live.nodes()["node1"]
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "node1"
    addresses = [(each["type"], each["address"]) for each in node["status"]["addresses"]]
    assert addresses == [("InternalIP", "192.168.77.11"), ("InternalIP", "fd77::11"), ("Hostname", "node1")]
    assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    lease = live.api(lambda api: api.get(LEASES, "node1", "kube-node-lease", into=dict))
    assert lease["spec"]["holderIdentity"] == "node1"


def ready_condition(live: LiveLab) -> dict[str, Any]:
    conditions = live.nodes()["node2"]["status"]["conditions"]
    found: dict[str, Any] = next(each for each in conditions if each["type"] == "Ready")
    return found


def test_without_a_conflist_the_node_is_not_ready_and_pods_wait(live: LiveLab, pods: Pods) -> None:
    with live.without("agent-node2", number=signal.SIGTERM):
        until(lambda: ready_condition(live)["status"] == "False", "the node is not ready", 10)
        assert "cni plugin not initialized" in ready_condition(live)["message"]
        pods.create("early", PAUSE, nodeName="node2")
        pods.create("host", PAUSE, nodeName="node2", hostNetwork=True)
        pods.ready("host")
        assert pods.container("early")["state"]["waiting"]["reason"] == "ContainerCreating"
    pods.ready("early")
    until(lambda: ready_condition(live)["status"] == "True", "the node is ready", 10)


def test_a_node_object_that_someone_deleted_comes_back(live: LiveLab) -> None:
    live.api(lambda api: api.delete(NODES, "node2"))
    live.kill("kubelet-node2")
    until(lambda: "node2" in live.nodes() and ready_condition(live)["status"] == "True", "it is registered", 20)


# -- its own death


def _served(live: LiveLab) -> bool:
    return ":10250" in live.run("node1", "ss -tln")


def test_a_killed_kubelet_adopts_everything(pods: Pods, live: LiveLab) -> None:
    pods.create("kept", sh("echo begun; sleep 600", readinessProbe={"exec": {"command": ["true"]}}))
    pods.ready("kept")
    folder = f"{pods.sandbox('kept').folder}/containers/main/0"
    before = process.look(folder)
    pid = live.kill("kubelet-node1")
    live.back("kubelet-node1", pid)
    until(lambda: _served(live), "the kubelet listens", 15)
    assert pods.logs("kept") == "begun\n"
    assert process.look(folder) == before
    assert pods.container("kept")["restartCount"] == 0
    assert pods.condition("kept", "Ready") == "True"


def test_what_happened_meanwhile_is_made_up_for(pods: Pods, live: LiveLab) -> None:
    pods.create("ends", sh("sleep 1; exit 4"), restartPolicy="Never")
    pods.create("deleted", PAUSE)
    pods.create("forgotten", PAUSE)
    for name in ("ends", "deleted", "forgotten"):
        pods.ready(name)
    forgotten = pods.sandbox("forgotten").folder
    with live.without("kubelet-node1"):
        pods.delete("deleted")
        pods.delete("forgotten", 0)
        pods.create("new", PAUSE)
        time.sleep(1.2)
    assert pods.phase("ends", "Failed")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    pods.gone("deleted")
    pods.ready("new")
    until(lambda: not os.path.exists(forgotten), "what the API no longer has is swept", 10)


def test_a_killed_shim_is_a_crash(pods: Pods) -> None:
    pods.create("shot", sh("sleep 600 & wait"))
    pods.ready("shot")
    found = process.look(f"{pods.sandbox('shot').folder}/containers/main/0")
    assert isinstance(found, process.Running)
    os.kill(found.shim, signal.SIGKILL)
    until(lambda: pods.container("shot")["restartCount"] == 1, "it was restarted", 10)
    assert pods.container("shot")["lastState"]["terminated"]["exitCode"] == 137
    assert runs(f"{pods.sandbox('shot').folder}/containers/main") == [0, 1]


def test_many_pods_at_once(pods: Pods) -> None:
    names = [f"many-{number}" for number in range(20)]
    for name in names:
        pods.create(name, PAUSE)
    for name in names:
        pods.ready(name)
    addresses = {pods.status(name)["podIP"] for name in names}
    assert len(addresses) == 20
    for name in names:
        pods.delete(name)
    for name in names:
        pods.gone(name)


def test_the_echo_of_the_demo_says_who_asks(pods: Pods, live: LiveLab) -> None:
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    pods.create("echo", {"name": "main", "command": [*ECHO, "8080"], "readinessProbe": probe})
    pods.ready("echo")
    for address in (each["ip"] for each in pods.status("echo")["podIPs"]):
        host = f"[{address}]" if ":" in address else address
        answer = json.loads(live.run("node2", ["curl", "-sg", "--max-time", "5", f"http://{host}:8080/"]))
        assert answer["server"] == address
        assert answer["hostname"] == "echo"
