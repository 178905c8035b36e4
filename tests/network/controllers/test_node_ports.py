"""Node ports and health check node ports: wishes, free choice, sharing, what stays with a change."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from podnet.network.controllers.node_ports import PortRange, allocate, port_token, tokens

Spec = dict[str, Any]
RANGE = PortRange()
FIRST = 30086  # of the dynamic band
LOCAL: Spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}


def given_to(new: Spec, old: Spec | None = None, *taken: int, of: PortRange = RANGE) -> list[tuple[str, str]]:
    """Refusals; `new` is completed. The dice always fall on 0."""
    held = {port_token(number) for number in taken}
    return [(each.field, each.why) for each in allocate(new, old, of, held.__contains__, lambda _: 0)]


def port(number: int = 80, node: int = 0, protocol: str = "TCP") -> Spec:
    return {"port": number, "protocol": protocol, **({"nodePort": node} if node else {})}


def numbers(spec: Spec) -> list[int]:
    return [port.get("nodePort", 0) for port in spec["ports"]]


@pytest.mark.parametrize("text", ["", "30000", "30000-", "32767-30000", "0-10", "1-65536", "a-b", "-5-10"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="must be LOW-HIGH"):
        PortRange.parse(text)


def test_a_range() -> None:
    assert PortRange.parse("30000-32767") == RANGE
    assert (RANGE.size, RANGE.static, str(RANGE)) == (2768, 86, "30000-32767")
    assert PortRange.parse("30000-30000").size == 1


def test_only_some_types_have_any() -> None:
    for type_ in ("ClusterIP", "ExternalName"):
        spec = {"type": type_, "ports": [port()]}
        assert given_to(spec) == []
        assert numbers(spec) == [0]


def test_what_an_external_name_says_is_not_given_out() -> None:
    said = {"ports": [port(80, 30001)]}
    assert list(tokens({"type": "ExternalName", **said})) == []
    assert list(tokens({"type": "NodePort", **said})) == [port_token(30001)]


@pytest.mark.parametrize("type_", ["NodePort", "LoadBalancer"])
def test_free_choice_keeps_off_the_static_band(type_: str) -> None:
    spec = {"type": type_, "ports": [port(80), port(81), port(82)]}
    assert given_to(spec, None, FIRST) == []
    assert numbers(spec) == [FIRST + 1, FIRST + 2, FIRST + 3]


def test_wishes_are_granted_anywhere_in_the_range() -> None:
    spec = {"type": "NodePort", "ports": [port(80), port(81, FIRST), port(82, 30000)]}
    assert given_to(spec) == []
    assert numbers(spec) == [FIRST + 1, FIRST, 30000], "a wish comes before free choice"


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (29999, "provided port is not in the valid range. The range of valid ports is 30000-32767"),
        (70000, "provided port is not in the valid range. The range of valid ports is 30000-32767"),
        (-1, "provided port is not in the valid range. The range of valid ports is 30000-32767"),
        (30001, "provided port is already allocated"),
    ],
)
def test_wishes_that_cannot_be_granted(wish: int, why: str) -> None:
    spec = {"type": "NodePort", "ports": [port(80), port(81, wish)]}
    assert given_to(spec, None, 30001) == [("spec.ports[1].nodePort", why)]


def test_tcp_and_udp_of_one_port_share_a_number() -> None:
    spec = {"type": "NodePort", "ports": [port(53), port(53, protocol="UDP"), port(54)]}
    assert given_to(spec) == []
    assert numbers(spec) == [FIRST, FIRST, FIRST + 1]
    spec = {"type": "NodePort", "ports": [port(53), port(53, 30053, "UDP")]}
    assert given_to(spec) == []
    assert numbers(spec) == [30053, 30053]
    spec = {"type": "NodePort", "ports": [port(53, 30053), port(53, 30053, "UDP")]}
    assert given_to(spec) == []


def test_a_load_balancer_may_do_without() -> None:
    spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [port(80), port(81, 30001)]}
    assert given_to(spec) == []
    assert numbers(spec) == [0, 30001], "what is asked for is still seen to"


def test_health_checks() -> None:
    spec = {**LOCAL, "ports": [port()]}
    assert given_to(spec) == []
    assert (numbers(spec), spec["healthCheckNodePort"]) == ([FIRST], FIRST + 1)
    assert set(tokens(spec)) == {port_token(FIRST), port_token(FIRST + 1)}
    spec = {**LOCAL, "ports": [port()], "healthCheckNodePort": 30005}
    assert given_to(spec) == []
    assert spec["healthCheckNodePort"] == 30005


@pytest.mark.parametrize(("wish", "why"), [(30001, "already allocated"), (30002, "already allocated"), (99, "not in")])
def test_health_checks_that_cannot_be(wish: int, why: str) -> None:
    spec = {**LOCAL, "ports": [port(80, 30001)], "healthCheckNodePort": wish}
    ((field, said),) = given_to(spec, None, 30002)
    assert field == ""
    assert said.startswith(f"failed to allocate requested HealthCheck NodePort {wish}: provided port is {why}")


def test_none_is_left() -> None:
    tiny = PortRange(30000, 30001)
    spec = {"type": "NodePort", "ports": [port(80), port(81), port(82)]}
    assert given_to(spec, of=tiny) == [("", "failed to allocate a nodePort: range is full")]
    spec = {**LOCAL, "ports": [port(80), port(81)]}
    assert given_to(spec, of=tiny) == [("", "failed to allocate a HealthCheck NodePort: range is full")]


# Changes

OLD: Spec = {**LOCAL, "ports": [port(80, 30001), port(81, 30002)], "healthCheckNodePort": 30003}
MINE = (30001, 30002, 30003)


def test_what_a_service_has_it_keeps() -> None:
    new = copy.deepcopy(OLD)
    assert given_to(new, OLD) == []
    assert new == OLD
    outside = PortRange(31000, 31100)
    assert given_to(new, OLD, of=outside) == [], "also when the range has moved"


def test_ports_come_and_go() -> None:
    new = {**OLD, "ports": [port(80, 30001), port(82), port(83, 30002)]}
    assert given_to(new, OLD) == []
    assert numbers(new) == [30001, FIRST, 30002]


def test_what_it_just_gave_up_is_not_chosen_again() -> None:
    old = {"type": "NodePort", "ports": [port(80, FIRST)]}
    new = {"type": "NodePort", "ports": [port(81)]}
    assert given_to(new, old) == []
    assert numbers(new) == [FIRST + 1]


def test_a_change_does_not_share_numbers() -> None:
    new = {"type": "NodePort", "ports": [port(53), port(53, protocol="UDP")]}
    assert given_to(new, {"type": "ClusterIP", "ports": copy.deepcopy(new["ports"])}) == []
    assert numbers(new) == [FIRST, FIRST + 1]
