"""Snapshots share what did not change; the table of kinds is the one source of paths and types."""

from __future__ import annotations

import pytest

from podnet.objects import kinds
from podnet.objects.cluster import Cluster
from podnet.objects.core import Namespace
from podnet.objects.kinds import BY_KIND, KINDS, Kind
from podnet.objects.meta import ObjectMeta
from tests.worlds import cluster, config, node


def test_a_snapshot_shares_what_did_not_change() -> None:
    before = cluster([node(1), node(2)], config(), revision=7)
    other = Namespace(metadata=ObjectMeta(name="x"))
    after = before.with_objects("namespaces", {other.key: other})
    assert (after.revision, after.namespaces) == (8, {("", "x"): other})
    assert after.nodes is before.nodes
    assert after.networkconfigs is before.networkconfigs
    assert before.namespaces == {}


def test_the_network_configuration_is_the_one_called_default() -> None:
    made = config()
    assert cluster([], made).network is made
    assert Cluster().network is None
    assert Cluster(networkconfigs={("", "other"): made}).network is None


@pytest.mark.parametrize(
    ("kind", "args", "path"),
    [
        (kinds.PODS, (), "/api/v1/pods"),
        (kinds.PODS, ("ns",), "/api/v1/namespaces/ns/pods"),
        (kinds.PODS, ("ns", "a", "log"), "/api/v1/namespaces/ns/pods/a/log"),
        (kinds.NODES, ("", "n1"), "/api/v1/nodes/n1"),
        (kinds.NODES, ("ignored", "n1", "status"), "/api/v1/nodes/n1/status"),
        (kinds.LEASES, ("ns", "a"), "/apis/coordination.k8s.io/v1/namespaces/ns/leases/a"),
        (kinds.NETWORKCONFIGS, ("", "default"), "/apis/podnet.dev/v1/networkconfigs/default"),
        (kinds.NAMESPACES, ("", "x", "finalize"), "/api/v1/namespaces/x/finalize"),
    ],
)
def test_paths(kind: Kind, args: tuple[str, ...], path: str) -> None:
    assert kind.path(*args) == path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_row_can_be_found_and_decoded(kind: Kind) -> None:
    assert BY_KIND[kind.api_version, kind.kind] is kind
    assert kind.type.__name__ == kind.kind
    assert kind.singular == kind.kind.lower()
    assert kind.plural.startswith(kind.singular[:-1])
    assert kind.type().key == ("", "")


def test_names_are_unique() -> None:
    names = [name for kind in KINDS for name in {kind.plural, kind.singular, *kind.short}]
    assert len(names) == len(set(names))


def test_the_snapshot_has_a_mapping_for_each_plural_it_holds() -> None:
    plurals = {kind.plural for kind in KINDS}
    assert set(Cluster.__struct_fields__) - {"revision"} <= plurals
