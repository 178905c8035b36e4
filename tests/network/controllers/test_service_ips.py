"""Families and addresses of Services, on clusters of one family and of two."""

from __future__ import annotations

import copy
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.controllers.service_ips import Range, Refusal, Token, address_token, addresses, families, tokens

Spec = dict[str, Any]
V4, V6 = Range.parse("10.96.0.0/24"), Range.parse("fd00::/112")
ALONE, DUAL, DUAL6 = [V4], [V4, V6], [V6, V4]
SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"


def settle(new: Spec, old: Spec | None, ranges: list[Range], *taken: str) -> list[Refusal]:
    """Both steps, as the API server takes them; the dice always fall on 0."""
    held = {address_token(text) for text in taken}
    return families(new, old, ranges) or addresses(new, old, ranges, held.__contains__, lambda _: 0)


# Ranges


def test_a_range() -> None:
    assert (V4.family, V4.size, V4.static, V4.first, V4.address(253)) == ("IPv4", 254, 16, "10.96.0.1", "10.96.0.254")
    assert (V6.family, V6.size, V6.static, V6.first) == ("IPv6", 65535, 256, "fd00::1")
    assert [V4.has(address_token(f"10.96.0.{n}")) for n in (0, 1, 254, 255)] == [False, True, True, False]
    assert not V4.has(Token("IPv6", int(ipaddress.ip_address("10.96.0.1"))))
    assert V4.token(3) == address_token(V4.address(3))


