"""The kubelet's HTTPS port: the logs that `kubectl logs` asks for through the API server.

Only who shows a certificate of the cluster's authority is served. The node's own certificate, the one in its
kubeconfig, is the server's too.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from typing import TYPE_CHECKING

from aiohttp import web

from podnet.client.config import Credentials
from podnet.lab import logs, process
from podnet.lab.containers import ContainerLife, Waiting
from podnet.lab.registry import KUBELET_PORT, LabNode

if TYPE_CHECKING:
    from podnet.lab.kubelet import Kubelet


def tls(credentials: Credentials) -> ssl.SSLContext:
    """A server's context from a client's credentials."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=credentials.ca_data.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(credentials.cert_data + b"\n" + credentials.key_data)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def application(kubelet: Kubelet) -> web.Application:
    """The routes."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def container_logs(request: web.Request) -> web.StreamResponse:
        life = _find(kubelet, **request.match_info)
        try:
            wanted = logs.options(request.query, time.time())
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        path = log_path(life, wanted)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for text in logs.read(path, wanted, lambda: over(path)):
            await response.write(text)
        return response

    app = web.Application()
    app.add_routes(
        [web.get("/healthz", healthz), web.get("/containerLogs/{namespace}/{pod}/{container}", container_logs)]
    )
    return app


def _find(kubelet: Kubelet, namespace: str, pod: str, container: str) -> ContainerLife:
    life = kubelet.find(namespace, pod)
    if life is None:
        raise web.HTTPNotFound(text=f'pod "{pod}" not found')
    for each in (*life.inits, *life.mains):
        if each.container.name == container:
            return each
    known = {each.name for each in (*life.pod.spec.init_containers, *life.pod.spec.containers)}
    if container in known:
        raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is waiting to start: ContainerCreating')
    raise web.HTTPNotFound(text=f'container "{container}" in pod "{pod}" not found')


def log_path(life: ContainerLife, wanted: logs.Options) -> str:
    """The log of the present run, or of the one before. Raises HTTPBadRequest when there is none."""
    number = life.restarts - wanted.previous
    path = f"{life.folder}/{number}/log"
    if os.path.exists(path):
        return path
    name = life.container.name
    if wanted.previous:
        raise web.HTTPBadRequest(text=f'previous terminated container "{name}" not found')
    reason = life.state.reason if isinstance(life.state, Waiting) else "ContainerCreating"
    raise web.HTTPBadRequest(text=f'container "{name}" is waiting to start: {reason}')


def over(path: str) -> bool:
    """Whether nothing will be written to a run's log any more."""
    return not isinstance(process.look(os.path.dirname(path)), process.Running)


async def serve(kubelet: Kubelet, node: LabNode, credentials: Credentials) -> web.AppRunner:
    """Listen on every address of the node."""
    runner = web.AppRunner(application(kubelet), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    for address in node.addresses:
        await web.TCPSite(runner, address, KUBELET_PORT, ssl_context=tls(credentials), reuse_address=True).start()
    return runner
