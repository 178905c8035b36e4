"""A zone of the parts that names need is the zone of the whole objects."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from podnet.client.store import Listing, Store
from podnet.network.dns import named
from podnet.network.dns.named import SEARCH_ANNOTATION
from podnet.network.dns.zone import Options, clients, zone
from podnet.objects import kinds
from podnet.objects.cluster import Cluster
from podnet.objects.codec import InvalidObject, decode
from podnet.objects.core import Namespace, PodDNSConfig, PodIP, PodSpec
from podnet.objects.kinds import Kind
from podnet.objects.meta import Object, ObjectMeta
from podnet.objects.services import CONTROLLER, HEADLESS, MANAGED_BY, ServicePort, SlicePort
from tests.network.dns.names import alias, endpoint, piece, pod, service

PLAIN = pod("plain", "10.0.1.1", "fd00:1::1")
SEARCHING = {
    "plain": PLAIN,
    "server": replace(PLAIN, metadata=replace(PLAIN.metadata, name="a", annotations={SEARCH_ANNOTATION: "server"})),
    "client": replace(PLAIN, metadata=replace(PLAIN.metadata, name="b", annotations={SEARCH_ANNOTATION: "client"})),
    "none": replace(PLAIN, metadata=replace(PLAIN.metadata, name="c"), spec=PodSpec(dns_policy="None")),
    "own": replace(
        PLAIN, metadata=replace(PLAIN.metadata, name="d"), spec=PodSpec(dns_config=PodDNSConfig(searches=("x.y",)))
    ),
}
SEARCHING = {
    name: replace(each, status=replace(each.status, pod_ips=(PodIP(f"10.0.1.{number}"),), pod_ip=f"10.0.1.{number}"))
    for number, (name, each) in enumerate(SEARCHING.items())
}

OBJECTS: tuple[Object, ...] = (
    Namespace(ObjectMeta(name="demo")),
    service("web", "10.96.0.1"),
    service("dual", "10.96.0.2", "fd00::2", ports=(ServicePort("http", "TCP", 80), ServicePort("dns", "UDP", 53))),
    service("db"),
    service("all", publish_not_ready_addresses=True),
    alias("outside", "www.example.com"),
    piece("web", endpoint("10.0.0.1"), endpoint("10.0.0.2")),
    piece("db", endpoint("10.0.0.3", "db-0"), endpoint("10.0.0.4", ready=False), endpoint("10.0.0.5", ready=True)),
    piece("db", endpoint("fd00::3", "db-0"), number=2, ports=(SlicePort("http", "TCP", 81), SlicePort("any"))),
    piece("all", endpoint("10.0.0.6", ready=False)),
    *SEARCHING.values(),
    pod("done", "10.0.1.8", phase="Succeeded"),
    pod("host", "192.168.0.1", host=True),
)


def read(watched: tuple[Kind, ...]) -> Cluster:
    """What informers of these kinds make of the objects."""
    cluster = Cluster()
    for kind in watched:
        store, listing, whole = Store(kind), Listing(), kinds.BY_KIND[kind.api_version, kind.kind]
        documents = [msgspec.json.encode(each) for each in OBJECTS if type(each) is whole.type]
        store.add_page(listing, "1", documents)
        store.take(listing)
        assert not store.problems
        assert len(store.objects) == len(documents) > 0
        for document in documents:
            event = {"type": "MODIFIED", "object": msgspec.Raw(document)}
            assert not store.apply(msgspec.json.encode(event)), "nothing changed"
        cluster = cluster.with_objects(kind.plural, store.snapshot())
    return cluster


WHOLE = (kinds.SERVICES, kinds.ENDPOINTSLICES, kinds.PODS, kinds.NAMESPACES)
PART = (named.SERVICES, named.ENDPOINTSLICES, named.PODS, named.NAMESPACES)


def test_the_zone_is_the_same() -> None:
    whole, part = read(WHOLE), read(PART)
    assert zone(part, Options()) == zone(whole, Options())
    assert len(zone(part, Options()).names) > 30
    for everybody in (True, False):
        assert dict(clients(part, everybody, {})) == dict(clients(whole, everybody, {}))
    assert dict(clients(part, True, {})) == {"10.0.1.0": "demo", "10.0.1.1": "demo"}


def test_what_names_do_not_need_is_no_change() -> None:
    before = msgspec.to_builtins(OBJECTS[6])
    after = {**before, "endpoints": [{**each, "nodeName": "node-1"} for each in before["endpoints"]]}
    first, second = (decode(msgspec.json.encode(each), named.ENDPOINTSLICES.type) for each in (before, after))
    assert first == second
    after["endpoints"][0]["addresses"] = ["10.0.0.9"]
    assert decode(msgspec.json.encode(after), named.ENDPOINTSLICES.type) != first


def test_a_slice_without_endpoints() -> None:
    bare = decode(b'{"metadata":{"name":"x"},"endpoints":null,"ports":null}', named.NamedSlice)  # type: ignore[type-var]
    assert (bare.endpoints, bare.ports) == ((), ())


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (named.SERVICES, '"spec":{"clusterIP":7}'),
        (named.ENDPOINTSLICES, '"endpoints":[{"addresses":"10.0.0.1"}]'),
        (named.ENDPOINTSLICES, '"endpoints":7'),
        (named.NAMESPACES, '"metadata":7'),
    ],
)
def test_what_is_no_such_object(kind: Kind, more: str) -> None:
    with pytest.raises(InvalidObject):
        decode(f'{{"metadata":{{"name":"x"}},{more}}}', kind.type)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ({}, True),
        ({MANAGED_BY: "somebody"}, True),
        ({MANAGED_BY: CONTROLLER, HEADLESS: ""}, True),
        ({MANAGED_BY: CONTROLLER}, False),
    ],
)
def test_slices_that_names_need(labels: dict[str, str], wanted: bool) -> None:
    made = piece("db", endpoint("10.0.0.3"))
    made = replace(made, metadata=replace(made.metadata, labels={**made.metadata.labels, **labels}))
    part = msgspec.json.decode(msgspec.json.encode(made), type=named.NamedSlice)
    assert named.needed(part) is wanted
