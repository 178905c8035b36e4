"""Results in the form of each version, and the comparison of a prevResult with the record."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from podnet.cni.errors import CniError, Code
from podnet.cni.result import Dns, Interface, Ip, Result, disagreements, result
from podnet.network.pods import attach, segment
from podnet.network.view import Attachment, LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec

VIEW = NodeView(
    me=NodeInfo("n1", ("192.168.0.1",), ("10.244.1.0/24", "fd00:1::/64")),
    peers=(),
    network=NetworkSpec(),
    facts=LocalFacts("n1"),
    mtu=1450,
)
ADDRESSES = ("10.244.1.5/24", "fd00:1::5/64")
BRIDGED = Attachment("c1", "eth0", "/run/netns/c1", addresses=ADDRESSES, mac="0a:58:0a:f4:01:05")
ROUTED = msgspec.structs.replace(BRIDGED, mode="ptp")
HOST_END = "podnet17b74afd8"


def rendered(version: str, attachment: Attachment = BRIDGED, **more: Any) -> dict[str, Any]:
    applied = [*(segment(VIEW) if attachment.mode == "bridge" else ()), *attach(VIEW, attachment)]
    document: dict[str, Any] = json.loads(result(version, attachment, applied, **more).document())
    return document


def test_bridge_in_1_1_0() -> None:
    found = rendered("1.1.0")
    bridge, host, pod = found["interfaces"]
    assert (bridge["name"], bridge["mtu"], len(bridge["mac"])) == ("podnet0", 1450, 17)
    assert host["name"].startswith("podnet")
    assert "sandbox" not in bridge
    assert "sandbox" not in host
    assert pod == {"name": "eth0", "mac": "0a:58:0a:f4:01:05", "mtu": 1450, "sandbox": "/run/netns/c1"}
    assert found["ips"] == [
        {"address": "10.244.1.5/24", "gateway": "10.244.1.1", "interface": 2},
        {"address": "fd00:1::5/64", "gateway": "fd00:1::1", "interface": 2},
    ]
    assert found["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}, {"dst": "::/0", "gw": "fd00:1::1"}]
    assert found["dns"] == {}
    assert found["cniVersion"] == "1.1.0"


def test_point_to_point_in_1_1_0() -> None:
    found = rendered("1.1.0", ROUTED)
    host, pod = found["interfaces"]
    assert (host["mac"], pod["name"]) == ("ee:ee:ee:ee:ee:ee", "eth0")
    assert [(each["address"], each["gateway"], each["interface"]) for each in found["ips"]] == [
        ("10.244.1.5/32", "169.254.1.1", 1),
        ("fd00:1::5/128", "fe80::ecee:eeff:feee:eeee", 1),
    ]
    assert {"dst": "169.254.1.1/32", "scope": 253} in found["routes"]
    assert {"dst": "0.0.0.0/0", "gw": "169.254.1.1"} in found["routes"]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_old_versions_tell_the_family(version: str) -> None:
    found = rendered(version)
    assert [each["version"] for each in found["ips"]] == ["4", "6"]
    assert all("mtu" not in each for each in found["interfaces"])
    assert all(set(each) <= {"dst", "gw"} for each in rendered(version, ROUTED)["routes"])


def test_1_0_0_has_neither_family_nor_mtu() -> None:
    found = rendered("1.0.0")
    assert all("version" not in each for each in found["ips"])
    assert all("mtu" not in each for each in found["interfaces"])


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("attachment", [BRIDGED, ROUTED])
def test_every_interface_of_a_container_has_mac_and_sandbox(version: str, attachment: Attachment) -> None:
    found = rendered(version, attachment)
    pods = [each for each in found["interfaces"] if each.get("sandbox")]
    assert [(each["name"], each["mac"]) for each in pods] == [("eth0", attachment.mac)]
    assert all(found["interfaces"][each["interface"]] is pods[0] for each in found["ips"])


def test_the_pods_own_mtu() -> None:
    assert rendered("1.1.0", msgspec.structs.replace(BRIDGED, mtu=1300))["interfaces"][-1]["mtu"] == 1300


# -- chaining


PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "tun0", "mac": "02:00:00:00:00:09", "mtu": 1400, "socketPath": "/s", "pciID": "0:1"}],
    "ips": [{"address": "192.0.2.9/24", "gateway": "192.0.2.1", "interface": 0}],
    "routes": [{"dst": "192.0.2.0/24", "mtu": 1400, "advmss": 1, "priority": 2, "table": 3, "scope": 4}],
    "dns": {"nameservers": ["192.0.2.53"], "domain": "a.b", "search": ["c"], "options": ["d"]},
}


def test_a_previous_result_is_passed_on_in_front() -> None:
    found = rendered("1.1.0", previous=msgspec.convert(PREVIOUS, Result))
    assert found["interfaces"][0] == PREVIOUS["interfaces"][0]
    assert found["ips"][0] == PREVIOUS["ips"][0]
    assert found["routes"][0] == PREVIOUS["routes"][0]
    assert found["dns"] == PREVIOUS["dns"]
    # Our own indexes moved on by the interface before.
    assert [each["interface"] for each in found["ips"][1:]] == [3, 3]
    assert found["interfaces"][3]["name"] == "eth0"


def test_dns_of_the_configuration_is_stronger() -> None:
    found = rendered("1.1.0", previous=msgspec.convert(PREVIOUS, Result), dns=Dns(nameservers=("10.96.0.10",)))
    assert found["dns"] == {"nameservers": ["10.96.0.10"]}


# -- CHECK


def test_our_own_result_agrees() -> None:
    for attachment in (BRIDGED, ROUTED):
        previous = msgspec.convert(rendered("1.0.0", attachment), Result)
        assert list(disagreements(attachment, previous)) == []


def test_what_later_plugins_add_is_theirs() -> None:
    own = msgspec.convert(rendered("1.0.0"), Result)
    more = msgspec.structs.replace(
        own, interfaces=(*own.interfaces, Interface("ifb0")), ips=(Ip("192.0.2.1/24"), *own.ips), routes=()
    )
    assert list(disagreements(BRIDGED, more)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interfaces": ()}, "prevResult has no interface eth0 in /run/netns/c1"),
        ({"interfaces": (Interface("eth0", sandbox="/other"),)}, "prevResult has no interface eth0 in /run/netns/c1"),
        (
            {"interfaces": (Interface("eth0", "02:00:00:00:00:01", sandbox="/run/netns/c1"),)},
            "prevResult says MAC 02:00:00:00:00:01 where 0a:58:0a:f4:01:05 was given",
        ),
        ({"ips": (Ip("10.244.1.5/32"),)}, "prevResult lacks the address fd00:1::5"),
    ],
)
def test_disagreements(changes: dict[str, Any], message: str) -> None:
    own = msgspec.convert(rendered("1.0.0"), Result)
    assert list(disagreements(BRIDGED, msgspec.structs.replace(own, **changes))) == [message]


# -- errors


def test_error_document() -> None:
    error = CniError(Code.TRY_AGAIN, 'say "no"', "because\n")
    expected = {"cniVersion": "0.4.0", "code": 11, "msg": 'say "no"', "details": "because\n"}
    assert json.loads(error.document("0.4.0")) == expected
    assert str(error) == 'say "no" (because\n)'


@pytest.mark.parametrize("version", ["", "7.0.0", '"x', "0.2.0"])
def test_error_of_an_unknown_version_is_in_the_newest(version: str) -> None:
    found = json.loads(CniError(100, "x").document(version))
    assert found == {"cniVersion": "1.1.0", "code": 100, "msg": "x"}
