"""Which names came to be: always those that a zone would tell of."""

from __future__ import annotations

from msgspec.structs import replace

from podnet.network.dns.births import Births
from podnet.network.dns.zone import Options, appeared, zone
from podnet.network.memo import Memo
from podnet.objects.cluster import Cluster
from podnet.objects.services import EndpointSlice, Service, ServicePort, SlicePort
from podnet.wire import dns
from tests.worlds import backend, cluster, endpoint_slice, node, service

DOMAIN = "cluster.local"
NAMED = ServicePort(name="http", port=80)


def headless(name: str = "db") -> Service:
    return service(name, NAMED, cluster_ip="None")


def pods(of: str, *addresses: str, ready: bool = True) -> EndpointSlice:
    hosts = (replace(backend(address, ready=ready), hostname=f"{of}-{n}") for n, address in enumerate(addresses))
    return endpoint_slice(of, *hosts, ports=(SlicePort(name="http", port=8080),))


STEPS: list[tuple[tuple[Service, ...], tuple[EndpointSlice, ...]]] = [
    ((), ()),
    ((service("web", NAMED),), ()),
    ((service("web", NAMED), headless()), ()),
    ((service("web", NAMED), headless()), (pods("db", "10.244.1.2"),)),
    ((service("web", NAMED), headless()), (pods("db", "10.244.1.2", "10.244.1.3"),)),
    ((service("web", NAMED), headless()), (pods("db", "10.244.1.2", "10.244.1.3", ready=False),)),
    ((service("web", NAMED), headless()), (pods("db", "10.244.1.2"), endpoint_slice("web", backend("10.244.1.9")))),
    ((service("web", NAMED, ServicePort(name="more", port=81)),), ()),
    ((service("web", type="ExternalName", external_name="example.org", cluster_ip=""),), ()),
    ((service("web", cluster_ips=("10.96.0.1", "fd00:10:96::1")),), ()),
]


def snapshots() -> list[Cluster]:
    return [cluster([node(1)], None, 0, services, slices) for services, slices in STEPS]


def test_it_tells_what_two_zones_tell() -> None:
    births = Births()
    memo: Memo = {}
    options = Options(DOMAIN, pods="disabled")
    before = None
    for snapshot in snapshots():
        born = births.follow(snapshot, DOMAIN)
        now = zone(snapshot, options, memo=memo)
        assert sorted(born) == ([] if before is None else sorted(appeared(before, now)))
        before = now


def test_a_name_of_every_kind() -> None:
    births = Births()
    born = {
        (dns.text(name), dns.TYPE_NAMES[kind]) for each in snapshots() for name, kind in births.follow(each, DOMAIN)
    }
    assert {
        ("web.default.svc.cluster.local", "A"),
        ("web.default.svc.cluster.local", "AAAA"),
        ("web.default.svc.cluster.local", "CNAME"),
        ("_http._tcp.web.default.svc.cluster.local", "SRV"),
        ("db-0.db.default.svc.cluster.local", "A"),
        ("1.0.96.10.in-addr.arpa", "PTR"),
        ("3.1.244.10.in-addr.arpa", "PTR"),
    } <= born


def test_of_the_first_snapshot_nothing_is_new() -> None:
    assert Births().follow(snapshots()[3], DOMAIN) == ()
