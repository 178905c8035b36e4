"""What people are told of addresses and ports that should not be as they are."""

from __future__ import annotations

from typing import Any

import pytest

from podnet.network.controllers.node_ports import PortRange, port_token
from podnet.network.controllers.service_ips import Range, address_token
from podnet.network.controllers.service_repair import AGAIN, Unknown, check
from podnet.objects.codec import convert
from podnet.objects.services import Service

RANGES = [Range.parse("10.96.0.0/24")]


def service(name: str, *addresses: str, **spec: Any) -> Service:
    base = {"clusterIP": addresses[0], "clusterIPs": list(addresses)} if addresses else {}
    metadata = {"namespace": "default", "name": name, "creationTimestamp": f"2026-01-0{len(name)}T00:00:00Z"}
    return convert({"metadata": metadata, "spec": {**base, **spec}}, Service)


def told(*services: Service, unknown: Unknown | None = None) -> list[tuple[str, str, str]]:
    reports = check(services, RANGES, PortRange(), unknown or {})
    return [(report.about.metadata.name, report.reason, report.message) for report in reports]


def nodes(*ports: int) -> dict[str, Any]:
    return {"type": "NodePort", "ports": [{"port": 80, "nodePort": port} for port in ports]}


def test_nothing_is_wrong() -> None:
    assert (
        told(
            service("a", "10.96.0.5", **nodes(30001, 30001)),
            service("b", "None"),
            service("c", type="ExternalName", externalName="a.b"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("wrong", "reason", "message"),
    [
        (
            service("a", "10.1.0.5"),
            "ClusterIPOutOfRange",
            "Cluster IP [IPv4]:10.1.0.5 is not within the service CIDR 10.96.0.0/24; please recreate service",
        ),
        (
            service("a", "fd00::5"),
            "ClusterIPOutOfRange",
            f"Cluster IP [IPv6]:fd00::5 is of an IP family that is not configured on this cluster; {AGAIN}",
        ),
        (service("a", "10.96.0"), "ClusterIPNotValid", "Cluster IP 10.96.0 is not a valid IP; please recreate service"),
        (
            service("a", "10.96.0.5", **nodes(80)),
            "PortOutOfRange",
            "Port 80 is not within the port range 30000-32767; please recreate service",
        ),
    ],
)
def test_what_is_wrong_by_itself(wrong: Service, reason: str, message: str) -> None:
    assert told(wrong) == [("a", reason, message)]


def test_of_two_the_younger_is_told() -> None:
    older, younger = service("a", "10.96.0.5", **nodes(30001)), service("bb", "10.96.0.5", **nodes(30001))
    assert told(younger, older) == [
        (
            "bb",
            "ClusterIPAlreadyAllocated",
            "Cluster IP [IPv4]:10.96.0.5 was assigned to multiple services; please recreate service",
        ),
        ("bb", "PortAlreadyAllocated", "Port 30001 was assigned to multiple services; please recreate service"),
    ]


def test_what_the_ledger_did_not_know() -> None:
    unknown = {("default", "a"): {address_token("10.96.0.5"), port_token(30001)}}
    assert told(service("a", "10.96.0.5", **nodes(30001, 30002)), unknown=unknown) == [
        ("a", "ClusterIPNotAllocated", "Cluster IP [IPv4]:10.96.0.5 is not allocated; repairing"),
        ("a", "PortNotAllocated", "Port 30001 is not allocated; repairing"),
    ]
