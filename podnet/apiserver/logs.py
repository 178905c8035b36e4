"""pods/log: the API server asks the pod's kubelet and passes the bytes on as they come.

The path and the query are upstream's kubelet API (/containerLogs/NAMESPACE/POD/CONTAINER). The kubelet must show a
certificate of the cluster CA whose common name is the pod's own node: nobody else can answer for it.
"""

from __future__ import annotations

import ssl
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.connector import Connection

from podnet.apiserver.registry import Registry
from podnet.apiserver.status import ApiError, Document, bad_request
from podnet.objects.codec import decode
from podnet.objects.core import Node
from podnet.objects.kinds import NODES, PODS

OPTIONS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes")
_CONNECT_SECONDS = 5.0


class _Answer(aiohttp.ClientResponse):
    """An answer that remembers who gave it; a short one has lost its connection by the time it is looked at."""

    peer = ""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Called by aiohttp when the request was sent."""
        if connection.transport is not None:
            self.peer = _common_name(connection.transport.get_extra_info("peercert"))
        return await super().start(connection)


class LogProxy:
    """Fetches logs with the API server's own client certificate."""

    def __init__(self, registry: Registry, context: ssl.SSLContext) -> None:
        self._registry = registry
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def serve(self, request: web.BaseRequest, namespace: str, name: str) -> web.StreamResponse:
        """Answer GET pods/NAME/log; raises ApiError."""
        pod = self._registry.get(PODS, namespace, name).document()
        container = _container(pod, request.query.get("container", ""))
        node = pod["spec"].get("nodeName")
        if not node:
            raise bad_request(f"pod {name} does not have a host assigned")
        url = f"{self._kubelet(node)}/containerLogs/{namespace}/{name}/{container}"
        query = {option: value for option in OPTIONS if (value := request.query.get(option))}
        try:
            return await self._relay(request, node, url, query)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = f"the kubelet of node {node} cannot be asked for the log: {str(error) or type(error).__name__}"
            raise ApiError(500, "InternalError", message) from None

    def _kubelet(self, name: str) -> str:
        status = decode(self._registry.get(NODES, "", name).value, Node).status
        addresses = [item.address for item in status.addresses if item.type == "InternalIP"]
        port = status.daemon_endpoints.kubelet_endpoint.port
        if not addresses or not port:
            raise ApiError(500, "InternalError", f"node {name} does not say where its kubelet listens")
        host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        return f"https://{host}:{port}"

    async def _relay(self, request: web.BaseRequest, node: str, url: str, query: dict[str, str]) -> web.StreamResponse:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(ssl=self._context, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, response_class=_Answer
            )
        async with self._session.get(url, params=query) as answer:
            if not isinstance(answer, _Answer) or answer.peer != f"system:node:{node}":
                raise ApiError(500, "InternalError", f"{url} is not the kubelet of node {node}")
            if answer.status != 200:
                text = (await answer.content.read(4096)).decode(errors="replace").strip()
                raise _refused(answer.status, text)
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def close(self) -> None:
        """End all relays."""
        if self._session is not None:
            await self._session.close()


def _refused(status: int, text: str) -> ApiError:
    reason = {400: "BadRequest", 404: "NotFound"}.get(status, "InternalError")
    return ApiError(status if reason != "InternalError" else 500, reason, text or "the kubelet refused")


def _common_name(peercert: Any) -> str:
    subject = (peercert or {}).get("subject", ())
    return next((value for group in subject for name, value in group if name == "commonName"), "")


def _container(pod: Document, wanted: str) -> str:
    """The container asked for; raises ApiError 400 when that is not clear or there is none."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    init = [container["name"] for container in spec.get("initContainers", ())]
    names = [container["name"] for container in spec["containers"]]
    default = pod["metadata"].get("annotations", {}).get("kubectl.kubernetes.io/default-container", "")
    if not wanted and (len(names) == 1 or default in names):
        return str(default if default in names else names[0])
    if not wanted:
        choices = f"choose one of: {names}" + (f" or one of the init containers: {init}" if init else "")
        raise bad_request(f"a container name must be specified for pod {name}, {choices}")
    if wanted not in (*names, *init):
        raise bad_request(f"container {wanted} is not valid for pod {name}")
    return wanted