@pytest.mark.parametrize(
    "text", ["", "x", "10.96.0.1/16", "10.0.0.0/8", "10.96.0.0/31", "fd00::/64", "fd00::/127", "10.96.0.0/33"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError):
        Range.parse(text)


@pytest.mark.parametrize("text", ["10.96.0.0/12", "10.96.0.0/30", "fd00::/108"])
def test_sizes_that_work(text: str) -> None:
    assert str(Range.parse(text).network) == text


# Families

FAMILIES: list[tuple[list[Range], Spec, str, list[str]]] = [
    (ALONE, {}, SINGLE, ["IPv4"]),
    (DUAL, {}, SINGLE, ["IPv4"]),
    (DUAL6, {}, SINGLE, ["IPv6"]),
    (ALONE, {"ipFamilyPolicy": PREFER}, PREFER, ["IPv4"]),
    (DUAL, {"ipFamilyPolicy": PREFER}, PREFER, ["IPv4", "IPv6"]),
    (DUAL6, {"ipFamilyPolicy": REQUIRE}, REQUIRE, ["IPv6", "IPv4"]),
    (DUAL, {"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}, REQUIRE, ["IPv6", "IPv4"]),
    (DUAL, {"ipFamilies": ["IPv6"]}, SINGLE, ["IPv6"]),
    (DUAL, {"clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]}, SINGLE, ["IPv6"]),
    (DUAL, {"ipFamilyPolicy": PREFER, "clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]}, PREFER, ["IPv6", "IPv4"]),
    (ALONE, {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}, SINGLE, ["IPv4"]),
    (ALONE, {"clusterIP": "None", "clusterIPs": ["None"]}, REQUIRE, ["IPv4", "IPv6"]),
    (DUAL6, {"clusterIP": "None", "clusterIPs": ["None"]}, REQUIRE, ["IPv6", "IPv4"]),
    (ALONE, {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": SINGLE}, SINGLE, ["IPv4"]),
    (ALONE, {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"]}, REQUIRE, ["IPv6", "IPv4"]),
]


@pytest.mark.parametrize(("ranges", "spec", "policy", "expected"), FAMILIES)
def test_what_is_left_open_is_filled_in(ranges: list[Range], spec: Spec, policy: str, expected: list[str]) -> None:
    new = copy.deepcopy(spec)
    assert settle(new, None, ranges) == []
    assert (new["ipFamilyPolicy"], new["ipFamilies"]) == (policy, expected)
    if new.get("clusterIP") != "None":
        assert [address_token(text).kind for text in new["clusterIPs"]] == expected
        assert new["clusterIP"] == new["clusterIPs"][0]


POLICY = "spec.ipFamilyPolicy"
OUTSIDE = "failed to allocate IP {}: provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/24"
REFUSED: list[tuple[list[Range], Spec, str, str]] = [
    (ALONE, {"ipFamilyPolicy": REQUIRE}, POLICY, "this cluster is not configured for dual-stack services"),
    (ALONE, {"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]", "not configured on this cluster"),
    (
        ALONE,
        {"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv4", "IPv6"]},
        "spec.ipFamilies[1]",
        "not configured on this cluster",
    ),
    (
        ALONE,
        {"clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]},
        "spec.clusterIPs[0]",
        "IPv6 is not configured on this cluster",
    ),
    (
        DUAL,
        {"ipFamilies": ["IPv4", "IPv6"]},
        POLICY,
        "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
    ),
    (
        DUAL,
        {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"]},
        POLICY,
        "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
    ),
    (DUAL, {"clusterIP": "10.1.0.9", "clusterIPs": ["10.1.0.9"]}, "spec.clusterIPs", OUTSIDE.format("10.1.0.9")),
    (DUAL, {"clusterIP": "10.96.0.0", "clusterIPs": ["10.96.0.0"]}, "spec.clusterIPs", OUTSIDE.format("10.96.0.0")),
    (
        ALONE,
        {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]},
        "spec.clusterIPs",
        "failed to allocate IP 10.96.0.7: provided IP is already allocated",
    ),
]


@pytest.mark.parametrize(("ranges", "spec", "field", "why"), REFUSED)
def test_what_cannot_be(ranges: list[Range], spec: Spec, field: str, why: str) -> None:
    (refusal, *_) = settle(copy.deepcopy(spec), None, ranges, "10.96.0.7")
    assert (refusal.field, refusal.why) == (field, why)


# Changes

ONE: Spec = {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": SINGLE}
BOTH: Spec = {
    "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ipFamilies": ["IPv4", "IPv6"],
    "ipFamilyPolicy": REQUIRE,
}  # fmt: skip
CHANGES: list[tuple[str, Spec, Spec, list[Range], list[str]]] = [
    ("nothing", ONE, {}, DUAL, ["10.96.0.5"]),
    ("up", ONE, {"ipFamilyPolicy": REQUIRE}, DUAL, ["10.96.0.5", "fd00::101"]),
    ("up, to an address", ONE, {"ipFamilyPolicy": PREFER, "clusterIPs": ["10.96.0.5", "fd00::9"]}, DUAL,
     ["10.96.0.5", "fd00::9"]),
    ("up, by family", ONE, {"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv4", "IPv6"]}, DUAL,
     ["10.96.0.5", "fd00::101"]),
    ("down", BOTH, {"ipFamilyPolicy": SINGLE}, DUAL, ["10.96.0.5"]),
    ("down, by address", BOTH, {"ipFamilyPolicy": SINGLE, "clusterIPs": ["10.96.0.5"]}, DUAL, ["10.96.0.5"]),
    ("policy forgotten", BOTH, {"ipFamilyPolicy": None}, DUAL, ["10.96.0.5", "fd00::5"]),
    ("the cluster has become dual-stack", {**ONE, "ipFamilyPolicy": PREFER}, {}, DUAL, ["10.96.0.5"]),
    ("the cluster was dual-stack", {**BOTH, "ipFamilyPolicy": PREFER}, {}, ALONE, ["10.96.0.5", "fd00::5"]),
    ("the range has moved", {**ONE, "clusterIP": "10.1.0.5", "clusterIPs": ["10.1.0.5"]}, {}, DUAL, ["10.1.0.5"]),
    ("from before there were addresses", {}, {}, DUAL, ["10.96.0.17"]),
    ("no longer a name", {"type": "ExternalName"}, {"type": "ClusterIP"}, DUAL, ["10.96.0.17"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "change", "ranges", "expected"), [row[1:] for row in CHANGES], ids=lambda x: None)
def test_changes(old: Spec, change: Spec, ranges: list[Range], expected: list[str]) -> None:
    new = {**copy.deepcopy(old), **change}
    assert settle(new, old, ranges, *old.get("clusterIPs", ())) == []
    assert new["clusterIPs"] == expected
    assert len(new["ipFamilies"]) == len(expected)


def test_a_second_address_is_not_dropped_in_passing() -> None:
    for change in ({"clusterIPs": ["10.96.0.5"]}, {"ipFamilies": ["IPv4"]}):
        (refusal, *_) = settle({**BOTH, **change}, BOTH, DUAL)
        assert refusal.field == POLICY
        assert refusal.why.startswith("must be 'SingleStack' to release the secondary")


def test_who_has_no_address() -> None:
    for spec in ({"type": "ExternalName", "clusterIP": "10.96.0.5"}, {"clusterIP": "None", "clusterIPs": ["None"]}):
        assert list(tokens(spec)) == []
    assert list(tokens(BOTH)) == [address_token("10.96.0.5"), address_token("fd00::5")]
    assert list(tokens({"clusterIP": "10.96.0.5"})) == [address_token("10.96.0.5")]
    external: Spec = {"type": "ExternalName"}
    assert settle(external, None, DUAL) == []
    assert external == {"type": "ExternalName"}


# Many


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_everybody_gets_another_until_none_is_left(count: int, random: Any) -> None:
    small = [Range.parse("10.0.0.0/27")]  # 30 addresses, 16 of them kept
    held: set[Token] = set()
    for number in range(count):
        spec: Spec = {}
        refusals = families(spec, None, small) or addresses(spec, None, small, held.__contains__, random.randrange)
        if number >= 30:
            assert [(refusal.field, refusal.why) for refusal in refusals] == [
                ("", "failed to allocate a serviceIP: range is full")
            ]
            continue
        (token,) = tokens(spec)
        assert token not in held
        assert small[0].has(token)
        assert (token.number - small[0].token(0).number >= 16) == (number < 14)
        held.add(token)
