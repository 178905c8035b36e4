"""What can't be honoured stands in the object's own status, for as long as that is so, and everything else works."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from podnet.client.errors import ApiError
from podnet.objects.kinds import LEASES, SERVICEROUTES, SERVICES, Kind
from tests.lab.labs import NAMESPACE, needs_root, until
from tests.lab.service_world import Service, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("service-status"), pytest.mark.timeout(240)]

SHARED, OWN = "203.0.113.150", "203.0.113.151"
OVERLAPPING = [
    {"from": [cidr], "backends": [{"selector": {"app": "x"}, "weight": 1}]} for cidr in ("10.1.0.0/16", "10.1.2.0/24")
]
FOREIGN = {
    "type": "example.com/Shiny",
    "status": "True",
    "reason": "Polished",
    "message": "it shines",
    "lastTransitionTime": "2024-01-01T00:00:00Z",
}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
LISTEN = "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); print('listens', flush=True); input()"


@pytest.fixture(scope="module")
def there() -> Iterator[World]:
    with world("status") as made:
        yield made


@pytest.fixture(scope="module")
def first(there: World) -> Service:
    return there.service("first", "a", externalIPs=[SHARED])


def document(there: World, kind: Kind, name: str) -> dict[str, Any]:
    return there.live.api(lambda api: api.get(kind, name, NAMESPACE, into=dict))


def condition(there: World, kind: Kind, name: str) -> dict[str, Any]:
    """Ours, {} when there is none."""
    listed = document(there, kind, name).get("status", {}).get("conditions") or []
    return next((each for each in listed if each["type"].rpartition("/")[2] == "Accepted"), {})


def becomes(there: World, kind: Kind, name: str, status: str | None, reason: str = "") -> dict[str, Any]:
    """Our condition, once it has this status; None: once it is gone."""

    def there_is() -> bool:
        found = condition(there, kind, name)
        return found.get("status") == status and reason in (found.get("reason"), "")

    until(there_is, f"{kind.kind} {name} says {status} {reason}", 15, every=0.1)
    return condition(there, kind, name)


def plant(there: World, document: dict[str, Any]) -> None:
    """Put a ServiceRoute where no rule of today judges it: as an older API server would have left it."""
    meta = document["metadata"]
    meta |= {"uid": "planted", "creationTimestamp": "2024-01-01T00:00:00Z", "generation": 1, "namespace": NAMESPACE}
    with there.live.without("api"):
        database = sqlite3.connect(f"{there.live.lab.folder}/api/podnet.db")
        (newest,) = database.execute("SELECT max(revision) FROM log").fetchone()
        key, revision = ("serviceroutes.podnet.dev", NAMESPACE, meta["name"]), newest + 1
        meta["resourceVersion"] = str(revision)
        whole = {"kind": "ServiceRoute", "apiVersion": "podnet.dev/v1", **document}
        with database:
            database.execute("INSERT INTO cur VALUES (?, ?, ?, ?, ?)", (*key, revision, json.dumps(whole).encode()))
            database.execute("INSERT INTO log VALUES (?, ?, ?, ?, NULL, NULL)", (revision, *key))
        database.close()


def test_a_clash_stands_in_the_youngers_status_until_it_is_mended(there: World, first: Service) -> None:
    second = there.service("second", "b", externalIPs=[SHARED, OWN])
    there.live.api(lambda api: api.status(SERVICES, "second", {"conditions": [FOREIGN]}, NAMESPACE, into=dict))
    there.settle()
    found = becomes(there, SERVICES, "second", "False")
    assert (found["type"], found["reason"]) == ("podnet.dev/Accepted", "FrontendTaken")
    assert f"{SHARED} is that of Service {NAMESPACE}/first, which is older" in found["message"]
    assert found["lastTransitionTime"].endswith("Z")
    assert condition(there, SERVICES, "first") == {}
    rows = [
        (SHARED, 80, {"far": "a from node3", "near": "a from node1"}),
        (first.cluster(False), 80, {"far": "a from far"}),
        (second.cluster(False), 80, {"far": "b from far"}),
        (OWN, 80, {"far": "b from node3"}),
    ]
    there.check_all(rows)
    there.patch("second", externalIPs=[OWN])
    becomes(there, SERVICES, "second", None)
    assert document(there, SERVICES, "second")["status"]["conditions"] == [FOREIGN], "others' stay"


def test_overlapping_segments_are_refused_and_where_they_stand_already_the_route_says_so(
    there: World, first: Service
) -> None:
    name = {"metadata": {"name": "split", "namespace": NAMESPACE}}
    overlapping = {**name, "spec": {"service": "first", "segments": OVERLAPPING}}
    with pytest.raises(ApiError, match=r"segments\[1\].*overlaps 10.1.0.0/16"):
        there.live.api(lambda api: api.create(SERVICEROUTES, overlapping, into=dict))
    plant(there, overlapping)
    found = becomes(there, SERVICEROUTES, "split", "False")
    assert (found["reason"], found["observedGeneration"]) == ("InvalidServiceRoute", 1)
    assert "spec.segments[1].from[0] 10.1.2.0/24 overlaps 10.1.0.0/16" in found["message"]
    table = json.loads(there.live.api(lambda api: api.request("GET", SERVICEROUTES.path(NAMESPACE), accept=TABLE)))
    (row,) = (
        dict(zip([c["name"] for c in table["columnDefinitions"]], r["cells"], strict=True)) for r in table["rows"]
    )
    assert row["Accepted"] == "False"
    there.settle()
    there.check_all([(first.cluster(False), 80, {"far": "a from far"}), (SHARED, 80, {"near": "a from node1"})])
    change = {"spec": {"segments": OVERLAPPING[:1]}}
    there.live.api(lambda api: api.patch(SERVICEROUTES, "split", change, NAMESPACE, into=dict))
    found = becomes(there, SERVICEROUTES, "split", "True")
    assert (found["reason"], found["observedGeneration"]) == ("Accepted", 2)
    there.live.api(lambda api: api.delete(SERVICEROUTES, "split", NAMESPACE))


@contextmanager
def listening(there: World, node: str, port: int) -> Iterator[None]:
    """Some program has this port of the node."""
    words = ["nsenter", f"--net={there.live.netns(node)}", sys.executable, "-I", "-S", "-c", LISTEN, str(port)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "listens\n"
        yield
    finally:
        process.communicate("\n")


def test_what_one_node_alone_meets_names_it(there: World) -> None:
    port = 30955
    with listening(there, "node2", port):
        there.service("checked", "a", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=port)
        there.settle()
        found = becomes(there, SERVICES, "checked", "False")
        assert found["reason"] == "HealthCheckPortTaken"
        assert found["message"].startswith(f"node2: healthCheckNodePort {port} can't be served on this node: ")
        answer = json.loads(there.live.run("node1", f"curl -s http://127.0.0.1:{port}"))
        assert answer["localEndpoints"], "other nodes serve it"
    there.settle()
    becomes(there, SERVICES, "checked", None)


def test_the_writer_may_be_killed(there: World, first: Service) -> None:
    lost = {"metadata": {"name": "lost", "namespace": NAMESPACE}, "spec": {"service": "nobody"}}
    there.live.api(lambda api: api.create(SERVICEROUTES, lost, into=dict))
    becomes(there, SERVICEROUTES, "lost", "False", "NoSuchService")
    version = document(there, SERVICEROUTES, "lost")["metadata"]["resourceVersion"]
    lease = there.live.api(lambda api: api.get(LEASES, "podnet-conditions", "kube-system", into=dict))
    holder = lease["spec"]["holderIdentity"]
    with there.live.without(f"agent-{holder}"):
        pass
    there.service("late", "b", externalIPs=[SHARED])
    becomes(there, SERVICES, "late", "False")
    assert document(there, SERVICEROUTES, "lost")["metadata"]["resourceVersion"] == version, "nothing is written again"
    there.unmake(there.services["late"])
