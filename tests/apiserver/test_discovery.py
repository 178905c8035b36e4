"""Discovery and OpenAPI say what the table of kinds says, in each dialect the same."""

from __future__ import annotations

import msgspec
import pytest

from podnet.apiserver import discovery
from podnet.apiserver.target import parse_path
from podnet.objects.kinds import KINDS


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_aggregated_and_plain_discovery_agree(version: str) -> None:
    aggregated = {}
    for core in (True, False):
        document = discovery.aggregated(core, version)
        assert document["apiVersion"] == f"apidiscovery.k8s.io/{version}"
        for group in document["items"]:
            for served in group["versions"]:
                for row in served["resources"]:
                    names = [sub["subresource"] for sub in row["subresources"]]
                    key = (group["metadata"].get("name", ""), served["version"], row["resource"])
                    aggregated[key] = (
                        row["responseKind"]["kind"],
                        row["scope"] == "Namespaced",
                        row.get("shortNames"),
                        sorted(names),
                    )
    plain = {}
    for group, versions in discovery.groups().items():
        for served, kinds in versions.items():
            rows = discovery.resource_list(kinds)["resources"]
            for row in rows:
                if "/" not in row["name"]:
                    names = [
                        other["name"].split("/")[1] for other in rows if other["name"].startswith(f"{row['name']}/")
                    ]
                    plain[group, served, row["name"]] = (
                        row["kind"],
                        row["namespaced"],
                        row.get("shortNames"),
                        sorted(names),
                    )
    assert aggregated == plain
    assert set(plain) == {(kind.group, kind.version, kind.plural) for kind in KINDS}


def test_groups() -> None:
    assert discovery.api_versions()["versions"] == ["v1"]
    listed = {group["name"]: group["preferredVersion"]["groupVersion"] for group in discovery.group_list()["groups"]}
    assert listed == {kind.group: kind.api_version for kind in KINDS if kind.group}
    assert discovery.group("podnet.dev")["preferredVersion"] == {"groupVersion": "podnet.dev/v1", "version": "v1"}


def test_only_what_is_served_is_announced() -> None:
    rows = {
        row["name"]: row
        for row in discovery.resource_list([kind for kind in KINDS if kind.plural == "pods"])["resources"]
    }
    assert set(rows) == {"pods", "pods/status", "pods/log", "pods/binding"}
    assert rows["pods/binding"]["kind"] == "Binding"
    assert rows["pods/status"]["verbs"] == ["get", "patch", "update"]


def test_openapi_covers_every_kind_with_what_kubectl_asks_for() -> None:
    documents = {path: msgspec.json.decode(text) for path, text in discovery.openapi_documents().items()}
    index = discovery.openapi_index(discovery.openapi_documents())["paths"]
    assert set(index) == set(documents)
    covered = set()
    for path, document in documents.items():
        assert index[path]["serverRelativeURL"].startswith(f"/openapi/v3/{path}?hash=")
        assert document["openapi"] == "3.0.0"
        for template, operations in document["paths"].items():
            target = parse_path(template.replace("{", "").replace("}", ""))
            assert target is not None
            for verb, operation in operations.items():
                gvk = operation["x-kubernetes-group-version-kind"]
                assert gvk == {"group": target.kind.group, "version": target.kind.version, "kind": target.kind.kind}
                names = {parameter["name"] for parameter in operation["parameters"]}
                assert ("fieldValidation" in names) is (verb in ("post", "put", "patch"))
                reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
                assert reference.split("/")[-1] in document["components"]["schemas"]
            covered.add(target.kind.plural)
    assert covered == {kind.plural for kind in KINDS}


def test_strategic_merge_is_for_built_in_kinds() -> None:
    found = {kind.plural: discovery.STRATEGIC in discovery.patch_types(kind) for kind in KINDS}
    assert not found["networkconfigs"]
    assert found["pods"]
    assert found["leases"]
