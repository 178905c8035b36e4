"""Endpoints in a live lab: they follow what kubelets say of real pods, and containers are told of Services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podnet.objects.kinds import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES
from podnet.objects.services import SERVICE_NAME
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-endpoints"), pytest.mark.timeout(120)]

State = tuple[Any, Any, Any]
"""ready, serving, terminating."""
READY, UNREADY, LEAVING = (True, True, False), (False, False, False), (False, True, True)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("endpoints", "--nodes", "2", "--no-demo") as made:
        yield made


def serve(live: LiveLab, name: str, **spec: Any) -> None:
    """A Service in front of all pods with its name as their app."""
    whole = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}], **spec}
    document = {"metadata": {"name": name, "namespace": "default"}, "spec": whole}
    live.api(lambda api: api.create(SERVICES, document, into=dict))


def start(live: LiveLab, name: str, app: str, script: str, port: int = 8080, **container: Any) -> None:
    command = ["sh", "-c", script]
    main = {"name": "main", "image": "test", "command": command, "ports": [{"containerPort": port, "name": "web"}]}
    spec = {"terminationGracePeriodSeconds": 20, "containers": [{**main, **container}]}
    document = {"metadata": {"name": name, "namespace": "default", "labels": {"app": app}}, "spec": spec}
    live.api(lambda api: api.create(PODS, document, into=dict))


def endpoints(live: LiveLab, service: str) -> dict[str, tuple[int, State]]:
    """Pods behind a Service: the port at which each listens, and its state."""
    every = live.api(lambda api: api.list(ENDPOINTSLICES, "default", into=dict))
    found = [each for each in every if each["metadata"]["labels"].get(SERVICE_NAME) == service]
    return {
        endpoint["targetRef"]["name"]: (
            slice_["ports"][0]["port"],
            tuple(endpoint["conditions"][name] for name in ("ready", "serving", "terminating")),
        )
        for slice_ in found for endpoint in slice_["endpoints"]
    }  # fmt: skip


def become(live: LiveLab, service: str, expected: dict[str, tuple[int, State]]) -> None:
    until(lambda: endpoints(live, service) == expected, f"{service} has {expected}", 15)


def test_endpoints_follow_readiness_and_deletion(live: LiveLab, tmp_path: Path) -> None:
    gate = tmp_path / "ready"
    serve(live, "web")
    probe = {"exec": {"command": ["test", "-e", str(gate)]}, "periodSeconds": 1}
    lingering = f"trap 'while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 0' TERM; while :; do sleep 0.05; done"
    start(live, "a", "web", lingering, readinessProbe=probe)
    start(live, "b", "web", "exec sleep 60", port=9090)
    become(live, "web", {"a": (8080, UNREADY), "b": (9090, READY)})
    gate.touch()
    become(live, "web", {"a": (8080, READY), "b": (9090, READY)})
    os.unlink(gate)
    become(live, "web", {"a": (8080, UNREADY), "b": (9090, READY)})
    gate.touch()
    become(live, "web", {"a": (8080, READY), "b": (9090, READY)})
    live.api(lambda api: api.delete(PODS, "a", "default"))
    become(live, "web", {"a": (8080, LEAVING), "b": (9090, READY)})
    (tmp_path / "go").touch()
    become(live, "web", {"b": (9090, READY)})
    old = live.api(lambda api: api.get(ENDPOINTS, "web", "default", into=dict))
    assert [each["targetRef"]["name"] for subset in old["subsets"] for each in subset["addresses"]] == ["b"]


def test_containers_are_told_of_services(live: LiveLab) -> None:
    serve(live, "early")
    start(live, "told", "none", "env; exec sleep 60")

    async def read(api: Any) -> bytes:
        return b"".join([piece async for piece in api.logs("told", "default")])

    def ready() -> bool:
        pod = live.api(lambda api: api.get(PODS, "told", "default", into=dict))
        return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))

    until(ready, "the pod is ready", 15)
    found = dict(line.split("=", 1) for line in live.api(read).decode().splitlines())
    service = live.api(lambda api: api.get(SERVICES, "early", "default", into=dict))
    assert found["EARLY_SERVICE_HOST"] == service["spec"]["clusterIP"]
    assert found["EARLY_PORT_80_TCP"] == f"tcp://{service['spec']['clusterIP']}:80"
    assert "KUBERNETES_SERVICE_HOST" in found
