"""What this server serves, in the three dialects clients ask in: aggregated (v2, v2beta1), plain lists, and OpenAPI v3.

All of it follows from the table of kinds. The OpenAPI documents say what kubectl needs before it applies: which paths
take which kind, and that `fieldValidation` and `dryRun` are known.
Source: k8s.io/api apidiscovery/v2, metav1.APIResourceList; KEP-2896.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from podnet.apiserver.status import Document
from podnet.objects.kinds import KINDS, Kind

VERSION: Document = {
    "major": "1", "minor": "33", "gitVersion": "v1.33.0+podnet", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "CPython", "platform": "linux/amd64",
}  # fmt: skip
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCES: Mapping[str, tuple[list[str], str]] = {
    "status": (["get", "patch", "update"], ""),
    "finalize": (["update"], ""),
    "binding": (["create"], "Binding"),
    "log": (["get"], ""),
}
# kubectl before 1.30 insists on this older document, and only as protobuf, before it creates or applies a file. It says
# {swagger: "2.0", info: {title: "podnet"}}: with no paths kubectl leaves validation to the server.
OPENAPI_V2_ACCEPT = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
OPENAPI_V2_TYPE = OPENAPI_V2_ACCEPT.replace("@", ".")  # as upstream answers: an @ is no part of a media type
OPENAPI_V2 = b"\x0a\x032.0\x12\x08\x0a\x06podnet"
MERGE_PATCHES = ("application/json-patch+json", "application/merge-patch+json")
STRATEGIC = "application/strategic-merge-patch+json"


def patch_types(kind: Kind) -> Sequence[str]:
    """Strategic merge is for built-in kinds only, as upstream."""
    return MERGE_PATCHES if kind.group == "podnet.dev" else (*MERGE_PATCHES, STRATEGIC)


def groups() -> dict[str, dict[str, list[Kind]]]:
    """Kinds by group and version; the core group is ""."""
    found: dict[str, dict[str, list[Kind]]] = {}
    for kind in KINDS:
        found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    return found


def aggregated(core: bool, version: str) -> Document:
    """APIGroupDiscoveryList of /api (core) or /apis; version v2 or v2beta1."""
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
            "versions": [
                {"version": name, "resources": [_aggregated(kind) for kind in kinds], "freshness": "Current"}
                for name, kinds in versions.items()
            ],
        }
        for group, versions in groups().items()
        if (group == "") is core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated(kind: Kind) -> Document:
    return {
        "resource": kind.plural,
        "responseKind": _gvk(kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": VERBS,
        **({"shortNames": list(kind.short)} if kind.short else {}),
        **({"categories": ["all"]} if kind.plural in ("pods", "services") else {}),
        "subresources": [
            {
                "subresource": name,
                "responseKind": {"group": "", "version": "v1", "kind": "Binding"} if name == "binding" else _gvk(kind),
                "verbs": _SUBRESOURCES[name][0],
            }
            for name in kind.subresources
            if name in _SUBRESOURCES
        ],
    }


def _gvk(kind: Kind) -> Document:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def api_versions() -> Document:
    """/api for clients that do not aggregate."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list() -> Document:
    """/apis for clients that do not aggregate."""
    listed = [group(name) for name in groups() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(name: str) -> Document:
    """/apis/GROUP."""
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in groups()[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(kinds: Sequence[Kind]) -> Document:
    """/api/v1 and /apis/GROUP/VERSION."""
    rows = [row for kind in kinds for row in _rows(kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": kinds[0].api_version, "resources": rows}


def _rows(kind: Kind) -> Iterator[Document]:
    base = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": VERBS,
    }
    if kind.short:
        base["shortNames"] = list(kind.short)
    if kind.plural in ("pods", "services"):
        base["categories"] = ["all"]
    yield base
    for name in kind.subresources:
        if name in _SUBRESOURCES:
            verbs, answer = _SUBRESOURCES[name]
            yield {
                "name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced,
                "kind": answer or kind.kind, "verbs": verbs,
            }  # fmt: skip


def openapi_index(documents: Mapping[str, bytes]) -> Document:
    """/openapi/v3: where each group version's document is, with a hash so that clients may cache it."""
    paths = {}
    for path, document in documents.items():
        digest = hashlib.sha256(document).hexdigest().upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def openapi_documents() -> dict[str, bytes]:
    """One OpenAPI v3 document per group version, keyed `api/v1` or `apis/GROUP/VERSION`."""
    documents = {}
    for name, versions in groups().items():
        for version, kinds in versions.items():
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            documents[path] = msgspec.json.encode(_openapi(path, kinds))
    return documents


def _openapi(path: str, kinds: Sequence[Kind]) -> Document:
    paths: Document = {}
    schemas: Document = {}
    for kind in kinds:
        schema = f"{'.'.join(reversed((kind.group or 'core.api.k8s.io').split('.')))}.{kind.version}.{kind.kind}"
        schemas[schema] = {
            "type": "object",
            "description": kind.type.__doc__,
            "x-kubernetes-group-version-kind": [_gvk(kind)],
        }
        base = f"/{path}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/{path}/{kind.plural}"
        paths[base] = {"get": _operation(kind, "list", schema), "post": _operation(kind, "post", schema)}
        verbs = ("get", "put", "patch", "delete")
        paths[f"{base}/{{name}}"] = {verb: _operation(kind, verb, schema) for verb in verbs}
    return {
        "openapi": "3.0.0", "info": {"title": "podnet", "version": VERSION["gitVersion"]},
        "paths": paths, "components": {"schemas": schemas},
    }  # fmt: skip


def _operation(kind: Kind, action: str, schema: str) -> Document:
    answer = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    names = {"post", "put", "patch"} & {action} and ["dryRun", "fieldManager", "fieldValidation"]
    operation: Document = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind),
        "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names or ()],
        "responses": {"200": {"description": "OK", "content": answer}},
    }
    if action in ("post", "put"):
        operation["requestBody"] = {"content": answer}
    if action == "patch":
        # Strategic merge is understood but not claimed here: kubectl would compute such patches from these schemas,
        # which list no fields, instead of from its own types.
        operation["requestBody"] = {"content": {name: {"schema": {"type": "object"}} for name in MERGE_PATCHES}}
    return operation
