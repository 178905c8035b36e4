"""The lab's kubelet with real pods: namespaces, files, restarts, probes, ends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from podnet.lab import process
from tests.lab.kubelet_pods import ECHO, PAUSE, Pods, pods_of, sh
from tests.lab.labs import LiveLab, live_lab, needs_root, run, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-kubelet"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("kubelet", "--nodes", "2", "--no-demo", "--dual-stack") as made:
        yield made


@pytest.fixture
def pods(live: LiveLab) -> Iterator[Pods]:
    with pods_of(live) as found:
        yield found


# -- what is inside


def test_a_container_has_namespaces_of_its_own(pods: Pods) -> None:
    pods.create("inside", PAUSE, sh("sleep 600", "second"))
    pods.ready("inside")
    found = pods.sandbox("inside")
    spaces = {}
    for name in ("main", "second"):
        state = process.look(f"{found.folder}/containers/{name}/0")
        assert isinstance(state, process.Running)
        spaces[name] = {kind: os.readlink(f"/proc/{state.pid}/ns/{kind}") for kind in ("net", "uts", "mnt")}
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "uts", "mnt")}
    for kind in own:
        assert spaces["main"][kind] != own[kind]
    assert spaces["main"]["net"] == spaces["second"]["net"]
    assert spaces["main"]["mnt"] != spaces["second"]["mnt"]


def test_hostname_hosts_resolv_conf_and_sys(pods: Pods) -> None:
    pods.create("files", PAUSE, hostAliases=[{"ip": "1.2.3.4", "hostnames": ["db"]}])
    pods.ready("files")
    address = pods.status("files")["podIP"]
    assert pods.execute("files", "hostname").strip() == "files"
    hosts = pods.execute("files", "cat", "/etc/hosts")
    assert f"{address}\tfiles" in hosts
    assert "1.2.3.4\tdb" in hosts
    assert "search default.svc.cluster.local" in pods.execute("files", "cat", "/etc/resolv.conf")
    assert pods.execute("files", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert "1.2.3.4" not in run("cat", "/etc/hosts")


def test_both_addresses_are_reported_and_there(pods: Pods) -> None:
    pods.create("dual", PAUSE)
    pods.ready("dual")
    addresses = [each["ip"] for each in pods.status("dual")["podIPs"]]
    assert len(addresses) == 2
    shown = pods.execute("dual", "ip", "-o", "address", "show", "dev", "eth0")
    assert all(f" {address}/" in shown for address in addresses)
    assert pods.status("dual")["hostIPs"] == [{"ip": "192.168.77.11"}, {"ip": "fd77::11"}]


def test_environment_and_arguments(pods: Pods) -> None:
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "BOTH", "value": "$(NODE)/$(IP)"},
    ]
    words = {"command": ["sh", "-c"], "args": ["echo $BOTH $(NODE)"]}
    pods.create("env", {"name": "main", "env": env, **words}, restartPolicy="Never")
    status = pods.phase("env", "Succeeded")
    assert pods.logs("env") == f"node1/{status['podIP']} node1\n"


def test_containers_of_a_pod_share_localhost(pods: Pods) -> None:
    ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    client = {"name": "client", "command": ["bash", "-c", f"sleep 0.5; {ask}; sleep 600"]}
    pods.create("shared", {"name": "server", "command": [*ECHO, "8080"]}, client)
    pods.ready("shared")
    text = until(lambda: pods.logs("shared", container="client"), "the client was answered", 10)
    assert '"client": "127.0.0.1"' in text


def test_a_pod_with_hostnetwork_is_the_node(pods: Pods, live: LiveLab) -> None:
    pods.create("host", PAUSE, hostNetwork=True)
    pods.ready("host")
    assert pods.status("host")["podIP"] == "192.168.77.11"
    assert pods.execute("host", "hostname").strip() == "node1"
    assert os.path.samestat(os.stat(pods.sandbox("host").netns), os.stat(live.lab.nodes[0].netns))


def test_a_container_holds_no_other_pods_network(pods: Pods) -> None:
    """A mount namespace is a copy: what it copied of others would keep their links alive."""
    pods.create("early", PAUSE)
    pods.ready("early")
    pods.create("late", PAUSE)
    pods.ready("late")
    assert "nsfs" not in pods.execute("late", "cat", "/proc/self/mounts")


def test_nothing_is_seen_of_the_kubelet(pods: Pods) -> None:
    pods.create("clean", sh("ls /proc/self/fd; env; sleep 600"))
    pods.ready("clean")
    text = until(lambda: pods.logs("clean"), "it wrote", 5)
    assert set(re.findall(r"^\d+$", text, re.MULTILINE)) == {"0", "1", "2", "3"}
    assert "PYTHON" not in text


# -- how it ends


def test_success_and_failure(pods: Pods) -> None:
    pods.create("good", sh("exit 0"), restartPolicy="Never")
    pods.create("bad", sh("exit 3"), restartPolicy="Never")
    assert pods.phase("good", "Succeeded")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert pods.phase("bad", "Failed")["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    until(lambda: not pods.sandbox("good").ips, "its addresses are given back", 10)


def test_a_crash_is_restarted_and_then_waits(pods: Pods) -> None:
    pods.create("crash", sh("exit 1"))
    until(lambda: pods.container("crash")["restartCount"] == 1, "it was restarted once")
    waiting = until(lambda: pods.container("crash")["state"].get("waiting"), "it waits")
    assert waiting["reason"] == "CrashLoopBackOff"
    assert pods.container("crash")["lastState"]["terminated"]["exitCode"] == 1
    assert pods.status("crash")["phase"] == "Running"


def test_a_command_that_is_not_there(pods: Pods) -> None:
    pods.create("nothing", {"name": "main", "command": ["/no/such/program"]}, restartPolicy="Never")
    ended = pods.phase("nothing", "Failed")["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "No such file" in ended["message"]


def test_init_containers_come_first(pods: Pods) -> None:
    folder = "/tmp/init"
    inits = [sh("echo one; sleep 0.3", "one"), sh("echo two", "two")]
    pods.create("init", sh(f"test ! -e {folder}; sleep 600"), initContainers=[{"image": "x", **each} for each in inits])
    pods.ready("init")
    found = pods.status("init")["initContainerStatuses"]
    times = [each["state"]["terminated"] for each in found]
    assert times[0]["finishedAt"] <= times[1]["startedAt"]
    assert pods.logs("init", container="one") == "one\n"


def test_deletion_is_graceful(pods: Pods) -> None:
    script = "trap 'echo bye; sleep 0.2; exit 0' TERM; echo hi; while :; do sleep 0.05; done"
    pods.create("polite", sh(script), terminationGracePeriodSeconds=10)
    pods.ready("polite")
    until(lambda: pods.logs("polite"), "it began")
    began = time.monotonic()
    pods.delete("polite")
    assert pods.exists("polite")
    pods.gone("polite")
    assert time.monotonic() - began < 8


def test_deletion_kills_after_the_grace(pods: Pods) -> None:
    pods.create("stubborn", sh("trap '' TERM; while :; do sleep 0.05; done"), terminationGracePeriodSeconds=1)
    pods.ready("stubborn")
    began = time.monotonic()
    pods.delete("stubborn")
    pods.gone("stubborn")
    assert time.monotonic() - began >= 1


def test_deletion_leaves_nothing(pods: Pods, live: LiveLab) -> None:
    node = live.lab.nodes[0].name
    before = live.dump(node)
    pods.create("traces", sh("setsid sleep 600 & sleep 600"), sh("sleep 600", "two"))
    pods.ready("traces")
    found = pods.sandbox("traces")
    inside = process.members(frozenset(filter(None, [process.identity(found.netns)])))
    assert len(inside) >= 3
    pods.delete("traces")
    pods.gone("traces")
    assert not [pid for pid in inside if os.path.exists(f"/proc/{pid}") and process.identity(f"/proc/{pid}/ns/net")]
    assert not os.path.exists(found.folder)
    until(lambda: live.dump(node) == before, "the node is as it was", 5)


def test_a_forced_deletion_leaves_nothing_either(pods: Pods) -> None:
    pods.create("forced", sh("trap '' TERM; sleep 600"), terminationGracePeriodSeconds=600)
    pods.ready("forced")
    folder = pods.sandbox("forced").folder
    pods.delete("forced", 0)
    until(lambda: not os.path.exists(folder), "its folder is gone", 10)


def test_a_name_can_be_used_again_at_once(pods: Pods) -> None:
    addresses = set()
    for _ in range(3):
        pods.create("again", PAUSE)
        pods.ready("again")
        addresses.add(pods.status("again")["podIP"])
        pods.delete("again")
        pods.gone("again")
    assert len(addresses) == 3


# -- probes


def test_http_readiness_from_the_node(pods: Pods) -> None:
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1}
    ports = [{"name": "web", "containerPort": 8080}]
    command = ["sh", "-c", f"sleep 1; exec {' '.join(ECHO)} 8080"]
    late = {"name": "main", "command": command, "readinessProbe": probe, "ports": ports}
    pods.create("late", late)
    pods.phase("late", "Running")
    assert pods.condition("late", "Ready") == "False"
    pods.ready("late")


def test_tcp_liveness_restarts(pods: Pods) -> None:
    probe = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1}
    pods.create("dead", sh("sleep 600", livenessProbe=probe))
    until(lambda: pods.container("dead")["restartCount"] >= 1, "it was restarted", 20)
    assert pods.container("dead")["lastState"]["terminated"]["exitCode"] == 143


def test_exec_startup_inside_the_container(pods: Pods) -> None:
    command = ["sh", "-c", 'test "$(hostname)" = slow && test -e "/tmp/$TOKEN"']
    probe = {"exec": {"command": command}, "periodSeconds": 1, "failureThreshold": 30}
    token = f"podnet-test-{os.getpid()}"
    env = [{"name": "TOKEN", "value": token}]
    pods.create("slow", sh(f"sleep 1; touch /tmp/{token}; sleep 600", startupProbe=probe, env=env))
    try:
        pods.phase("slow", "Running")
        assert not pods.container("slow")["started"]
        pods.ready("slow")
        assert pods.container("slow")["started"]
    finally:
        os.unlink(f"/tmp/{token}")
