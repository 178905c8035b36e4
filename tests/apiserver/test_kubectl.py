"""Unmodified kubectl, the oldest and the newest we serve, does to this server what it does to Kubernetes."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from podnet.objects.kinds import NODES, PODS
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, until
from tests.apiserver.documents import Document, at

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.xdist_group("kubectl")]


class Kubectl:
    """Runs kubectl as the cluster's administrator; output is stdout, or stderr of a failure."""

    def __init__(self, binary: Path, api: Api) -> None:
        self.words = [
            str(binary),
            "--kubeconfig",
            str(api.folder / "admin.kubeconfig"),
            "--cache-dir",
            str(api.folder / "cache"),
        ]

    async def start(self, *words: str, stdin: str | None = None) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        given = pipe if stdin is not None else asyncio.subprocess.DEVNULL
        env = {**os.environ, "KUBECTL_EXTERNAL_DIFF": "diff -u"}
        process = await asyncio.create_subprocess_exec(
            *self.words, *words, stdin=given, stdout=pipe, stderr=pipe, env=env
        )
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin.encode())
            process.stdin.close()
        return process

    async def __call__(self, *words: str, stdin: str | None = None, code: int = 0) -> str:
        process = await self.start(*words, stdin=stdin)
        out, err = await process.communicate()
        assert process.returncode == code, (
            f"kubectl {' '.join(words)}: {process.returncode}\n{out.decode()}{err.decode()}"
        )
        assert code or not err, err.decode()
        return (out + (err if code else b"")).decode()

    async def object(self, *words: str) -> Any:
        return json.loads(await self(*words, "-o", "json"))


@pytest.fixture
def k(kubectl: Path, api: Api) -> Kubectl:
    return Kubectl(kubectl, api)


def manifest(*documents: Document) -> str:
    return str(yaml.safe_dump_all(documents))


