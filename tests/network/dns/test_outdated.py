"""Which answers of a cache became wrong: always those that a zone would tell of."""

from __future__ import annotations

from msgspec.structs import replace

from podnet.network.dns.outdated import OutdatedNames
from podnet.network.dns.zone import Options, Zone, outdated, zone
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
    ((service("web", type="ExternalName", external_name="example.com", cluster_ip=""),), ()),
    ((service("web", cluster_ips=("10.96.0.1", "fd00:10:96::1")),), ()),
]


def snapshots() -> list[Cluster]:
    return [cluster([node(1)], None, 0, services, slices) for services, slices in STEPS]


def test_it_tells_what_two_zones_tell() -> None:
    names = OutdatedNames()
    memo: Memo = {}
    options = Options(DOMAIN, pods="disabled")
    before: Zone | None = None
    for snapshot in snapshots():
        found = names.follow(snapshot, DOMAIN)
        now = zone(snapshot, options, memo=memo)
        told = () if before is None else tuple(outdated(before, now))
        assert {*found} == {(name, kind, None if kind == dns.PTR else answer) for name, kind, answer in told}
        before = now


def test_a_name_of_every_kind() -> None:
    names = OutdatedNames()
    found = {
        (dns.text(name).removesuffix(".default.svc.cluster.local"), dns.TYPE_NAMES[kind], answer)
        for each in snapshots()
        for name, kind, answer in names.follow(each, DOMAIN)
    }
    assert {
        ("web", "A", ("10.96.0.1",)),
        ("web", "AAAA", ("fd00:10:96::1",)),
        ("web", "A", ()),
        ("web", "CNAME", ("example.org",)),
        ("web", "CNAME", ("example.com",)),
        ("web", "CNAME", ()),
        ("_http._tcp.web", "SRV", ("0 100 80 web.default.svc.cluster.local",)),
        ("_http._tcp.web", "SRV", ()),
        ("db-0.db", "A", None),
        ("1.0.96.10.in-addr.arpa", "PTR", None),
        ("3.1.244.10.in-addr.arpa", "PTR", None),
    } <= found
    assert ("db-0.db", "A", ()) not in found


def test_of_the_first_snapshot_nothing_is_new() -> None:
    assert OutdatedNames().follow(snapshots()[3], DOMAIN) == ()
