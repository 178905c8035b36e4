"""What becomes of an object: create, update, delete, as pure functions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from podnet.apiserver import lifecycle
from podnet.apiserver.lifecycle import DeleteOptions, Preconditions
from podnet.apiserver.records import Verdict
from podnet.apiserver.status import ApiError
from podnet.objects.kinds import BY_KIND, CONFIGMAPS, KINDS, PODS, Kind
from tests.apiserver import documents as make
from tests.apiserver.documents import NOW, UID, Document, at

NOW_TEXT = "2026-11-22T10:00:00Z"


def kind_of(document: Document) -> Kind:
    return BY_KIND[document["apiVersion"], document["kind"]]


def born(document: Document, revision: str = "3") -> Document:
    """The document as stored."""
    stored = lifecycle.created(kind_of(document), copy.deepcopy(document), UID, NOW)
    stored["metadata"]["resourceVersion"] = revision
    return stored


def update(old: Document, new: Document, subresource: str = "") -> Any:
    return lifecycle.updated(kind_of(old), subresource, copy.deepcopy(new), copy.deepcopy(old))


def delete(old: Document, **options: Any) -> Any:
    return lifecycle.deleted(kind_of(old), copy.deepcopy(old), DeleteOptions(**options), NOW)


@contextmanager
def refused(code: int, reason: str) -> Iterator[None]:
    """The block ends in this refusal."""
    with pytest.raises(ApiError) as caught:
        yield
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_identity_is_checked_and_completed() -> None:
    document: Document = {"metadata": {"name": "a", "managedFields": [], "selfLink": "x"}, "data": {"x": "y"}}
    lifecycle.identify(CONFIGMAPS, "default", document)
    assert document == {
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}, "data": {"x": "y"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Secret", "metadata": {"name": "a"}},
        {"apiVersion": "v2", "metadata": {"name": "a"}},
        {"metadata": {"name": "a", "namespace": "other"}},
    ],
)
def test_a_body_of_another_kind_or_place(document: Document) -> None:
    with refused(400, "BadRequest"):
        lifecycle.identify(CONFIGMAPS, "default", document)


def test_metadata_that_is_no_object() -> None:
    with refused(422, "Invalid"):
        lifecycle.identify(CONFIGMAPS, "default", {"metadata": "x"})


def test_a_new_object_is_the_servers_own() -> None:
    wish = make.config_map(a="b")
    wish["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": "2000-01-01T00:00:00Z",
        "deletionTimestamp": "x",
        "generation": 9,
    }
    assert born(wish)["metadata"] == {
        "name": "settings", "namespace": "default", "uid": UID, "creationTimestamp": NOW_TEXT, "resourceVersion": "3",
    }  # fmt: skip


def test_status_of_a_new_object_is_the_servers_except_a_nodes() -> None:
    assert born(at(make.pod(), "status.phase", "Running"))["status"]["phase"] == "Pending"
    assert born(make.node())["status"]["addresses"]
    assert "status" not in born(at(make.network_config(), "status.x", 1))


def test_a_wrong_object_is_refused_with_all_its_causes() -> None:
    with pytest.raises(ApiError) as caught:
        born(at(at(make.pod(), "spec.restartPolicy", "x"), "metadata.name", "A"))
    assert caught.value.code == 422
    assert caught.value.details is not None
    assert [cause["field"] for cause in caught.value.details["causes"]] == ["metadata.name", "spec.restartPolicy"]
    with pytest.raises(ApiError, match=r'Pod "" is invalid: metadata\.name: Invalid value'):
        born(at(make.pod(), "metadata.name", 5))


def test_an_update_that_changes_nothing_is_kept() -> None:
    old = born(make.pod())
    assert update(old, old) is Verdict.KEEP
    assert update(old, make.pod()) is Verdict.KEEP, "defaults complete a bare body"


def test_a_bare_body_is_completed() -> None:
    old = born(make.config_map(a="b"))
    new = update(old, make.config_map(a="c"))
    assert new["metadata"] == old["metadata"]
    assert new["data"] == {"a": "c"}


def test_conflicts() -> None:
    old = born(make.config_map())
    with refused(409, "Conflict"):
        update(old, at(old, "metadata.resourceVersion", "2"))
    with refused(409, "Conflict"):
        update(old, at(old, "metadata.uid", "other"))


@pytest.mark.parametrize("document", [make.lease(), make.network_config()], ids=["Lease", "NetworkConfig"])
def test_kinds_that_are_never_replaced_blindly(document: Document) -> None:
    with refused(422, "Invalid"):
        update(born(document), document)


def test_spec_and_status_are_written_apart() -> None:
    old = born(make.pod())
    both = at(at(old, "metadata.labels", {"a": "b"}), "status.phase", "Running")
    assert update(old, both)["status"]["phase"] == "Pending"
    new = update(old, at(both, "spec.nodeName", "n9"), "status")
    assert (new["status"]["phase"], new["spec"], new["metadata"]["labels"]) == ("Running", old["spec"], {"a": "b"})


def test_the_status_of_a_custom_resource_leaves_its_metadata_alone() -> None:
    old = born(make.network_config())
    new = update(old, at(at(old, "metadata.labels", {"a": "b"}), "status.nodes", 3), "status")
    assert new["status"] == {"nodes": 3}
    assert "labels" not in new["metadata"]
    assert new["metadata"]["generation"] == 1


def test_generation_counts_changes_of_the_spec() -> None:
    old = born(make.network_config())
    assert old["metadata"]["generation"] == 1
    assert update(old, at(old, "spec.mtu", 1400))["metadata"]["generation"] == 2
    assert update(old, at(old, "metadata.labels", {"a": "b"}))["metadata"]["generation"] == 1


def test_nobody_writes_a_deletion_by_hand() -> None:
    old = born(make.config_map())
    assert update(old, at(old, "metadata.deletionTimestamp", NOW_TEXT)) is Verdict.KEEP
    going = at(old, "metadata.deletionTimestamp", NOW_TEXT) | {}
    going["metadata"] |= {"finalizers": ["a.b/c"], "deletionGracePeriodSeconds": 0}
    revived = at(going, "metadata.labels", {"x": "y"})
    del revived["metadata"]["deletionTimestamp"]
    assert update(going, revived)["metadata"]["deletionTimestamp"] == NOW_TEXT


def test_the_last_finalizer_takes_the_object_with_it() -> None:
    old = born(at(make.config_map(), "metadata.finalizers", ["a.b/c", "d.e/f"]))
    going = delete(old)
    assert going["metadata"]["deletionTimestamp"] == NOW_TEXT
    assert delete(going) is Verdict.KEEP
    still = update(going, at(going, "metadata.finalizers", ["a.b/c"]))
    assert still["metadata"]["finalizers"] == ["a.b/c"]
    assert update(going, at(going, "metadata.finalizers", [])) is Verdict.DELETE


def test_objects_without_ties_go_at_once() -> None:
    assert delete(born(make.config_map())) is Verdict.DELETE
    assert delete(born(make.node())) is Verdict.DELETE


def on_node(**spec: Any) -> Document:
    return born(make.pod(nodeName="n1", **spec))


@pytest.mark.parametrize(
    ("pod", "asked", "grace"),
    [
        (on_node(), None, 30),
        (on_node(terminationGracePeriodSeconds=5), None, 5),
        (on_node(), 7, 7),
        (on_node(), -1, 1),
        (on_node(), 0, None),
        (born(make.pod()), None, None),
        (at(on_node(), "status.phase", "Succeeded"), None, None),
        (at(on_node(), "status.phase", "Failed"), 30, None),
    ],
)
def test_grace_of_a_pod(pod: Document, asked: int | None, grace: int | None) -> None:
    result = delete(pod, grace_period_seconds=asked)
    if grace is None:
        assert result is Verdict.DELETE
        return
    assert result["metadata"]["deletionGracePeriodSeconds"] == grace
    assert result["metadata"]["deletionTimestamp"] == lifecycle.timestamp(NOW + timedelta(seconds=grace))


def test_grace_only_ever_shrinks_and_ends_with_the_kubelets_delete() -> None:
    going = delete(on_node(), grace_period_seconds=20)
    assert delete(going) is Verdict.KEEP
    assert delete(going, grace_period_seconds=20) is Verdict.KEEP
    assert delete(going, grace_period_seconds=5)["metadata"]["deletionGracePeriodSeconds"] == 5
    assert update(going, at(going, "status.phase", "Running"), "status")["metadata"]["deletionGracePeriodSeconds"] == 20
    assert delete(going, grace_period_seconds=0) is Verdict.DELETE


def test_a_pod_with_a_finalizer_outlives_its_grace() -> None:
    going = delete(at(on_node(), "metadata.finalizers", ["a.b/c"]), grace_period_seconds=0)
    assert going["metadata"]["deletionGracePeriodSeconds"] == 0
    assert update(going, at(going, "metadata.finalizers", [])) is Verdict.DELETE


def test_preconditions() -> None:
    old = born(make.config_map())
    assert delete(old, preconditions=Preconditions(uid=UID, resource_version="3")) is Verdict.DELETE
    for wrong in (Preconditions(uid="other"), Preconditions(resource_version="2")):
        with refused(409, "Conflict"):
            delete(old, preconditions=wrong)


def test_a_namespace_waits_for_its_finalizer() -> None:
    old = born(make.namespace())
    assert old["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    going = delete(old)
    assert going["status"]["phase"] == "Terminating"
    assert update(going, at(going, "spec.finalizers", [])) is Verdict.KEEP, "only finalize may do that"
    assert update(going, at(going, "spec.finalizers", []), "finalize") is Verdict.DELETE
    assert update(old, at(old, "spec.finalizers", ["kubernetes", "a.b/c"]), "finalize")["spec"]["finalizers"] == [
        "kubernetes",
        "a.b/c",
    ]


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
def test_namespaces_that_stay(name: str) -> None:
    with refused(403, "Forbidden"):
        delete(born(make.namespace(name)))


def test_binding() -> None:
    pod = born(make.pod())
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False"}, {"type": "Ready", "status": "False"}]
    bound = lifecycle.bound(PODS, copy.deepcopy(pod), "n1", NOW)
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"] == [
        {"type": "Ready", "status": "False"},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": NOW_TEXT},
    ]
    with refused(409, "Conflict"):
        lifecycle.bound(PODS, bound, "n2", NOW)
    pod["metadata"]["deletionTimestamp"] = NOW_TEXT
    with refused(409, "Conflict"):
        lifecycle.bound(PODS, pod, "n1", NOW)


PROBED = at(make.pod(), "spec.containers.0.readinessProbe", {"httpGet": {"port": 80}})
DEFAULTED = [
    (make.pod(), "spec.restartPolicy", "Always"),
    (make.pod(), "spec.dnsPolicy", "ClusterFirst"),
    (make.pod(), "spec.terminationGracePeriodSeconds", 30),
    (make.pod(), "spec.containers.0.imagePullPolicy", "IfNotPresent"),
    (at(make.pod(), "spec.containers.0.image", "nginx"), "spec.containers.0.imagePullPolicy", "Always"),
    (at(make.pod(), "spec.containers.0.image", "host:5000/nginx"), "spec.containers.0.imagePullPolicy", "Always"),
    (at(make.pod(), "spec.containers.0.image", "nginx@sha256:0"), "spec.containers.0.imagePullPolicy", "IfNotPresent"),
    (make.pod(), "spec.containers.0.ports.0.protocol", "TCP"),
    (make.pod(hostNetwork=True), "spec.containers.0.ports.0.hostPort", 80),
    (PROBED, "spec.containers.0.readinessProbe.periodSeconds", 10),
    (PROBED, "spec.containers.0.readinessProbe.httpGet.path", "/"),
    (make.pod(), "status.qosClass", "BestEffort"),
    (at(make.pod(), "spec.containers.0.resources", {"requests": {"cpu": "1"}}), "status.qosClass", "Burstable"),
    (at(make.pod(), "spec.containers.0.resources.limits", {"cpu": 1, "memory": 1}), "status.qosClass", "Guaranteed"),
    (make.service(), "spec.type", "ClusterIP"),
    (make.service(), "spec.ports.0.targetPort", 80),
    (make.service(type="NodePort"), "spec.externalTrafficPolicy", "Cluster"),
    (make.service(), "status.loadBalancer", {}),
    (make.node(podCIDR="10.0.0.0/24"), "spec.podCIDRs.0", "10.0.0.0/24"),
    (make.node(podCIDRs=["10.0.0.0/24"]), "spec.podCIDR", "10.0.0.0/24"),
    (make.secret(stringData={"a": "x"}), "data.a", "eA=="),
    (make.endpoint_slice(ports=[{"port": 80}]), "ports.0.protocol", "TCP"),
    (make.network_config(), "spec.attachment", "ptp"),
    (make.network_config(), "spec.nodeMask.ipv6", 64),
    (make.network_config(nodeMask={"ipv4": 26}), "spec.nodeMask", {"ipv4": 26, "ipv6": 64}),
    (make.network_config(backend={}), "spec.backend.type", "vxlan"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "path", "value"), DEFAULTED)
def test_defaults(document: Document, path: str, value: Any) -> None:
    place: Any = born(document)
    for part in path.split("."):
        place = place[int(part) if part.isdigit() else part]
    assert place == value


def test_string_data_is_not_stored() -> None:
    assert "stringData" not in born(make.secret(stringData={"a": "x"}))


def test_what_a_user_says_is_never_overruled() -> None:
    document = make.pod(restartPolicy="Never", dnsPolicy="Default", terminationGracePeriodSeconds=0)
    stored = born(document)["spec"]
    assert {name: stored[name] for name in document["spec"] if name != "containers"} == {
        "restartPolicy": "Never", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 0,
    }  # fmt: skip


def test_unknown_fields_pass_untouched() -> None:
    document = at(
        make.pod(volumes=[{"name": "v", "emptyDir": {}}]),
        "spec.containers.0.lifecycle",
        {"preStop": {"sleep": {"seconds": 1}}},
    )
    stored = born(document)["spec"]
    assert stored["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert stored["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 1}}}


def test_the_tables_name_kinds_that_exist() -> None:
    kinds = {kind.kind for kind in KINDS}
    assert kinds >= lifecycle.GENERATION | lifecycle.STATUS_BY_USER | lifecycle.NO_BLIND_UPDATE


def test_the_writer_of_a_status_is_not_blamed_for_the_spec() -> None:
    """Rules may be stricter than those under which an object was stored, and its status is where that is told."""
    old = born(make.service_route())
    old["spec"]["segments"] *= 2  # they overlap
    status = {"conditions": [{"type": "Accepted", "status": "False"}]}
    assert update(old, old | {"status": status}, "status")["status"] == status
    with refused(422, "Invalid"):
        update(old, old | {"metadata": old["metadata"] | {"labels": {"a": "b"}}})