async def test_get_prints_upstreams_columns(k: Kubectl, api: Api) -> None:
    await api.create(NODES, make.node())
    await api.create(PODS, at(make.pod(nodeName="n1"), "metadata.labels", {"app": "web"}))
    assert (await k("get", "pods")).splitlines()[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    wide = (await k("get", "po", "-o", "wide", "-l", "app=web")).splitlines()
    assert wide[0].split()[5:7] == ["IP", "NODE"]
    assert wide[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    assert (await k("get", "no", "-o", "jsonpath={.items[*].metadata.name}")) == "n1"
    assert (await k("get", "po", "-A", "--field-selector", "spec.nodeName=n1", "-o", "name")) == "pod/web\n"
    described = await k("describe", "pod", "web")
    assert "Node:" in described
    assert "n1/" in described
    for name in ("configmaps", "networkconfigs", "endpointslices", "leases"):
        assert name in await k("api-resources", "--no-headers")


async def test_apply_diff_edit_and_delete(k: Kubectl, api: Api) -> None:
    first = manifest(
        make.pod(nodeName="n1"),
        make.service(ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]),
        make.network_config(),
    )
    assert (await k("apply", "-f", "-", stdin=first)).splitlines() == [
        "pod/web created", "service/web created", "networkconfig.podnet.dev/default created",
    ]  # fmt: skip
    again = await k("apply", "-f", "-", stdin=first)
    assert all(line.endswith("unchanged") for line in again.splitlines()), again
    second = manifest(
        at(make.pod(nodeName="n1"), "spec.containers.0.image", "nginx:2"),
        make.service(ports=[{"port": 82, "name": "b"}, {"port": 80, "name": "a"}]),
        make.network_config(backend={"type": "host-gw"}),
    )
    assert "-    port: 81" in await k("diff", "-f", "-", stdin=second, code=1)
    await k("apply", "--dry-run=server", "-f", "-", stdin=second)
    assert (await k.object("get", "svc", "web"))["spec"]["ports"][1]["port"] == 81
    changed = await k("apply", "-f", "-", stdin=second)
    assert all(line.endswith("configured") for line in changed.splitlines()), changed
    ports = (await k.object("get", "svc", "web"))["spec"]["ports"]
    assert [(port["name"], port["port"], port["targetPort"]) for port in ports] == [("b", 82, 82), ("a", 80, 80)]
    assert (await k.object("get", "netcfg", "default"))["spec"]["backend"] == {"type": "host-gw"}
    await k("delete", "svc,netcfg", "--all")
    assert await k("get", "svc,netcfg", "-o", "name") == ""


async def test_small_changes(k: Kubectl, api: Api) -> None:
    await api.create(PODS, make.pod(nodeName="n1"))
    await k("label", "pod", "web", "a=b", "c=d")
    await k("label", "pod", "web", "a-")
    await k("annotate", "pod", "web", "x=y")
    await k("set", "image", "pod/web", "main=nginx:3")
    await k("patch", "pod", "web", "--type=json", "-p", '[{"op":"add","path":"/metadata/labels/e","value":"f"}]')
    await k("patch", "pod", "web", "--type=merge", "-p", '{"metadata":{"labels":{"c":null}}}')
    await k("patch", "pod", "web", "-p", '{"spec":{"tolerations":[{"operator":"Exists"}]}}')
    pod = await k.object("get", "pod", "web")
    assert (pod["metadata"]["labels"], pod["metadata"]["annotations"]) == ({"e": "f"}, {"x": "y"})
    assert (pod["spec"]["containers"][0]["image"], pod["spec"]["tolerations"]) == ("nginx:3", [{"operator": "Exists"}])
    await k("replace", "-f", "-", stdin=json.dumps(at(pod, "metadata.labels", {"g": "h"})))
    assert (await k.object("get", "pod", "web"))["metadata"]["labels"] == {"g": "h"}


async def test_create_with_protobuf_bodies_and_a_namespaces_end(k: Kubectl, api: Api) -> None:
    await k("create", "namespace", "team")
    await k("-n", "team", "create", "configmap", "settings", "--from-literal=a=b")
    await k("-n", "team", "create", "secret", "generic", "key", "--from-literal=a=x")
    await k("-n", "team", "create", "service", "clusterip", "web", "--tcp=80:8080")
    await k("-n", "team", "run", "once", "--image=nginx", "--restart=Never")
    assert (await k.object("-n", "team", "get", "cm", "settings"))["data"] == {"a": "b"}
    assert (await k.object("-n", "team", "get", "secret", "key"))["data"] == {"a": "eA=="}
    port = (await k.object("-n", "team", "get", "svc", "web"))["spec"]["ports"][0]
    assert (port["port"], port["targetPort"]) == (80, 8080)
    await k("delete", "namespace", "team", "--timeout=20s")
    assert "NotFound" in await k("get", "namespace", "team", code=1)


async def test_what_is_wrong_is_said_as_upstream_says_it(k: Kubectl, api: Api) -> None:
    assert 'pods "nope" not found' in await k("get", "pod", "nope", code=1)
    wrong = at(make.pod("Web"), "spec.restartPolicy", "Sometimes")
    said = await k("create", "-f", "-", stdin=manifest(wrong), code=1)
    assert "* metadata.name: Invalid value" in said
    assert '* spec.restartPolicy: Unsupported value: "Sometimes"' in said
    await k("create", "configmap", "twice")
    assert 'configmaps "twice" already exists' in await k("create", "configmap", "twice", code=1)


async def lines(process: asyncio.subprocess.Process, count: int) -> list[list[str]]:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return [(await process.stdout.readline()).decode().split() for _ in range(count)]


async def test_watch_wait_and_delete_gracefully(k: Kubectl, api: Api) -> None:
    await api.create(PODS, make.pod(nodeName="n1"))
    path = PODS.path("default", "web")
    watching = await k.start("get", "pods", "-w")
    header, first = await lines(watching, 2)
    assert (header[0], first[2]) == ("NAME", "Pending")
    waiting = asyncio.create_task(k("wait", "pod/web", "--for=condition=Ready", "--timeout=20s"))
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await api.patch(path + "/status", {"status": status})
    assert (await lines(watching, 1))[0][2] == "Running"
    assert await waiting == "pod/web condition met\n"
    deleting = asyncio.create_task(k("delete", "pod", "web"))
    assert (await lines(watching, 1))[0][2] == "Terminating"
    assert not deleting.done()
    await api.ask("DELETE", path, {"gracePeriodSeconds": 0})
    assert 'pod "web" deleted' in await deleting
    watching.terminate()
    await watching.communicate()


async def test_logs(k: Kubectl, api: Api) -> None:
    from tests.apiserver.test_logs import kubelet

    async with kubelet(api) as served:
        assert await k("logs", "web", "--tail=5") == "line 1\nline 2\n"
        following = await k.start("logs", "-f", "web")
        assert await lines(following, 1) == [["line", "1"]]
        served.more.set()
        assert await lines(following, 1) == [["line", "2"]]
        await following.communicate()
        assert following.returncode == 0
    assert ("/containerLogs/default/web/main", {"tailLines": "5"}) in served.asked


async def test_events_of_a_pod_that_waits(k: Kubectl, api: Api) -> None:
    await api.create(PODS, make.pod())

    async def described() -> bool:
        return "no nodes available to schedule pods" in await k("describe", "pod", "web")

    await until(described, 30)
    assert "FailedScheduling" in await k("get", "events")
