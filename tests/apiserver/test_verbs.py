"""The verbs over HTTP: create, get, list, replace, patch, delete, and what each refuses."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import pytest

from podnet.objects.kinds import CONFIGMAPS, EVENTS, NAMESPACES, NETWORKCONFIGS, NODES, PODS, SECRETS, SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import JSON, TABLE, Api, until
from tests.apiserver.documents import at
from tests.apiserver.test_protobuf import body as protobuf_body
from tests.apiserver.test_protobuf import message, metadata

MAPS = CONFIGMAPS.path("default")
SETTINGS = CONFIGMAPS.path("default", "settings")


async def test_create_get_and_list(api: Api) -> None:
    created = await api.create(CONFIGMAPS, make.config_map(a="b"))
    assert created["data"] == {"a": "b"}
    assert set(created["metadata"]) == {"name", "namespace", "uid", "creationTimestamp", "resourceVersion"}
    assert await api.get(SETTINGS) == (200, created)
    code, listed = await api.get(MAPS)
    assert (code, listed["kind"], listed["apiVersion"]) == (200, "ConfigMapList", "v1")
    assert listed["items"] == [created]
    assert listed["metadata"] == {"resourceVersion": created["metadata"]["resourceVersion"]}
    assert (await api.get(CONFIGMAPS.path()))[1]["items"] == [created]
    assert (await api.get(CONFIGMAPS.path("kube-system")))[1]["items"] == []


async def test_names_are_made_up_on_request(api: Api) -> None:
    document = make.config_map()
    document["metadata"] = {"namespace": "default", "generateName": "settings-"}
    names = {(await api.create(CONFIGMAPS, document))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("settings-") and len(name) == len("settings-") + 5 for name in names)


REFUSED_CREATES: list[tuple[Any, int, str]] = [
    ({"metadata": {}}, 422, "Invalid"),
    ({"metadata": {"name": "A"}}, 422, "Invalid"),
    ({"metadata": {"name": "a", "namespace": "other"}}, 400, "BadRequest"),
    ({"metadata": {"name": "a", "resourceVersion": "1"}}, 400, "BadRequest"),
    ({"kind": "Pod", "metadata": {"name": "a"}}, 400, "BadRequest"),
    ({"metadata": {"generateName": "A-"}}, 422, "Invalid"),
    ({"metadata": {"generateName": 5}}, 422, "Invalid"),
    ([], 400, "BadRequest"),
    (b"{", 400, "BadRequest"),
    (b"", 400, "BadRequest"),
    (b'{"metadata": {"name": "\xff"}}', 400, "BadRequest"),
    (b"[" * 100_000, 400, "BadRequest"),
]


@pytest.mark.parametrize(("document", "code", "reason"), REFUSED_CREATES, ids=str)
async def test_creates_that_are_refused(api: Api, document: Any, code: int, reason: str) -> None:
    answer = await api.ask("POST", MAPS, document)
    assert (answer[0], answer[1]["reason"]) == (code, reason)
    assert answer[1]["kind"] == "Status"


async def test_a_body_that_is_too_large(api: Api) -> None:
    code, status = await api.ask("POST", MAPS, io.BytesIO(b" " * (3 << 20) + b"{}"))
    assert (code, status["reason"]) == (413, "RequestEntityTooLarge")


async def test_media_types(api: Api) -> None:
    assert (await api.ask("POST", MAPS, b"a: b", content="application/yaml"))[0] == 415
    code, status = await api.ask("PATCH", SETTINGS, b"{}", content="application/apply-patch+yaml")
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")
    assert (await api.get(MAPS, accept="text/html"))[0] == 406
    assert (await api.get(MAPS, accept="application/vnd.kubernetes.protobuf,application/json"))[0] == 200


async def test_protobuf_bodies(api: Api) -> None:
    kind = "application/vnd.kubernetes.protobuf"
    code, created = await api.ask(
        "POST", NAMESPACES.path(), protobuf_body("Namespace", message((1, metadata("team")))), content=kind
    )
    assert (code, created["status"]["phase"]) == (201, "Active")
    options = protobuf_body("DeleteOptions", message((1, 0)))
    await api.create(CONFIGMAPS, make.config_map())
    assert (await api.ask("DELETE", SETTINGS, options, content=kind))[0] == 200


async def test_twice_the_same_and_never_there(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map())
    code, status = await api.ask("POST", MAPS, make.config_map())
    assert (code, status["reason"], status["message"]) == (409, "AlreadyExists", 'configmaps "settings" already exists')
    for method, path in (("GET", MAPS + "/nope"), ("DELETE", MAPS + "/nope"), ("PUT", MAPS + "/nope")):
        body = make.config_map("nope") if method == "PUT" else None
        code, status = await api.ask(method, path, body)
        assert (code, status["reason"], status["message"]) == (404, "NotFound", 'configmaps "nope" not found')
        assert status["details"] == {"name": "nope", "kind": "configmaps"}


async def test_objects_need_a_namespace(api: Api) -> None:
    code, status = await api.ask("POST", CONFIGMAPS.path("nowhere"), make.config_map(namespace="nowhere"))
    assert (code, status["message"]) == (404, 'namespaces "nowhere" not found')


async def test_nulls_are_absent(api: Api) -> None:
    created = await api.create(
        CONFIGMAPS, at(make.config_map(a="b"), "metadata.creationTimestamp", None) | {"binaryData": None}
    )
    assert "binaryData" not in created
    assert created["metadata"]["creationTimestamp"]


async def test_replace_and_conflicts(api: Api) -> None:
    first = await api.create(CONFIGMAPS, make.config_map(a="1"))
    code, second = await api.ask("PUT", SETTINGS, at(first, "data.a", "2"))
    assert (code, second["data"]) == (200, {"a": "2"})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    code, status = await api.ask("PUT", SETTINGS, at(first, "data.a", "3"))
    assert (code, status["reason"]) == (409, "Conflict")
    code, third = await api.ask("PUT", SETTINGS, make.config_map(a="4"))
    assert (code, third["metadata"]["uid"]) == (200, first["metadata"]["uid"])
    code, same = await api.ask("PUT", SETTINGS, third)
    assert same["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"], (
        "nothing changed, nothing written"
    )
    code, status = await api.ask("PUT", SETTINGS, make.config_map("other"))
    assert code == 400
    assert "does not match the name on the URL" in status["message"]


async def test_one_of_many_concurrent_replaces_wins(api: Api) -> None:
    first = await api.create(CONFIGMAPS, make.config_map(a="0"))
    answers = await asyncio.gather(*(api.ask("PUT", SETTINGS, at(first, "data.a", str(n))) for n in range(1, 9)))
    assert sorted(code for code, _ in answers) == [200] + [409] * 7


async def test_concurrent_patches_all_win(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map())
    answers = await asyncio.gather(*(api.patch(SETTINGS, {"data": {f"k{n}": "x"}}) for n in range(8)))
    assert {code for code, _ in answers} == {200}
    assert len((await api.get(SETTINGS))[1]["data"]) == 8


async def test_patches(api: Api) -> None:
    created = await api.create(SERVICES, make.service())
    path = SERVICES.path("default", "web")
    code, merged = await api.patch(path, {"spec": {"selector": {"app": None, "tier": "front"}}})
    assert (code, merged["spec"]["selector"]) == (200, {"tier": "front"})
    ports = {"$setElementOrder/ports": [{"port": 81}, {"port": 80}], "ports": [{"port": 81, "name": "b"}]}
    code, strategic = await api.patch(path, {"spec": ports}, "strategic-merge-patch")
    assert [port["port"] for port in strategic["spec"]["ports"]] == [81, 80]
    assert strategic["spec"]["ports"][1] == created["spec"]["ports"][0]
    code, replaced = await api.patch(path, [{"op": "replace", "path": "/spec/ports/0/port", "value": 82}], "json-patch")
    assert (code, replaced["spec"]["ports"][0]["port"]) == (200, 82)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("merge-patch", [], 400),
        ("merge-patch", b"{", 400),
        ("merge-patch", {"metadata": {"name": "other"}}, 400),
        ("merge-patch", {"metadata": None}, 400),
        ("merge-patch", {"metadata": {"resourceVersion": "1"}}, 409),
        ("merge-patch", {"data": {"a": 5}}, 422),
        ("merge-patch", {"data": {"a/b": "x"}}, 422),
        ("json-patch", {}, 400),
        ("json-patch", [{"op": "test", "path": "/data/a", "value": "x"}], 422),
        ("strategic-merge-patch", {"data": {"$patch": "explode"}}, 400),
    ],
)
async def test_patches_that_are_refused(api: Api, kind: str, body: Any, code: int) -> None:
    await api.create(CONFIGMAPS, make.config_map(a="1"))
    before = await api.get(SETTINGS)
    assert (await api.patch(SETTINGS, body, kind))[0] == code
    assert await api.get(SETTINGS) == before


async def test_custom_resources_take_no_strategic_patch(api: Api) -> None:
    await api.create(NETWORKCONFIGS, make.network_config())
    code, status = await api.patch(NETWORKCONFIGS.path("", "default"), {"spec": {"mtu": 1400}}, "strategic-merge-patch")
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")
    assert (await api.patch(NETWORKCONFIGS.path("", "default"), {"spec": {"mtu": 1400}}))[1]["spec"]["mtu"] == 1400


async def test_status_is_written_apart(api: Api) -> None:
    await api.create(PODS, make.pod(nodeName="n1"))
    path = PODS.path("default", "web")
    code, pod = await api.patch(path + "/status", {"status": {"phase": "Running"}, "spec": {"nodeName": "n2"}})
    assert (code, pod["status"]["phase"], pod["spec"]["nodeName"]) == (200, "Running", "n1")
    code, pod = await api.ask("PUT", path, at(pod, "status.phase", "Failed"))
    assert pod["status"]["phase"] == "Running"
    assert await api.get(path + "/status") == (200, pod)


async def test_binding(api: Api) -> None:
    await api.create(PODS, make.pod())
    path = PODS.path("default", "web", "binding")
    target = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "web"},
        "target": {"kind": "Node", "name": "n1"},
    }
    code, status = await api.ask("POST", path, target)
    assert (code, status["status"]) == (201, "Success")
    assert (await api.get(PODS.path("default", "web")))[1]["spec"]["nodeName"] == "n1"
    assert (await api.ask("POST", path, target))[0] == 409
    assert (await api.ask("POST", path, {"target": {}}))[0] == 422
    assert (await api.ask("POST", PODS.path("default", "nope", "binding"), target))[0] == 404


async def test_delete_answers_a_status_or_a_pod(api: Api) -> None:
    created = await api.create(CONFIGMAPS, make.config_map())
    code, status = await api.ask("DELETE", SETTINGS)
    assert (code, status["status"], status["details"]["uid"]) == (200, "Success", created["metadata"]["uid"])
    await api.create(PODS, make.pod())
    code, pod = await api.ask("DELETE", PODS.path("default", "web"), {"kind": "DeleteOptions", "apiVersion": "v1"})
    assert (code, pod["kind"]) == (200, "Pod")
    assert (await api.get(PODS.path("default", "web")))[0] == 404


async def test_graceful_deletion_ends_with_the_kubelet(api: Api) -> None:
    await api.create(NODES, make.node())
    await api.create(PODS, make.pod(nodeName="n1", terminationGracePeriodSeconds=7))
    path = PODS.path("default", "web")
    code, pod = await api.ask("DELETE", path)
    assert (code, pod["metadata"]["deletionGracePeriodSeconds"]) == (200, 7)
    assert (await api.get(path))[1] == pod
    code, pod = await api.ask("DELETE", path, gracePeriodSeconds=3)
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 3
    assert (await api.ask("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}))[0] == 409
    assert (await api.ask("DELETE", path, {"gracePeriodSeconds": 0}))[0] == 200
    assert (await api.get(path))[0] == 404


async def test_finalizers_hold_an_object(api: Api) -> None:
    await api.create(CONFIGMAPS, at(make.config_map(), "metadata.finalizers", ["example.com/hold"]))
    code, going = await api.ask("DELETE", SETTINGS)
    assert (code, "deletionTimestamp" in going["metadata"]) == (200, True)
    assert (await api.patch(SETTINGS, {"metadata": {"finalizers": None}}))[0] == 200
    assert (await api.get(SETTINGS))[0] == 404


async def test_delete_options_that_make_no_sense(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map())
    assert (await api.ask("DELETE", SETTINGS, {"gracePeriodSeconds": "soon"}))[0] == 400
    assert (await api.ask("DELETE", SETTINGS, gracePeriodSeconds="soon"))[0] == 400
    assert (await api.get(SETTINGS))[0] == 200


async def test_delete_a_collection(api: Api) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        await api.create(CONFIGMAPS, at(make.config_map(name), "metadata.labels", {"l": label}))
    code, listed = await api.ask("DELETE", MAPS, labelSelector="l=x")
    assert (code, [item["metadata"]["name"] for item in listed["items"]]) == (200, ["a", "b"])
    assert [item["metadata"]["name"] for item in (await api.get(MAPS))[1]["items"]] == ["c"]
    assert (await api.ask("DELETE", CONFIGMAPS.path()))[0] == 405


async def test_dry_runs_change_nothing(api: Api) -> None:
    assert (await api.create(CONFIGMAPS, make.config_map(), dryRun="All"))["metadata"]["uid"]
    assert (await api.get(SETTINGS))[0] == 404
    created = await api.create(CONFIGMAPS, make.config_map(a="1"))
    assert (await api.patch(SETTINGS, {"data": {"a": "2"}}, dryRun="All"))[1]["data"] == {"a": "2"}
    assert (await api.ask("PUT", SETTINGS, at(created, "data.a", "3"), dryRun="All"))[0] == 200
    assert (await api.ask("DELETE", SETTINGS, dryRun="All"))[0] == 200
    assert (await api.ask("DELETE", SETTINGS, {"dryRun": ["All"]}))[0] == 200
    assert await api.get(SETTINGS) == (200, created)
    assert (await api.ask("DELETE", SETTINGS, dryRun="Maybe"))[0] == 400


async def test_what_clients_also_send_is_accepted(api: Api) -> None:
    await api.create(CONFIGMAPS, make.config_map(), fieldManager="me", fieldValidation="Strict")
    assert (await api.ask("DELETE", SETTINGS, {"propagationPolicy": "Foreground", "orphanDependents": None}))[0] == 200


async def test_a_wrong_object_names_every_wrong_field(api: Api) -> None:
    wrong = at(at(make.pod("Web"), "spec.restartPolicy", "x"), "spec.containers.0.ports.0.containerPort", 70000)
    code, status = await api.ask("POST", PODS.path("default"), wrong)
    assert (code, status["reason"], status["details"]["kind"]) == (422, "Invalid", "Pod")
    fields = [cause["field"] for cause in status["details"]["causes"]]
    assert fields == ["metadata.name", "spec.containers[0].ports[0].containerPort", "spec.restartPolicy"]


async def test_methods_that_paths_do_not_take(api: Api) -> None:
    await api.create(PODS, make.pod())
    pod = PODS.path("default", "web")
    for method, path in (
        ("PUT", MAPS), ("PATCH", MAPS), ("POST", pod), ("POST", PODS.path()), ("DELETE", pod + "/status"),
        ("GET", pod + "/binding"), ("PUT", pod + "/binding"), ("POST", pod + "/log"), ("OPTIONS", pod),
        ("POST", "/apis"), ("GET", NAMESPACES.path("", "default", "finalize")),
    ):  # fmt: skip
        code, status = await api.ask(method, path, {} if method != "GET" else None)
        assert (code, status["reason"]) == (405, "MethodNotAllowed"), (method, path)


async def test_exec_is_honestly_not_there(api: Api) -> None:
    await api.create(PODS, make.pod())
    code, status = await api.ask("POST", PODS.path("default", "web", "exec"))
    assert (code, status["reason"]) == (501, "NotImplemented")


async def test_lists_in_pages_are_of_one_moment(api: Api) -> None:
    for name in "abcde":
        await api.create(CONFIGMAPS, make.config_map(name))
    _code, first = await api.get(MAPS, limit=2)
    assert [item["metadata"]["name"] for item in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.ask("DELETE", MAPS + "/d")
    await api.create(CONFIGMAPS, make.config_map("cc"))
    _code, second = await api.get(MAPS, limit=2, **{"continue": first["metadata"]["continue"]})
    _code, third = await api.get(MAPS, limit=2, **{"continue": second["metadata"]["continue"]})
    assert [item["metadata"]["name"] for page in (second, third) for item in page["items"]] == ["c", "d", "e"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]
    assert [item["metadata"]["name"] for item in (await api.get(MAPS))[1]["items"]] == ["a", "b", "c", "cc", "e"]


@pytest.mark.parametrize("token", ["x", "!!", "eyJ2IjoxfQ", "e30"])
async def test_continue_tokens_that_we_did_not_give(api: Api, token: str) -> None:
    code, status = await api.get(MAPS, **{"continue": token})
    assert (code, status["reason"]) == (400, "BadRequest")


async def test_lists_of_the_past_and_of_the_future(api: Api) -> None:
    first = await api.create(CONFIGMAPS, make.config_map("a"))
    await api.create(CONFIGMAPS, make.config_map("b"))
    version = first["metadata"]["resourceVersion"]
    code, past = await api.get(MAPS, resourceVersion=version, resourceVersionMatch="Exact")
    assert ([item["metadata"]["name"] for item in past["items"]], past["metadata"]["resourceVersion"]) == (
        ["a"],
        version,
    )
    assert len((await api.get(MAPS, resourceVersion=version))[1]["items"]) == 2
    assert len((await api.get(MAPS, resourceVersion="0"))[1]["items"]) == 2
    code, status = await api.get(MAPS, resourceVersion=10**9)
    assert (code, status["reason"]) == (504, "Timeout")
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert (await api.get(MAPS, resourceVersion="yesterday"))[0] == 400


async def test_selectors(api: Api) -> None:
    for name, node in (("a", "n1"), ("b", "n1"), ("c", "n2")):
        await api.create(PODS, at(make.pod(name, nodeName=node), "metadata.labels", {"app": name}))

    async def names(**query: str) -> list[str]:
        code, listed = await api.get(PODS.path("default"), **query)
        assert code == 200, listed
        return [item["metadata"]["name"] for item in listed["items"]]

    assert await names(labelSelector="app in (a,c)") == ["a", "c"]
    assert await names(fieldSelector="spec.nodeName=n1") == ["a", "b"]
    assert await names(fieldSelector="spec.nodeName=n1,metadata.name!=a", labelSelector="app") == ["b"]
    assert (await api.get(PODS.path("default"), labelSelector="a in"))[0] == 400
    assert (await api.get(PODS.path("default"), fieldSelector="spec.image=x"))[0] == 400


async def test_tables(api: Api) -> None:
    await api.create(PODS, make.pod())
    code, listed = await api.get(PODS.path("default"), accept=TABLE, limit=500)
    assert (code, listed["kind"], listed["rows"][0]["cells"][:3]) == (200, "Table", ["web", "0/1", "Pending"])
    assert listed["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    code, one = await api.get(PODS.path("default", "web"), accept=TABLE, includeObject="Object")
    assert one["rows"][0]["object"]["kind"] == "Pod"
    assert (await api.get(PODS.path("default"), accept=TABLE, includeObject="Half"))[0] == 400


async def test_a_namespace_that_goes_takes_its_contents_with_it(api: Api) -> None:
    await api.create(NAMESPACES, make.namespace())
    await api.create(CONFIGMAPS, make.config_map(namespace="team"))
    await api.create(PODS, make.pod(namespace="team", nodeName="n1"))
    code, going = await api.ask("DELETE", NAMESPACES.path("", "team"))
    assert (code, going["status"]["phase"]) == (200, "Terminating")
    code, status = await api.ask("POST", CONFIGMAPS.path("team"), make.config_map("late", "team"))
    assert (code, status["reason"], status["details"]["causes"][0]["reason"]) == (
        403,
        "Forbidden",
        "NamespaceTerminating",
    )

    async def gone(path: str) -> bool:
        return (await api.get(path))[0] == 404

    await until(lambda: gone(CONFIGMAPS.path("team", "settings")))
    assert not await gone(NAMESPACES.path("", "team")), "a pod still ends gracefully"
    await api.ask("DELETE", PODS.path("team", "web"), {"gracePeriodSeconds": 0})
    await until(lambda: gone(NAMESPACES.path("", "team")))


async def test_health_and_version_are_open_the_rest_is_not(api: Api) -> None:
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        for path in ("/healthz", "/readyz", "/livez", "/version"):
            async with session.get(api.url + path) as answer:
                assert answer.status == 200
        for path in ("/api/v1/pods", "/api", "/openapi/v3", "/nonsense"):
            async with session.get(api.url + path) as answer:
                assert (answer.status, (await answer.json())["reason"]) == (401, "Unauthorized")


async def test_discovery_over_http(api: Api) -> None:
    v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    beta = v2.replace("v=v2;", "v=v2beta1;")
    for path in ("/api", "/apis"):
        assert (await api.get(path, accept=f"{v2},{beta},{JSON}"))[1]["apiVersion"] == "apidiscovery.k8s.io/v2"
        assert (await api.get(path, accept=f"{beta},{v2}"))[1]["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    assert (await api.get("/api"))[1]["kind"] == "APIVersions"
    assert (await api.get("/apis"))[1]["kind"] == "APIGroupList"
    assert (await api.get("/apis/podnet.dev"))[1]["name"] == "podnet.dev"
    assert (await api.get("/api/v1"))[1]["kind"] == "APIResourceList"
    assert (await api.get("/apis/podnet.dev/v1/"))[1]["groupVersion"] == "podnet.dev/v1"
    _code, index = await api.get("/openapi/v3")
    assert (await api.get(index["paths"]["api/v1"]["serverRelativeURL"].split("?")[0]))[1]["openapi"] == "3.0.0"
    kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    async with api.session.get(api.url + "/openapi/v2", headers={"Accept": kind}) as answer:
        assert answer.headers["Content-Type"] == kind.replace("@", ".")
        assert await answer.read() == b"\x0a\x032.0\x12\x08\x0a\x06podnet"
    for path in ("/openapi/v2", "/apis/nothing", "/metrics"):
        assert await api.get(path) == (404, "404 page not found\n")


async def test_events_and_secrets_are_objects_like_others(api: Api) -> None:
    await api.create(EVENTS, make.event(reason="Started"))
    _code, listed = await api.get(
        EVENTS.path("default"), fieldSelector="involvedObject.kind=Pod,involvedObject.name=web"
    )
    assert len(listed["items"]) == 1
    assert (await api.create(SECRETS, make.secret(stringData={"a": "x"})))["data"] == {"a": "eA=="}
