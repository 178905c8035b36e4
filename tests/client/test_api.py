"""The REST verbs, errors that say who and why, and TLS as clusters use it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from podnet.client.api import Api, ApiError, Unreachable
from podnet.client.config import Credentials, ExecPlugin
from podnet.client.errors import error_from
from podnet.objects.codec import InvalidObject
from podnet.objects.core import ConfigMap, Node, Pod
from podnet.objects.kinds import CONFIGMAPS, NETWORKCONFIGS, NODES, PODS
from podnet.objects.meta import ObjectMeta
from tests.client.certificates import Authority
from tests.client.fake_api import Document, FakeApi, Fault
from tests.client.waiting import until


@pytest.fixture
async def server() -> AsyncIterator[FakeApi]:
    async with FakeApi() as fake:
        yield fake


@pytest.fixture
async def api(server: FakeApi) -> AsyncIterator[Api]:
    async with Api(Credentials(server=server.url, namespace="team"), timeout=5) as made:
        yield made


def node(name: str, **labels: str) -> Document:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": "10.244.0.0/24"}}


async def test_get_typed_and_as_a_document(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1") | {"extra": 1})
    typed = await api.get(NODES, "n1", into=Node)
    assert (typed.metadata.name, typed.spec.pod_cidr) == ("n1", "10.244.0.0/24")
    assert await api.get(NODES, "n1") == typed
    document = await api.get(NODES, "n1", into=dict)
    assert (document["kind"], document["apiVersion"], document["extra"]) == ("Node", "v1", 1)


async def test_a_namespaced_object_is_looked_for_in_the_credentials_namespace(server: FakeApi, api: Api) -> None:
    server.put(PODS, {"metadata": {"name": "p", "namespace": "team"}})
    assert (await api.get(PODS, "p")).key == ("team", "p")
    with pytest.raises(ApiError, match="not found"):
        await api.get(PODS, "p", "other")


async def test_list_reads_every_page(server: FakeApi, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podnet.client.api.PAGE", 3)
    for number in range(8):
        server.put(NODES, node(f"n{number}"))
    assert [each.metadata.name for each in await api.list(NODES, into=Node)] == [f"n{number}" for number in range(8)]
    assert server.count("GET", "nodes") == 3
    assert server.count("GET", "continue=") == 2


async def test_list_starts_over_in_one_piece_when_the_token_expires(
    server: FakeApi, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podnet.client.api.PAGE", 3)
    for number in range(8):
        server.put(NODES, node(f"n{number}"))
    server.forget_tokens = True
    assert len(await api.list(NODES)) == 8


async def test_list_selectors_namespaces_and_documents(server: FakeApi, api: Api) -> None:
    server.put(PODS, {"metadata": {"name": "a", "namespace": "x", "labels": {"k": "v"}}, "spec": {"nodeName": "n 1"}})
    server.put(PODS, {"metadata": {"name": "b", "namespace": "y"}, "spec": {"nodeName": "n2"}})
    assert len(await api.list(PODS)) == 2
    assert [pod.key for pod in await api.list(PODS, "y")] == [("y", "b")]
    assert [pod.key for pod in await api.list(PODS, label_selector="k in (v,w)")] == [("x", "a")]
    assert [pod.key for pod in await api.list(PODS, field_selector="spec.nodeName=n 1")] == [("x", "a")]
    assert [each["kind"] for each in await api.list(PODS, into=dict)] == ["Pod", "Pod"]


async def test_create_from_a_struct_and_from_a_document(server: FakeApi, api: Api) -> None:
    made = await api.create(CONFIGMAPS, ConfigMap(ObjectMeta(name="c"), {"a": "b"}), into=ConfigMap)
    assert made.key == ("team", "c")
    assert made.data == {"a": "b"}
    assert server.bodies[-1]["kind"] == "ConfigMap"
    await api.create(CONFIGMAPS, {"metadata": {"name": "d", "namespace": "own"}})
    await api.create(CONFIGMAPS, {"metadata": {"name": "e"}}, "given")
    assert set(server.of(CONFIGMAPS)) == {("team", "c"), ("own", "d"), ("given", "e")}
    with pytest.raises(ApiError) as caught:
        await api.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


async def test_replace_detects_a_conflict(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1") | {"unknown": "kept"})
    document = await api.get(NODES, "n1", into=dict)
    document["spec"]["podCIDR"] = "10.1.0.0/24"
    await api.replace(NODES, document)
    assert server.of(NODES)["", "n1"]["spec"] == {"podCIDR": "10.1.0.0/24"}
    assert server.of(NODES)["", "n1"]["unknown"] == "kept"
    with pytest.raises(ApiError) as caught:
        await api.replace(NODES, document)
    assert caught.value.reason == "Conflict"


async def test_patches_and_status_say_what_they_are(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1", a="1"))
    await api.patch(NODES, "n1", {"metadata": {"labels": {"a": None, "b": "2"}}})
    assert server.of(NODES)["", "n1"]["metadata"]["labels"] == {"b": "2"}
    await api.patch(NODES, "n1", {}, strategy="strategic")
    await api.patch(NODES, "n1", [{"op": "add", "path": "/a", "value": 1}], strategy="json")
    types = [request.headers["Content-Type"] for request in server.requests]
    assert types == [f"application/{name}+json" for name in ("merge-patch", "strategic-merge-patch", "json-patch")]
    changed = await api.status(NODES, "n1", {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}, into=Node)
    assert changed.status.addresses[0].address == "192.0.2.1"
    assert server.requests[-1].path == "/api/v1/nodes/n1/status"


async def test_delete(server: FakeApi, api: Api) -> None:
    server.put(PODS, {"metadata": {"name": "p", "namespace": "team"}})
    await api.delete(PODS, "p", grace=0, uid="u")
    assert server.of(PODS) == {}
    assert server.bodies[-1] == {
        "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"},
    }  # fmt: skip
    with pytest.raises(ApiError) as caught:
        await api.delete(PODS, "p")
    assert caught.value.code == 404
    assert caught.value.details.name == "p"


async def test_logs_stream(server: FakeApi, api: Api) -> None:
    server.put(PODS, {"metadata": {"name": "p", "namespace": "team"}})
    text = b"".join([piece async for piece in api.logs("p", container="c", tailLines=2, follow=True)])
    assert text == b"line 0\nline 1\n"
    assert dict(server.requests[-1].query) == {"container": "c", "tailLines": "2", "follow": "true"}
    with pytest.raises(ApiError, match='pods "q" not found'):
        [piece async for piece in api.logs("q")]


async def test_raw_requests(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1"))
    body = await api.request("GET", "/api/v1/nodes", query={"limit": 1}, accept="application/json;as=Table")
    assert msgspec.json.decode(body)["kind"] == "NodeList"
    assert server.requests[-1].headers["Accept"] == "application/json;as=Table"
    await api.request("PATCH", "/api/v1/nodes/n1", body=b"{}", content_type="application/merge-patch+json")


async def test_names_cannot_lead_elsewhere(server: FakeApi, api: Api) -> None:
    with pytest.raises(ApiError):
        await api.get(PODS, "../../nodes/n1?x=", "a/b")
    assert server.requests[-1].rel_url.raw_path == "/api/v1/namespaces/a%2Fb/pods/..%2F..%2Fnodes%2Fn1%3Fx%3D"


async def test_an_invalid_object_names_the_field(server: FakeApi, api: Api) -> None:
    server.put(NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDRs": [1]}})
    with pytest.raises(InvalidObject, match=r"spec.podCIDRs"):
        await api.get(NODES, "n1")


async def test_errors_name_the_server(server: FakeApi, api: Api) -> None:
    server.answers.append(
        Fault(422, "Invalid", "spec.x: bad", causes=[{"field": "spec.x", "reason": "FieldValueInvalid"}])
    )
    with pytest.raises(ApiError) as caught:
        await api.get(NODES, "n1")
    assert str(caught.value) == f"spec.x: bad (422 Invalid, from {server.url})"
    assert caught.value.details.causes[0].field == "spec.x"


async def test_an_answer_that_is_no_status_is_quoted(server: FakeApi, api: Api) -> None:
    server.unknown.add("networkconfigs")
    with pytest.raises(ApiError) as caught:
        await api.list(NETWORKCONFIGS)
    assert (caught.value.code, caught.value.message) == (404, "404 page not found")


def test_error_kinds() -> None:
    assert error_from(b'{"code":410,"reason":"Expired"}', 200, "s").expired
    assert error_from(b'{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}', 504, "s").too_new
    assert not error_from(b'{"code":504,"reason":"Timeout"}', 504, "s").too_new
    assert error_from(b'{"code":429,"details":{"retryAfterSeconds":7}}', 429, "s").retry_after == 7
    assert error_from(b'{"code":"x"}', 502, "s").code == 502


async def test_retry_after_comes_from_the_header_too(server: FakeApi, api: Api) -> None:
    server.answers.append(Fault(429, "TooManyRequests", headers={"Retry-After": "3"}))
    with pytest.raises(ApiError) as caught:
        await api.list(NODES)
    assert caught.value.retry_after == 3


async def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with Api(Credentials(server=url)) as api:
            with pytest.raises(Unreachable) as caught:
                await api.list(NODES)
    assert (caught.value.code, caught.value.reason) == (0, "Unreachable")
    assert url in str(caught.value)
    assert str(caught.value) == f"no answer from {url}: Connection refused"


async def test_no_such_host() -> None:
    async with Api(Credentials(server="https://no-such-host.invalid")) as api:
        with pytest.raises(Unreachable, match=r"no answer from https://no-such-host.invalid: \w+"):
            await api.list(NODES)


async def test_a_server_that_does_not_answer_in_time(server: FakeApi) -> None:
    server.delay = 30
    async with Api(Credentials(server=server.url), timeout=0.2) as api:
        with pytest.raises(Unreachable, match=r"nothing came within 0.2 s"):
            await api.get(NODES, "n1")
        with pytest.raises(Unreachable, match=r"nothing came within 0.2 s"):
            await anext(api.stream("/api/v1/nodes"))


async def test_a_list_that_is_not_json(server: FakeApi, api: Api) -> None:
    for nest in (3000, 0):
        server.raw_list = b'{"items":' + b"[" * nest + b"]" * nest
        with pytest.raises(ApiError, match="the list is not valid JSON"):
            await api.list(NODES)


async def test_tokens_are_renewed_after_a_401(server: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    server.allowed_token = "old"
    server.put(NODES, node("n1"))
    async with Api(Credentials(server=server.url, token_file=str(path))) as api:
        await api.get(NODES, "n1")
        status = path.stat()
        path.write_text("new")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        server.allowed_token = "new"
        await api.get(NODES, "n1")
        assert len(server.requests) == 3
        server.allowed_token = "other"
        with pytest.raises(ApiError) as caught:
            await api.get(NODES, "n1")
        assert caught.value.code == 401
        assert len(server.requests) == 5


async def test_a_plugin_that_fails_later_is_an_api_error(server: FakeApi) -> None:
    plugin = ExecPlugin(api_version="client.authentication.k8s.io/v1", command="/absent/login")
    async with Api(Credentials(server=server.url, exec=plugin)) as api:
        with pytest.raises(ApiError, match="exec plugin /absent/login cannot start") as caught:
            await api.list(NODES)
    assert caught.value.reason == "Unauthorized"


async def test_watch_gives_batches_of_lines_however_they_come(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1"))
    watch = api.watch(NODES, query={"resourceVersion": "0"})
    assert await anext(watch) == ()
    assert [b'"n1"' in line for line in await anext(watch)] == [True]
    server.put(NODES, node("n2", big="x" * 2_000_000))
    line = (await anext(watch))[0]
    assert len(line) > 2_000_000
    assert msgspec.json.decode(line)["type"] == "ADDED"
    server.put(NODES, node("n3"))
    server.cut()
    assert [b'"n3"' in line for line in await anext(watch)] == [True]
    with pytest.raises(Unreachable, match="it closed the connection in the middle of an answer"):
        await anext(watch)
    assert server.count("GET", "allowWatchBookmarks=true") == 1


async def test_leaving_a_watch_closes_its_connection(server: FakeApi, api: Api) -> None:
    watch = api.watch(NODES, query={"resourceVersion": "0"})
    await anext(watch)
    assert server.watchers == 1
    await watch.aclose()
    await until(lambda: server.watchers == 0)


async def test_connections_are_kept(server: FakeApi, api: Api) -> None:
    server.put(NODES, node("n1"))
    for _ in range(5):
        await api.get(NODES, "n1")
    assert len({request.transport for request in server.requests}) == 1


class TestTls:
    """One authority, a server that shows a certificate of it, and clients that trust more or less."""

    async def test_a_client_certificate_and_a_trusted_server(self, tmp_path: Path) -> None:
        authority = Authority()
        certificate, key = authority.issue("admin", organization="system:masters")
        async with FakeApi(authority.server_context(tmp_path, ask_client=True)) as server:
            server.put(PODS, {"metadata": {"name": "p", "namespace": "default"}})
            credentials = Credentials(
                server=server.url, ca_data=authority.certificate, cert_data=certificate, key_data=key
            )
            async with Api(credentials) as api:
                assert (await api.get(PODS, "p", into=Pod)).key == ("default", "p")
            async with Api(Credentials(server=server.url, ca_data=authority.certificate)) as api:
                with pytest.raises(Unreachable):
                    await api.get(PODS, "p")

    async def test_an_unknown_authority_is_named_as_the_cause(self, tmp_path: Path) -> None:
        async with FakeApi(Authority().server_context(tmp_path)) as server:
            for ca in (b"", Authority("other").certificate):
                async with Api(Credentials(server=server.url, ca_data=ca)) as api:
                    with pytest.raises(Unreachable, match=r"its certificate is not accepted: .*certificate") as caught:
                        await api.list(NODES)
                    assert server.url in str(caught.value)
            async with Api(Credentials(server=server.url, insecure=True)) as api:
                assert await api.list(NODES) == ()

    async def test_another_name_in_the_certificate(self, tmp_path: Path) -> None:
        authority = Authority()
        async with FakeApi(authority.server_context(tmp_path, "kubernetes.test")) as server:
            async with Api(Credentials(server=server.url, ca_data=authority.certificate)) as api:
                with pytest.raises(Unreachable, match="its certificate is not accepted"):
                    await api.list(NODES)
            named = Credentials(server=server.url, ca_data=authority.certificate, tls_server_name="kubernetes.test")
            async with Api(named) as api:
                assert await api.list(NODES) == ()

    async def test_a_renewed_client_certificate_is_used_for_new_connections(self, tmp_path: Path) -> None:
        old, new = Authority("old"), Authority("new")
        files = tmp_path / "cert", tmp_path / "key"
        for path, pem in zip(files, old.issue("me"), strict=True):
            path.write_bytes(pem)
        context = new.server_context(tmp_path, ask_client=True)
        async with FakeApi(context) as server:
            mine = Credentials(
                server=server.url, ca_data=new.certificate, cert_file=str(files[0]), key_file=str(files[1])
            )
            async with Api(mine) as api:
                with pytest.raises(Unreachable):
                    await api.list(NODES)
                for path, pem in zip(files, new.issue("me"), strict=True):
                    path.write_bytes(pem)
                assert await api.list(NODES) == ()
