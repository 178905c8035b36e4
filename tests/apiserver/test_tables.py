"""What kubectl prints: ages, the one word for a pod's state, and the cells of every kind."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

from podnet.apiserver import lifecycle
from podnet.apiserver.pod_cells import age, duration, pod_cells
from podnet.apiserver.records import Key, Record
from podnet.apiserver.status import resource
from podnet.apiserver.tables import PRINTERS, table
from podnet.objects.kinds import BY_KIND, KINDS
from tests.apiserver import documents as make
from tests.apiserver.documents import NOW, UID, Document, at

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (1, "1s"),
        (119, "119s"),
        (120, "2m"),
        (121, "2m1s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + MINUTE, "3h1m"),
        (8 * HOUR, "8h"),
        (2 * DAY - 1, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + HOUR, "2d1h"),
        (8 * DAY, "8d"),
        (2 * 365 * DAY - 1, "729d"),
        (2 * 365 * DAY, "2y"),
        (2 * 365 * DAY + DAY, "2y1d"),
        (9 * 365 * DAY, "9y"),
    ],
)
def test_durations_are_as_coarse_as_upstreams(seconds: int, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (None, "<unknown>"),
        ("", "<unknown>"),
        ("yesterday", "<unknown>"),
        ("2026-11-22T09:59:30Z", "30s"),
        ("2026-11-22T09:00:00.5+00:00", "59m"),
    ],
)
def test_ages(timestamp: str | None, text: str) -> None:
    assert age(timestamp, NOW) == text


def state(kind: str = "running", ready: bool = True, restarts: int = 0, **details: Any) -> Document:
    return {"name": "main", "ready": ready, "restartCount": restarts, "state": {kind: details}}


def waiting(reason: str) -> Document:
    return state("waiting", False, reason=reason)


def ended(code: int, **details: Any) -> Document:
    return state("terminated", False, exitCode=code, **details)


def shown(document: Document) -> str:
    return str(pod_cells(document, NOW)[2])


def with_status(**status: Any) -> Document:
    return at(make.pod(), "status", status)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running", "containerStatuses": [state()]}, "Running"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        ({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}, "ContainerCreating"),
        ({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}, "CrashLoopBackOff"),
        ({"phase": "Failed", "containerStatuses": [ended(1, reason="Error")]}, "Error"),
        ({"phase": "Failed", "containerStatuses": [ended(3)]}, "ExitCode:3"),
        ({"phase": "Failed", "containerStatuses": [ended(137, signal=9)]}, "Signal:9"),
        ({"phase": "Succeeded", "containerStatuses": [ended(0, reason="Completed")]}, "Completed"),
        ({"phase": "Pending", "initContainerStatuses": [state("running", False)]}, "Init:0/1"),
        ({"phase": "Pending", "initContainerStatuses": [waiting("PodInitializing")]}, "Init:0/1"),
        ({"phase": "Pending", "initContainerStatuses": [waiting("ErrImagePull")]}, "Init:ErrImagePull"),
        ({"phase": "Pending", "initContainerStatuses": [ended(2)]}, "Init:ExitCode:2"),
        ({"phase": "Pending", "initContainerStatuses": [ended(2, reason="Error")]}, "Init:Error"),
        ({"phase": "Running", "initContainerStatuses": [ended(0)], "containerStatuses": [state()]}, "Running"),
    ],
)
def test_the_word_for_a_pods_state(status: Document, word: str) -> None:
    document = with_status(**status)
    document["spec"]["initContainers"] = [{"name": "init", "image": "x"}]
    assert shown(document) == word


def test_a_pod_that_goes() -> None:
    going = at(
        with_status(phase="Running", containerStatuses=[state()]), "metadata.deletionTimestamp", "2026-11-22T10:00:00Z"
    )
    assert shown(going) == "Terminating"
    assert shown(at(going, "status.reason", "NodeLost")) == "Unknown"
    assert shown(at(going, "status.phase", "Succeeded")) == "Succeeded"


def test_one_container_done_and_another_running() -> None:
    both = [ended(0, reason="Completed"), state()]
    assert shown(with_status(phase="Running", containerStatuses=both)) == "NotReady"
    ready = [{"type": "Ready", "status": "True"}]
    assert shown(with_status(phase="Running", containerStatuses=both, conditions=ready)) == "Running"


def test_ready_restarts_and_places() -> None:
    died = {"terminated": {"finishedAt": (NOW - timedelta(seconds=90)).isoformat()}}
    states = [state(restarts=2) | {"lastState": died}, waiting("x")]
    cells = pod_cells(
        at(with_status(phase="Running", containerStatuses=states, podIP="10.244.0.5"), "spec.nodeName", "n1"), NOW
    )
    assert cells == ["web", "1/1", "x", "2 (90s ago)", "<unknown>", "10.244.0.5", "n1", "<none>", "<none>"]


def stored(document: Document) -> Record:
    kind = BY_KIND[document["apiVersion"], document["kind"]]
    complete = lifecycle.created(kind, copy.deepcopy(document), UID, NOW - timedelta(seconds=5))
    if "status" in document:
        complete["status"] = document["status"]
    metadata = complete["metadata"]
    return Record.write(Key(resource(kind), metadata.get("namespace", ""), metadata["name"]), 4, complete)


NODE = make.node(unschedulable=True)
NODE["metadata"]["labels"] = {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": "", "other": ""}
NODE["status"]["nodeInfo"] = {
    "kubeletVersion": "v1",
    "osImage": "Debian",
    "kernelVersion": "6",
    "containerRuntimeVersion": "lab",
}


def balanced(ingress: list[Document]) -> Document:
    document = make.service(type="LoadBalancer", externalIPs=["198.51.100.1"])
    return {**document, "status": {"loadBalancer": {"ingress": ingress}}}


ROWS = [
    (make.namespace(), {"Name": "team", "Status": "Active", "Age": "5s"}),
    (
        NODE,
        {
            "Status": "Ready,SchedulingDisabled",
            "Roles": "edge,worker",
            "Version": "v1",
            "Internal-IP": "10.0.0.1",
            "External-IP": "<none>",
            "OS-Image": "Debian",
        },
    ),
    (make.node(ready=False), {"Status": "NotReady", "Roles": "<none>", "OS-Image": "<unknown>"}),
    (at(make.node(), "status.conditions", []), {"Status": "Unknown"}),
    (
        make.service(),
        {
            "Type": "ClusterIP",
            "Cluster-IP": "<none>",
            "External-IP": "<none>",
            "Port(s)": "80/TCP",
            "Selector": "app=web",
        },
    ),
    (
        make.service(
            type="NodePort",
            clusterIP="10.96.0.1",
            clusterIPs=["10.96.0.1"],
            ports=[{"port": 80, "name": "h", "nodePort": 30080}, {"port": 53, "protocol": "UDP", "name": "d"}],
        ),
        None,
    ),
    (make.service(type="LoadBalancer"), {"External-IP": "<pending>"}),
    (
        make.service(type="ExternalName", externalName="a.example", ports=[], selector={}),
        {"External-IP": "a.example", "Port(s)": "<none>", "Selector": "<none>"},
    ),
    (make.service(externalIPs=["192.0.2.1", "192.0.2.2"]), {"External-IP": "192.0.2.1,192.0.2.2"}),
    (
        balanced([{"ip": "192.0.2.9"}, {"ip": "192.0.2.8"}, {"hostname": "lb.example"}]),
        {"External-IP": "192.0.2.8,192.0.2.9,lb.example,198.51.100.1"},
    ),
    (make.service(type="NodePort"), {"External-IP": "<none>"}),
    (make.endpoints(), {"Endpoints": "10.244.0.5:80"}),
    (make.endpoints(addresses=[{"ip": "fd00::1"}, {"ip": "10.0.0.1"}], ports=[]), {"Endpoints": "fd00::1,10.0.0.1"}),
    (
        make.endpoints(
            addresses=[{"ip": "fd00::1"}, {"ip": "10.0.0.1"}],
            ports=[{"port": 1, "name": "a"}, {"port": 2, "name": "b"}],
        ),
        {"Endpoints": "[fd00::1]:1,10.0.0.1:1,[fd00::1]:2 + 1 more..."},
    ),
    (make.endpoints(addresses=[], notReadyAddresses=[{"ip": "10.0.0.1"}]), {"Endpoints": ""}),
    (make.endpoints() | {"subsets": []}, {"Endpoints": "<none>"}),
    (make.config_map(a="1", b="2"), {"Data": 2}),
    (make.secret(data={"a": "eA=="}), {"Type": "Opaque", "Data": 1}),
    (make.endpoint_slice(), {"AddressType": "IPv4", "Ports": "80", "Endpoints": "10.244.0.5"}),
    (
        make.endpoint_slice(ports=[], endpoints=[{"addresses": [f"10.0.0.{n}"]} for n in range(5)]),
        {"Ports": "<unset>", "Endpoints": "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more..."},
    ),
    (make.lease(holderIdentity="n1"), {"Holder": "n1"}),
    (
        make.network_config(podCIDRs=["10.244.0.0/16", "fd00::/48"], mtu=1400),
        {"Backend": "vxlan", "Pod-CIDRs": "10.244.0.0/16,fd00::/48", "MTU": "1400", "Masquerade": "yes"},
    ),
    (make.service_route(), {"Service": "web", "Segments": "10.1.0.0/16", "Accepted": ""}),
    (
        make.service_route() | {"status": {"conditions": [{"type": "Accepted", "status": "False"}]}},
        {"Accepted": "False"},
    ),
    (make.service_route(segments=[], default=[{"weight": 95}, {"weight": 5}]), {"Segments": "<none>"}),
    (make.network_config(), {"MTU": "derived", "Attachment": "ptp"}),
    (
        make.event(
            reason="Started",
            message=" it started \n",
            type="Normal",
            lastTimestamp="2026-11-22T09:59:00Z",
            firstTimestamp="2026-11-22T09:00:00Z",
            count=3,
            source={"component": "kubelet", "host": "n1"},
        ),
        {
            "Last Seen": "60s",
            "Reason": "Started",
            "Object": "pod/web",
            "Source": "kubelet, n1",
            "Message": "it started",
            "First Seen": "60m",
            "Count": "3",
        },
    ),
    (
        make.event(
            eventTime="2026-11-22T09:59:50.000000Z",
            series={"lastObservedTime": "2026-11-22T09:59:55Z"},
            reportingComponent="x",
        ),
        {"Last Seen": "5s", "First Seen": "10s", "Source": "x"},
    ),
]


@pytest.mark.parametrize(("document", "cells"), ROWS, ids=lambda value: value.get("kind") if value else None)
def test_rows(document: Document, cells: Document | None) -> None:
    record = stored(document)
    result = table(BY_KIND[document["apiVersion"], document["kind"]], [record], NOW, "Metadata", {})
    row = dict(zip([column["name"] for column in result["columnDefinitions"]], result["rows"][0]["cells"], strict=True))
    expected = {"Port(s)": "80:30080/TCP,53/UDP", "Cluster-IP": "10.96.0.1"} if cells is None else cells
    assert {name: row[name] for name in expected} == expected


def test_every_kind_has_a_printer_with_as_many_cells_as_columns() -> None:
    assert set(PRINTERS) == {kind.kind for kind in KINDS}
    for document in (make.pod(), make.node(), make.service(), make.event(), make.lease(), make.network_config()):
        kind = BY_KIND[document["apiVersion"], document["kind"]]
        result = table(kind, [stored(document)], NOW, "None", {})
        assert len(result["rows"][0]["cells"]) == len(result["columnDefinitions"])


def test_wide_columns_are_marked_and_names_are_names() -> None:
    columns = table(BY_KIND["v1", "Pod"], [], NOW, "None", {})["columnDefinitions"]
    assert [column["name"] for column in columns if column["priority"]] == [
        "IP",
        "Node",
        "Nominated Node",
        "Readiness Gates",
    ]
    assert columns[0]["format"] == "name"


@pytest.mark.parametrize(
    ("include", "kind"), [("None", None), ("Metadata", "PartialObjectMetadata"), ("Object", "Pod")]
)
def test_what_a_row_carries(include: str, kind: str | None) -> None:
    row = table(BY_KIND["v1", "Pod"], [stored(make.pod())], NOW, include, {})["rows"][0]
    assert (row["object"]["kind"] if "object" in row else None) == kind
    assert kind != "PartialObjectMetadata" or set(row["object"]) == {"kind", "apiVersion", "metadata"}
