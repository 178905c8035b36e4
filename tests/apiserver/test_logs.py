"""pods/log: the kubelet is asked as upstream asks it, and only the pod's own node may answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from podnet.apiserver import pki
from podnet.apiserver.logs import _container
from podnet.apiserver.status import ApiError
from podnet.objects.kinds import NODES, PODS
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api
from tests.apiserver.documents import Document, at

LOG = PODS.path("default", "web", "log")


class Kubelet:
    """Serves what a test says and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.client: Any = None
        self.code, self.text = 200, "line 1\nline 2\n"
        self.more = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query)))
        assert request.transport is not None
        self.client = request.transport.get_extra_info("peercert")["subject"]
        if "follow" not in request.query:
            return web.Response(status=self.code, text=self.text)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"line 1\n")
        await self.more.wait()
        await response.write(b"line 2\n")
        return response


@asynccontextmanager
async def kubelet(api: Api, common_name: str = "system:node:n1", stranger: bool = False) -> AsyncIterator[Kubelet]:
    """A kubelet at 127.0.0.1 that node n1 points to, with a pod of that node."""
    authority = pki.load_authority(str(api.folder))
    issuer = pki.new_authority() if stranger else authority
    context = pki.server_context(authority, pki.issue(issuer, common_name, ("system:nodes",)))
    context.verify_mode = ssl.CERT_REQUIRED
    served = Kubelet()
    runner = web.ServerRunner(web.Server(served.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    node = at(make.node(), "status.daemonEndpoints", {"kubeletEndpoint": {"Port": port}})
    await api.create(NODES, at(node, "status.addresses.0.address", "127.0.0.1"))
    await api.create(PODS, make.pod(nodeName="n1"))
    try:
        yield served
    finally:
        served.more.set()
        await runner.cleanup()


async def test_a_log_and_how_it_is_asked_for(api: Api) -> None:
    async with kubelet(api) as served:
        assert await api.get(LOG, tailLines="5", timestamps="true", container="main") == (200, "line 1\nline 2\n")
        assert await api.get(LOG, previous="true", sinceSeconds="9", limitBytes="7", pretty="true") == (
            200,
            "line 1\nline 2\n",
        )
    assert served.asked == [
        ("/containerLogs/default/web/main", {"tailLines": "5", "timestamps": "true"}),
        ("/containerLogs/default/web/main", {"previous": "true", "sinceSeconds": "9", "limitBytes": "7"}),
    ]
    assert (("commonName", "kube-apiserver-kubelet-client"),) in served.client


async def test_a_log_that_is_followed_arrives_as_it_is_written(api: Api) -> None:
    async with kubelet(api) as served, api.session.get(api.url + LOG, params={"follow": "true"}) as answer:
        assert await answer.content.readline() == b"line 1\n"
        served.more.set()
        assert await answer.content.readline() == b"line 2\n"
        assert await answer.content.readline() == b""


@pytest.mark.parametrize(("code", "reason"), [(400, "BadRequest"), (404, "NotFound"), (503, "InternalError")])
async def test_what_the_kubelet_refuses(api: Api, code: int, reason: str) -> None:
    async with kubelet(api) as served:
        served.code, served.text = code, "container is waiting to start\n"
        answer = await api.get(LOG)
    assert answer[0] == (code if reason != "InternalError" else 500)
    assert (answer[1]["reason"], answer[1]["message"]) == (reason, "container is waiting to start")


@pytest.mark.parametrize(("name", "stranger"), [("system:node:n2", False), ("admin", False), ("system:node:n1", True)])
async def test_nobody_else_answers_for_a_node(api: Api, name: str, stranger: bool) -> None:
    async with kubelet(api, name, stranger):
        code, status = await api.get(LOG)
    assert (code, status["reason"]) == (500, "InternalError")
    assert "n1" in status["message"]


async def test_a_kubelet_that_is_not_there(api: Api) -> None:
    node = at(make.node(), "status.daemonEndpoints", {"kubeletEndpoint": {"Port": 1}})
    await api.create(NODES, at(node, "status.addresses.0.address", "127.0.0.1"))
    await api.create(PODS, make.pod(nodeName="n1"))
    code, status = await api.get(LOG)
    assert code == 500
    assert "the kubelet of node n1 cannot be asked" in status["message"]


async def test_pods_and_nodes_that_have_no_log(api: Api) -> None:
    assert (await api.get(LOG))[0] == 404
    await api.create(PODS, make.pod())
    code, status = await api.get(LOG)
    assert (code, status["message"]) == (400, "pod web does not have a host assigned")
    await api.create(PODS, make.pod("lost", nodeName="n9"))
    assert (await api.get(PODS.path("default", "lost", "log")))[0] == 404
    await api.create(NODES, make.node("n9"))
    code, status = await api.get(PODS.path("default", "lost", "log"))
    assert (code, "where its kubelet listens" in status["message"]) == (500, True)
    assert (await api.get(PODS.path("default", "lost", "log"), container="x"))[0] == 400


TWO = make.pod(containers=[{"name": "a"}, {"name": "b"}], initContainers=[{"name": "init"}])


@pytest.mark.parametrize(
    ("pod", "wanted", "chosen"),
    [
        (make.pod(), "", "main"),
        (TWO, "b", "b"),
        (TWO, "init", "init"),
        (at(TWO, "metadata.annotations", {"kubectl.kubernetes.io/default-container": "b"}), "", "b"),
    ],
)
def test_the_container(pod: Document, wanted: str, chosen: str) -> None:
    assert _container(pod, wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("", r"choose one of: \['a', 'b'\] or one of the init containers: \['init'\]"),
        ("c", "container c is not valid for pod web"),
    ],
)
def test_a_container_that_is_not_clear(wanted: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        _container(TWO, wanted)
    assert caught.value.code == 400
