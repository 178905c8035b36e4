"""ServiceRoutes met with real packets: clients split by segment, by weight, and both, at every kind of frontend.

In both modes that do this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from podnet.client.api import Api
from podnet.objects.kinds import ENDPOINTSLICES, PODS, SERVICEROUTES
from tests.lab.labs import NAMESPACE, needs_root
from tests.lab.service_asks import Ask, ask_all
from tests.lab.service_world import OUTSIDE, PORT, PROTOCOLS, Service, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("service-routes"), pytest.mark.timeout(240)]

GROUPS = {"a": "red", "a2": "green", "b": "blue"}
CHI_SQUARE = 15.1
"""One degree of freedom; a fair split is beyond it once in 10,000 times."""


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("routes") as made:
        for pod, group in GROUPS.items():
            change = {"metadata": {"labels": {"group": group}}}
            made.live.api(lambda api, pod=pod, change=change: api.patch(PODS, pod, change, NAMESPACE, into=dict))  # type: ignore[misc]
        make_web(made)
        yield made


@pytest.fixture(scope="module", params=["nftables", "userspace"])
def there(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.fixture
def web(there: World) -> Service:
    return there.services["web"]


def make_web(there: World) -> None:
    """A Service of all three servers with every kind of frontend, whose endpoints tell which pods they are."""
    there.service("web", *GROUPS, type="LoadBalancer")

    async def name_pods(api: Api) -> None:
        for family in "46":
            name = f"web-{family}-{PORT}"
            found = await api.get(ENDPOINTSLICES, name, NAMESPACE, into=dict)
            for endpoint, pod in zip(found["endpoints"], GROUPS, strict=True):
                endpoint["targetRef"] = {"kind": "Pod", "namespace": NAMESPACE, "name": pod}
            await api.patch(ENDPOINTSLICES, name, {"endpoints": found["endpoints"]}, NAMESPACE, into=dict)

    there.live.api(name_pods)
    there.settle()


def route(there: World, **spec: Any) -> None:
    """The one route of `web`: made, or changed; all of it."""
    document = {"metadata": {"name": "split", "namespace": NAMESPACE}, "spec": {"service": "web", **spec}}

    async def write(api: Api) -> None:
        known = {each["metadata"]["name"] for each in await api.list(SERVICEROUTES, NAMESPACE, into=dict)}
        if "split" in known:
            await api.delete(SERVICEROUTES, "split", NAMESPACE)
        await api.create(SERVICEROUTES, document, into=dict)

    there.live.api(write)
    there.settle()


def to(*groups: str, **weights: int) -> list[dict[str, Any]]:
    """Backends, each with a weight of 1 unless it is told."""
    return [{"selector": {"group": group}, "weight": weights.get(group, 1)} for group in groups]


def addresses(there: World, client: str) -> list[str]:
    """A client as CIDRs of one address each."""
    own = OUTSIDE[client] if client in OUTSIDE else there.pods[client].addresses
    return [f"{address}/{128 if ':' in address else 32}" for address in own]


def servers(there: World, client: str, host: str, port: int, times: int = 12, protocol: str = "tcp") -> Counter[str]:
    answers = ask_all([Ask(there.clients[client], host, port, protocol)] * times, there.mode.refusal + 0.3)
    return Counter(answer.server or answer.error for answer in answers)


def everywhere(there: World, service: Service, client: str) -> set[str]:
    """What one client hears, at all it can meet in both families at once."""
    places = [place for v6 in (False, True) for place in frontends(there, service, client, v6)]
    asks = [Ask(there.clients[client], *place, protocol) for place in places for protocol in PROTOCOLS]
    return {answer.server or answer.error for answer in ask_all(asks, there.mode.refusal + 0.3)}


def frontends(there: World, service: Service, client: str, v6: bool) -> list[tuple[str, int]]:
    """What a client can meet: the cluster address only from inside."""
    node = there.live.lab.node("node3").addresses[v6]
    found = [(node, service.node_port)]
    if client in there.pods:
        return [*found, (service.cluster(v6), 80)]
    return found


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_each_segment_has_its_own_pods(there: World, web: Service, v6: bool, protocol: str) -> None:
    segments = [
        {"from": addresses(there, "near"), "backends": to("red")},
        {"from": addresses(there, "stranger"), "backends": to("green")},
    ]
    route(there, segments=segments, default=to("blue"))
    for client, only in (("near", "a"), ("stranger", "a2"), ("far", "b"), ("outside", "b")):
        for host, port in frontends(there, web, client, v6):
            assert set(servers(there, client, host, port, protocol=protocol)) == {only}, f"{client} at {host}:{port}"
    for client, only in (("stranger-1", "a2"), ("outside-2", "b")):
        assert set(servers(there, client, web.balancer(v6), 80, protocol=protocol)) == {only}, "the load balancer"


def test_weights_alone(there: World, web: Service) -> None:
    route(there, default=to("red", "green", red=95, green=5))
    for host, port in ((web.cluster(False), 80), (there.live.lab.node("node3").addresses[0], web.node_port)):
        found = Counter[str]()
        for _ in range(10):
            found += servers(there, "far", host, port, times=200)
        assert set(found) == {"a", "a2"}
        expected = {"a": 1900, "a2": 100}
        off = sum((found[name] - wanted) ** 2 / wanted for name, wanted in expected.items())
        assert off < CHI_SQUARE, found


def test_weights_within_a_segment_and_a_weight_of_nothing(there: World, web: Service) -> None:
    segment = {"from": addresses(there, "far"), "backends": to("red", "blue", red=3, blue=1)}
    route(there, segments=[segment], default=to("green", "red", green=1, red=0))
    found = servers(there, "far", web.cluster(False), 80, times=400)
    assert set(found) == {"a", "b"}
    assert (found["a"] - 300) ** 2 / 300 + (found["b"] - 100) ** 2 / 100 < CHI_SQUARE, found
    assert set(servers(there, "near", web.cluster(False), 80)) == {"a2"}


def test_a_segment_without_pods_is_lost_and_others_are_served(there: World, web: Service) -> None:
    for empty, full in (("far", "near"), ("stranger", "outside")):
        segment = {"from": addresses(there, empty), "backends": to("nobody")}
        route(there, segments=[segment], default=to("red"))
        assert everywhere(there, web, empty) == {"lost"}
        assert everywhere(there, web, full) == {"a"}


def test_a_segment_is_served_where_the_default_has_no_pods(there: World, web: Service) -> None:
    route(there, segments=[{"from": addresses(there, "far"), "backends": to("red")}], default=to("nobody"))
    assert everywhere(there, web, "far") == {"a"}
    assert everywhere(there, web, "near") == {"refused"}


def test_affinity_is_for_clients_that_no_segment_names(there: World, web: Service) -> None:
    route(there, segments=[{"from": addresses(there, "far"), "backends": to("red", "blue")}])
    there.patch("web", sessionAffinity="ClientIP")
    for v6 in (False, True):
        for protocol in ("tcp", "udp"):
            assert set(servers(there, "far", web.cluster(v6), 80, times=24, protocol=protocol)) == {"a", "b"}
            assert len(servers(there, "near", web.cluster(v6), 80, times=24, protocol=protocol)) == 1
    there.patch("web", sessionAffinity="None", sessionAffinityConfig=None)


def test_a_pod_that_changes_its_label_changes_its_group(there: World, web: Service) -> None:
    route(there, default=to("canary"))
    for group, only in (("canary", {"b"}), ("blue", {"refused"})):
        change = {"metadata": {"labels": {"group": group}}}
        there.live.api(lambda api, change=change: api.patch(PODS, "b", change, NAMESPACE, into=dict))  # type: ignore[misc]
        there.settle()
        assert set(servers(there, "near", web.cluster(False), 80)) == only


def test_without_its_route_a_service_has_all_its_endpoints(there: World, web: Service) -> None:
    there.live.api(lambda api: api.delete(SERVICEROUTES, "split", NAMESPACE))
    there.settle()
    assert set(servers(there, "near", web.cluster(False), 80, times=60)) == set(GROUPS)
