"""The comparison of records with what is there: nothing is found where all is well, and each disagreement is named."""

from __future__ import annotations

import pytest

from podnet.network.ipam.audit import Finding, Found, audit
from podnet.network.view import Attachment

A = Attachment("a", "eth0", "/run/netns/a", addresses=("10.244.1.2/24", "fd00:1::2/64"), pod="default/a")
B = Attachment("b", "eth0", "/run/netns/b", addresses=("10.244.1.3/32",))
WELL = {
    A.id: Found(netns=True, link=True, addresses=("10.244.1.2/24", "fd00:1::2/64")),
    B.id: Found(netns=True, link=True, addresses=("10.244.1.3/32",)),
}
CIDRS = ("10.244.1.0/24", "fd00:1::/64")


def findings(records: tuple[Attachment, ...] = (A, B), **found: Found) -> list[Finding]:
    changed = {(name, "eth0"): value for name, value in found.items()}
    return list(audit(records, WELL | changed, pod_cidrs=CIDRS))


def test_nothing_to_find() -> None:
    assert findings() == []
    assert list(audit((), {})) == []


def test_a_prefix_length_is_no_disagreement() -> None:
    assert findings(b=Found(netns=True, link=True, addresses=("10.244.1.3/24",))) == []


def test_a_vanished_pod_leaks_its_address() -> None:
    (found,) = findings(a=Found())
    assert (found.kind, found.subject) == ("leaked", "10.244.1.2,fd00:1::2")
    assert found.message == "default/a: its namespace /run/netns/a is gone, but the address is still held"
    assert found.repair == "remove the record"
    assert (found.container_id, found.ifname) == A.id
    # Nothing found of it at all is the same.
    assert [each.kind for each in audit([B], {})] == ["leaked"]


@pytest.mark.parametrize(
    ("there", "kinds"),
    [
        (Found(netns=True, link=False, addresses=("10.244.1.3/32",)), ["missing"]),
        (Found(netns=True, link=True), ["missing"]),
        (Found(netns=True, link=False), ["missing", "missing"]),
        (Found(netns=True, link=True, addresses=("10.244.1.3/32", "10.9.9.9/24")), ["foreign"]),
        (Found(netns=True, link=True, addresses=("10.244.1.99/24",)), ["missing", "foreign"]),
    ],
)
def test_what_a_pod_lacks_or_has_too_much(there: Found, kinds: list[str]) -> None:
    found = findings(b=there)
    assert [each.kind for each in found] == kinds
    assert all(each.message.startswith("b/eth0: ") for each in found)
    assert all(not each.repair for each in found)


def test_a_link_without_record() -> None:
    (found,) = audit([A, B], WELL, strays=["podnet123456789"])
    assert (found.kind, found.subject, found.repair) == ("stray", "podnet123456789", "delete the link")


def test_an_address_recorded_twice() -> None:
    twin = Attachment("c", "eth0", "/run/netns/a", addresses=("10.244.1.2/24",))
    there = Found(netns=True, link=True, addresses=("10.244.1.2/24",))
    kinds = [(each.kind, each.subject) for each in audit([A, twin], WELL | {twin.id: there})]
    assert ("duplicate", "10.244.1.2") in kinds


def test_an_address_that_another_pod_really_has() -> None:
    there = Found(netns=True, link=True, addresses=("10.244.1.3/32", "10.244.1.2/24"))
    found = {each.kind: each for each in findings(b=there)}
    assert found.keys() == {"foreign", "duplicate"}
    assert found["duplicate"].message == "b/eth0 has 10.244.1.2, which is recorded for default/a"


def test_an_address_of_a_range_the_node_no_longer_has() -> None:
    (found,) = audit([B], WELL, pod_cidrs=["10.99.0.0/24"])
    assert (found.kind, found.subject) == ("outside", "10.244.1.3")
    assert "10.99.0.0/24" in found.message
    assert list(audit([B], {B.id: WELL[B.id]})) == []
