"""YAML in, objects in the cluster; the second time nothing changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from podnet.client.api import Api, ApiError
from podnet.client.config import Credentials
from podnet.client.manifest import apply, documents
from podnet.objects.codec import InvalidObject
from podnet.objects.kinds import CONFIGMAPS, NETWORKCONFIGS, NODES
from tests.client.fake_api import FakeApi, Fault

TEXT = """
apiVersion: v1
kind: Node
metadata:
  name: n1
  creationTimestamp: 2026-01-01T00:00:00Z
---
---
apiVersion: podnet.dev/v1
kind: NetworkConfig
metadata: {name: default}
spec:
  backend: {type: host-gw}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        yield fake


@pytest.fixture
async def api(server: FakeApi) -> AsyncIterator[Api]:
    async with Api(Credentials(server=server.url, namespace="team")) as made:
        yield made


async def test_apply_creates_then_leaves_alone_then_changes(server: FakeApi, api: Api) -> None:
    first = await apply(api, TEXT)
    assert [str(each) for each in first] == [
        "node/n1 created",
        "networkconfig.podnet.dev/default created",
        "configmap/c created",
    ]
    assert set(server.of(CONFIGMAPS)) == {("team", "c")}
    assert {each.outcome for each in await apply(api, TEXT)} == {"unchanged"}
    outcomes = [each.outcome for each in await apply(api, TEXT.replace("host-gw", "vxlan"))]
    assert outcomes == ["unchanged", "configured", "unchanged"]
    assert server.of(NETWORKCONFIGS)["", "default"]["spec"]["backend"] == {"type": "vxlan"}


async def test_apply_patches_strategically_where_the_api_can(server: FakeApi, api: Api) -> None:
    await apply(api, TEXT)
    await apply(api, TEXT)
    types = [request.headers["Content-Type"] for request in server.requests if request.method == "PATCH"]
    assert types == ["application/strategic-merge-patch+json", "application/merge-patch+json", *types[:1]]


async def test_a_namespace_for_what_names_none(server: FakeApi, api: Api) -> None:
    await apply(api, TEXT, "other")
    await apply(api, TEXT.replace("{name: c}", "{name: c, namespace: own}"), "other")
    assert set(server.of(CONFIGMAPS)) == {("other", "c"), ("own", "c")}


async def test_somebody_else_was_quicker(server: FakeApi, api: Api) -> None:
    server.put(NODES, {"metadata": {"name": "n1"}})
    server.answers.append(Fault(404, "NotFound"))
    assert (await apply(api, TEXT))[0].outcome == "configured"


async def test_errors_of_the_server_end_it(server: FakeApi, api: Api) -> None:
    server.answers.append(Fault(403, "Forbidden"))
    with pytest.raises(ApiError, match="403 Forbidden"):
        await apply(api, TEXT)
    server.answers.extend([Fault(404, "NotFound"), Fault(422, "Invalid", "spec: bad")])
    with pytest.raises(ApiError, match="spec: bad"):
        await apply(api, TEXT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1", "expected an object, got list"),
        ("apiVersion: v1\nkind: Nude\nmetadata: {name: x}", "kind: Nude of v1 is no kind podnet knows"),
        ("metadata: {name: x}", "nothing of no apiVersion is no kind"),
        ("apiVersion: v1\nkind: Node\nmetadata: {}", "metadata.name: missing"),
        ("apiVersion: v1\nkind: Node\nmetadata: x", "metadata.name: missing"),
    ],
)
async def test_bad_text_sends_nothing(server: FakeApi, api: Api, text: str, message: str) -> None:
    with pytest.raises(InvalidObject, match=message):
        await apply(api, f"{TEXT}---\n{text}")
    assert server.requests == []


def test_json_is_yaml() -> None:
    ((kind, document),) = documents('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}')
    assert (kind, document["metadata"]["name"]) == (NODES, "n")
