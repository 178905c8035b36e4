"""The pool: who gets which address, who keeps it, and who is told that there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.controllers.actions import Patch, Report
from podnet.network.controllers.load_balancers import CLASS, GIVEN, Pool, assign
from podnet.objects.codec import convert
from podnet.objects.core import Condition
from podnet.objects.services import Service

POOLS = [Pool.parse("192.0.2.10-192.0.2.12"), Pool.parse("2001:db8::10-2001:db8::11")]


def service(name: str, *ingress: str, age: int = 0, going: bool = False, **spec: Any) -> Service:
    """A Service of type LoadBalancer; the greater its age, the earlier it was made."""
    metadata = {
        "namespace": "default", "name": name, "creationTimestamp": f"2026-01-{28 - age:02}T00:00:00Z",
        **({"deletionTimestamp": "2026-02-01T00:00:00Z"} if going else {}),
    }  # fmt: skip
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ingress]}}
    base = {"type": "LoadBalancer", "ipFamilies": ["IPv4"]}
    return convert({"metadata": metadata, "spec": {**base, **spec}, "status": status}, Service)


def given_to(*services: Service, pools: list[Pool] = POOLS) -> dict[str, Any]:
    """By name: the addresses of its new status, or what is reported."""
    found: dict[str, Any] = {}
    for action in assign(services, pools):
        if isinstance(action, Patch):
            assert action.subresource == "status"
            if "conditions" in action.document["status"]:
                continue
            ingress = action.document["status"]["loadBalancer"]["ingress"]
            assert all(item["ipMode"] == "VIP" for item in ingress)
            found[action.name] = [item["ip"] for item in ingress]
        else:
            assert isinstance(action, Report)
            assert action.reason == "SyncLoadBalancerFailed"
            found[f"{action.about.metadata.name}!"] = action.message.removeprefix("Error syncing load balancer: ")
    return found


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("192.0.2.0/29", "192.0.2.1", "192.0.2.6"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.6/31", "192.0.2.6", "192.0.2.7"),
        ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
        ("192.0.2.1 - 192.0.2.1", "192.0.2.1", "192.0.2.1"),
    ],
)
def test_pools(text: str, low: str, high: str) -> None:
    pool = Pool.parse(text)
    assert (str(pool.low), str(pool.high)) == (low, high)


@pytest.mark.parametrize("text", ["", "x", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.1/24", "-"])
def test_what_is_no_pool(text: str) -> None:
    with pytest.raises(ValueError):
        Pool.parse(text)


def test_the_lowest_free_address_the_oldest_first() -> None:
    assert given_to(service("young"), service("old", age=5)) == {"old": ["192.0.2.10"], "young": ["192.0.2.11"]}


def test_one_of_each_family() -> None:
    both: dict[str, Any] = {"ipFamilies": ["IPv6", "IPv4"]}
    assert given_to(service("a", **both)) == {"a": ["2001:db8::10", "192.0.2.10"]}
    assert given_to(service("a", **both), pools=POOLS[:1]) == {"a": ["192.0.2.10"]}


def test_what_it_has_it_keeps() -> None:
    assert given_to(service("a", "192.0.2.12"), service("b", "192.0.2.10", age=3)) == {}
    assert given_to(service("a", "192.0.2.12", loadBalancerIP="192.0.2.12")) == {}
    assert given_to(service("a", "192.0.2.10", ipFamilies=["IPv4", "IPv6"])) == {"a": ["192.0.2.10", "2001:db8::10"]}


def test_of_two_with_one_address_the_older_keeps_it() -> None:
    assert given_to(service("young", "192.0.2.10"), service("old", "192.0.2.10", age=5)) == {"young": ["192.0.2.11"]}


def test_an_address_outside_the_pools_is_replaced() -> None:
    assert given_to(service("a", "198.51.100.1")) == {"a": ["192.0.2.10"]}
    assert given_to(service("a", "192.0.2.10", ipFamilies=["IPv6"])) == {"a": ["2001:db8::10"]}


def test_wishes() -> None:
    assert given_to(service("a", loadBalancerIP="192.0.2.12")) == {"a": ["192.0.2.12"]}
    assert given_to(service("a", "192.0.2.10", loadBalancerIP="192.0.2.12")) == {"a": ["192.0.2.12"]}
    taken = service("old", "192.0.2.12", age=5)
    assert given_to(taken, service("a", loadBalancerIP="192.0.2.12")) == {"a!": "loadBalancerIP 192.0.2.12 is taken"}
    outside = given_to(service("a", loadBalancerIP="198.51.100.1"))
    assert outside == {"a!": "loadBalancerIP 198.51.100.1 is in no pool; the pools are 192.0.2.10-192.0.2.12"}
    both = service("a", loadBalancerIP="2001:db8::11", ipFamilies=["IPv4", "IPv6"])
    assert given_to(both) == {"a": ["192.0.2.10", "2001:db8::11"]}


def test_a_wish_that_is_no_address() -> None:
    assert given_to(service("a", loadBalancerIP="x")) == {"a!": "loadBalancerIP x is no IP address"}


def test_none_is_left() -> None:
    full = [service(str(n), f"192.0.2.{n}", age=5) for n in (10, 11, 12)]
    said = "no address is left in 192.0.2.10-192.0.2.12"
    assert given_to(*full, service("a")) == {"a!": said}
    both = service("a", ipFamilies=["IPv4", "IPv6"])
    assert given_to(*full, both) == {"a!": said, "a": ["2001:db8::10"]}, "half of it is better than nothing"
    assert given_to(*full[1:], service("a")) == {"a": ["192.0.2.10"]}, "what is freed is given again"
    more = [*POOLS, Pool.parse("192.0.2.100/32")]
    assert given_to(*full, service("a"), pools=more) == {"a": ["192.0.2.100"]}


def test_a_family_without_a_pool_is_told_of() -> None:
    only = [POOLS[0]]
    why = "no pool has addresses of IPv6; the pools are 192.0.2.10-192.0.2.12"
    assert given_to(service("a", ipFamilies=["IPv6"]), pools=only) == {"a!": why}
    assert given_to(service("a", ipFamilies=["IPv6", "IPv4"]), pools=only) == {"a": ["192.0.2.10"]}
    assert given_to(service("a", ipFamilies=["IPv6"], going=True), pools=only) == {}


def told(of: Service, pools: list[Pool] = POOLS) -> list[dict[str, Any]]:
    """What the condition becomes; [] when it stays as it is."""
    patches = [each.document["status"] for each in assign([of], pools) if isinstance(each, Patch)]
    return [item for status in patches for item in status.get("conditions", ())]


def test_who_lacks_an_address_says_so_in_its_status_until_it_has_one() -> None:
    asks = service("a", loadBalancerIP="198.51.100.1")
    (item,) = told(asks)
    why = "loadBalancerIP 198.51.100.1 is in no pool; the pools are 192.0.2.10-192.0.2.12"
    assert item == {"type": GIVEN, "status": "False", "reason": "SyncLoadBalancerFailed", "message": why}
    known = bearing(asks, **item, lastTransitionTime="then")
    assert told(known) == []
    (other,) = told(known, [*POOLS, Pool.parse("192.0.2.99/32")])
    assert other["lastTransitionTime"] == "then", "its status is the same"
    gone = [{"$patch": "delete", "type": GIVEN}]
    assert told(known, [Pool.parse("198.51.100.1/32")]) == gone
    assert told(bearing(service("a", type="ClusterIP"), **item)) == gone
    assert told(bearing(asks, **item), []) == gone
    assert told(bearing(service("a", type="ClusterIP"), type="example.com/other", status="True")) == []


def bearing(of: Service, **condition: Any) -> Service:
    """A Service whose status has this condition."""
    return replace(of, status=replace(of.status, conditions=(msgspec.convert(condition, Condition),)))


def test_others_are_left_alone() -> None:
    foreign = service("a", "198.51.100.1", loadBalancerClass="example.com/lb")
    assert given_to(foreign, service("b", type="NodePort"), service("c", loadBalancerClass=CLASS)) == {
        "c": ["192.0.2.10"]
    }
    assert given_to(service("a", "198.51.100.1"), pools=[]) == {}


def test_external_addresses_and_foreign_ones_are_taken() -> None:
    assert given_to(
        service("x", "192.0.2.10", loadBalancerClass="example.com/lb"),
        service("y", type="ClusterIP", externalIPs=["192.0.2.11", "nonsense"]),
        service("a"),
    ) == {"a": ["192.0.2.12"]}


def test_who_is_going_keeps_but_gets_nothing() -> None:
    assert given_to(service("a", going=True), service("b", "192.0.2.10", going=True)) == {}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["", "192.0.2.10", "192.0.2.11", "192.0.2.99"])), max_size=6)
)
def test_nobody_shares_and_the_second_pass_is_empty(wishes: list[tuple[int, str]]) -> None:
    services = {str(n): service(str(n), *filter(None, [ip]), age=age) for n, (age, ip) in enumerate(wishes)}
    for name, addresses in given_to(*services.values()).items():
        if not name.endswith("!"):
            services[name] = service(name, *addresses, age=wishes[int(name)][0])
    held = [item.ip for each in services.values() for item in each.status.load_balancer.ingress]
    assert len(held) == len(set(held)) == min(len(services), 3)
    assert all(name.endswith("!") for name in given_to(*services.values()))
