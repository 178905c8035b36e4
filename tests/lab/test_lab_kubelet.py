"""The lab's kubelet with real pods: namespaces, files, logs, restarts, probes, ends, and its own death."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from podnet.client.errors import ApiError
from podnet.lab import echo, process
from podnet.lab.containers import runs
from podnet.lab.sandbox import Sandbox, read_all
from podnet.objects.kinds import LEASES, NODES, PODS
from tests.lab.labs import PODNET, LiveLab, live_lab, needs_root, run, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-kubelet"), pytest.mark.timeout(120)]

Json = dict[str, Any]

ECHO = [sys.executable, "-I", "-S", echo.__file__]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("kubelet", "--nodes", "2", "--no-demo", "--dual-stack") as made:
        yield made


class Pods:
    """Makes pods and looks at them; all are gone after the test."""

    def __init__(self, live: LiveLab) -> None:
        self.live = live
        self.made: list[str] = []

    def create(self, name: str, *containers: Json, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        each = [{"image": "test", **container} for container in containers]
        document = {
            "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
            "spec": {"nodeName": "node1", "terminationGracePeriodSeconds": 1, **spec, "containers": each},
        }
        self.made.append(name)
        self.live.api(lambda api: api.create(PODS, document, into=dict))

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.live.api(lambda api: api.get(PODS, name, "default", into=dict))["status"]
        return found

    def condition(self, name: str, kind: str) -> str:
        found = {each["type"]: each["status"] for each in self.status(name).get("conditions", ())}
        return str(found.get(kind))

    def ready(self, name: str) -> None:
        until(lambda: self.condition(name, "Ready") == "True", f"{name} is ready", 15)

    def phase(self, name: str, wanted: str) -> dict[str, Any]:
        until(lambda: self.status(name).get("phase") == wanted, f"{name} is {wanted}", 15)
        return self.status(name)

    def container(self, name: str, number: int = 0) -> dict[str, Any]:
        all_of_them = until(lambda: self.status(name).get("containerStatuses"), f"{name} is reported")
        found: dict[str, Any] = all_of_them[number]
        return found

    def sandbox(self, name: str) -> Sandbox:
        found = [each for node in self.live.lab.nodes for each in read_all(node.pods_dir) if each.name == name]
        assert found, f"{name} has no sandbox"
        return found[-1]

    def delete(self, name: str, grace: int | None = None) -> None:
        self.live.api(lambda api: api.delete(PODS, name, "default", grace=grace))

    def gone(self, name: str, seconds: float = 15) -> None:
        """The object goes last: when it is gone nothing else may be left."""
        until(lambda: not self.exists(name), f"the object of {name} is gone", seconds)
        assert name not in self.sandboxes()

    def sandboxes(self) -> list[str]:
        return [each.name for node in self.live.lab.nodes for each in read_all(node.pods_dir)]

    def exists(self, name: str) -> bool:
        found = self.live.api(lambda api: api.list(PODS, "default", into=dict))
        return name in [each["metadata"]["name"] for each in found]

    def logs(self, name: str, **options: Any) -> str:
        async def read(api: Any) -> bytes:
            return b"".join([piece async for piece in api.logs(name, "default", **options)])

        return self.live.api(read).decode()

    def execute(self, name: str, *words: str, container: str = "", code: int = 0) -> str:
        options = ["-c", container] if container else []
        entering = [PODNET, "lab", "exec", "--name", self.live.name, *options, f"default/{name}", "--"]
        return run(*entering, *words, code=code)


@pytest.fixture
def pods(live: LiveLab) -> Iterator[Pods]:
    found = Pods(live)
    yield found
    for name in found.made:
        if found.exists(name):
            found.delete(name, 0)
    until(lambda: not set(found.made) & set(found.sandboxes()), "everything is gone", 20)


def sh(script: str, name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": ["sh", "-c", script], **fields}


PAUSE: Json = {"name": "main"}


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
