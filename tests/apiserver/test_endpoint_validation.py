"""What is wrong with an EndpointSlice or an Endpoints object."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apiserver import documents as make
from tests.apiserver.documents import at
from tests.apiserver.test_validation import DUPLICATE, INVALID, REQUIRED, UNSUPPORTED, found, judge

TOO_MANY = "FieldValueTooMany"
HINTS = "endpoints.0.hints"
SLICE = [
    ("addressType", "", "addressType", REQUIRED),
    ("addressType", "IPX", "addressType", UNSUPPORTED),
    ("endpoints", [{"addresses": []}], "endpoints[0].addresses", REQUIRED),
    ("endpoints", [{"addresses": ["10.0.0.1"] * 101}], "endpoints[0].addresses", TOO_MANY),
    ("endpoints", [{"addresses": ["fd00::1"]}], "endpoints[0].addresses[0]", INVALID),
    ("endpoints", [{"addresses": ["x"]}], "endpoints[0].addresses[0]", INVALID),
    ("endpoints", [{"addresses": ["127.0.0.1"]}], "endpoints[0].addresses[0]", INVALID),
    ("endpoints", [{"addresses": ["10.0.0.1"]}] * 1001, "endpoints", TOO_MANY),
    ("endpoints.0.hostname", "a.b", "endpoints[0].hostname", INVALID),
    ("endpoints.0.nodeName", "N", "endpoints[0].nodeName", INVALID),
    (f"{HINTS}.forZones", [{"name": str(n)} for n in range(9)], "endpoints[0].hints.forZones", TOO_MANY),
    (f"{HINTS}.forZones", [{"name": "a b"}], "endpoints[0].hints.forZones[0].name", INVALID),
    (f"{HINTS}.forNodes", [{"name": ""}], "endpoints[0].hints.forNodes[0].name", REQUIRED),
    (f"{HINTS}.forNodes", [{"name": "a"}, {"name": "a"}], "endpoints[0].hints.forNodes[1].name", DUPLICATE),
    ("ports", [{"name": str(number)} for number in range(101)], "ports", TOO_MANY),
    ("ports", [{"name": "a"}, {"name": "a"}], "ports[1].name", DUPLICATE),
    ("ports", [{"name": "A"}], "ports[0].name", INVALID),
    ("ports", [{"protocol": "x"}], "ports[0].protocol", UNSUPPORTED),
    ("ports", [{"port": 0}], "ports[0].port", INVALID),
    ("ports", [{"appProtocol": "a b"}], "ports[0].appProtocol", INVALID),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), SLICE)
def test_endpoint_slices(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.endpoint_slice(), path, value))


def test_right_slices_of_every_kind() -> None:
    assert judge(make.endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["a.example"]}])) == []
    assert judge(make.endpoint_slice(addressType="IPv6", endpoints=[{"addresses": ["fd00::1"]}])) == []
    hints = {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}
    assert judge(at(make.endpoint_slice(), HINTS, hints)) == []
    assert judge(make.endpoint_slice(endpoints=[], ports=[{}])) == []


def test_a_name_has_a_dot_and_a_slice_keeps_its_family() -> None:
    short = make.endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["localhost"]}])
    assert found(short) == [("endpoints[0].addresses[0]", INVALID)]
    other = make.endpoint_slice(addressType="IPv6", endpoints=[])
    assert found(other, make.endpoint_slice()) == [("addressType", INVALID)]


S = "subsets.0"
F = "subsets[0]"
ENDPOINTS = [
    (f"{S}.addresses", [], F, REQUIRED),
    (f"{S}.addresses.0.ip", "x", f"{F}.addresses[0].ip", INVALID),
    (f"{S}.addresses.0.ip", "::1", f"{F}.addresses[0].ip", INVALID),
    (f"{S}.addresses.0.hostname", "A", f"{F}.addresses[0].hostname", INVALID),
    (f"{S}.addresses.0.nodeName", "A", f"{F}.addresses[0].nodeName", INVALID),
    (f"{S}.notReadyAddresses", [{"ip": "169.254.1.1"}], f"{F}.notReadyAddresses[0].ip", INVALID),
    (f"{S}.ports.0.name", "A", f"{F}.ports[0].name", INVALID),
    (f"{S}.ports", [{"port": 1}, {"port": 2, "name": "b"}], f"{F}.ports[0].name", REQUIRED),
    (f"{S}.ports.0.port", 0, f"{F}.ports[0].port", INVALID),
    (f"{S}.ports", [{"name": "a"}], f"{F}.ports[0].port", INVALID),
    (f"{S}.ports.0.protocol", "tcp", f"{F}.ports[0].protocol", UNSUPPORTED),
    (f"{S}.ports.0.appProtocol", "a b", f"{F}.ports[0].appProtocol", INVALID),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), ENDPOINTS)
def test_endpoints(path: str, value: Any, field: str, reason: str) -> None:
    assert (field, reason) in found(at(make.endpoints(), path, value))


def test_right_endpoints() -> None:
    assert judge(make.endpoints()) == []
    assert judge(make.endpoints(addresses=[], notReadyAddresses=[{"ip": "10.0.0.1", "nodeName": "n1"}])) == []
    assert judge(make.endpoints(ports=[])) == []
    assert judge({**make.endpoints(), "subsets": []}) == []
