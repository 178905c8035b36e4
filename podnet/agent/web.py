"""The agent's own HTTP: for Prometheus and probes on a TCP port, for podnet's commands on a unix socket.

The unix socket also answers what only root on the node may ask: the desired state, the plan, the attachments.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podnet.agent import services
from podnet.agent.agent import Agent
from podnet.agent.ejections import by_service
from podnet.agent.metrics import REGISTRY
from podnet.agent.serving import USERSPACE_SOCKET
from podnet.agent.status import status
from podnet.network.desired import node_state
from podnet.network.migration import published
from podnet.network.proxy.live import Ejected
from podnet.state.text import describe, difference, listing

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
More = Callable[[], Mapping[str, object]]


def routes(
    agent: Agent, version: str, private: bool, ejected: Callable[[], Ejected], proxy: str = "", more: More = dict
) -> web.Application:
    """The application; `private` adds what is served on the unix socket only; `proxy` is the userspace proxy's; `more`
    shows in the status."""
    app = web.Application()

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = agent.not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    if private:
        app.add_routes(_private(agent, version, ejected, proxy, more))
    return app


def _private(agent: Agent, version: str, ejected: Callable[[], Ejected], proxy: str, more: More) -> list[web.RouteDef]:
    async def show_status(_: web.Request) -> web.Response:
        body = status(agent, version) | {"ejected": by_service(ejected()), **more()}
        if agent.view is not None:
            body["accepts"], body["sends"] = published(agent.view)
            body["mtu"] = next((r.mtu for r in agent.units.get(("pods",), ()) if hasattr(r, "mtu")), 0)
        return _json(body)

    async def desired(_: web.Request) -> web.Response:
        units = {"/".join(unit): [describe(resource) for resource in made] for unit, made in agent.units.items()}
        return _json({"units": units, "text": listing(node_state(agent.units))})

    async def plan(_: web.Request) -> web.Response:
        found = await agent.difference()
        steps = [{"verb": step.verb, "text": describe(step.resource)} for step in found.steps]
        return _json({"steps": steps, "text": difference(found)})

    async def attachments(_: web.Request) -> web.Response:
        return _json({"attachments": [msgspec.to_builtins(entry) for entry in agent.attached]})

    async def services_shown(request: web.Request) -> web.Response:
        asked = request.query
        chosen = asked.get("namespace", ""), asked.get("name", "")
        return _json(await services.show(agent, *chosen, "brief" in asked, proxy))

    return [
        web.get("/v1/services", services_shown),
        web.get("/v1/status", show_status),
        web.get("/v1/desired", desired),
        web.get("/v1/plan", plan),
        web.get("/v1/attachments", attachments),
    ]


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def serve(
    agent: Agent,
    version: str,
    run_dir: str,
    listen: tuple[str, int] | None,
    ejected: Callable[[], Ejected] = frozenset,
    more: More = dict,
) -> list[web.AppRunner]:
    """Start both servers; `ejected()` are the endpoints passed over now, `more()` shows in the status too. Raises
    OSError when the port is taken."""
    runners = []
    for private in (True, False) if listen else (True,):
        app = routes(agent, version, private, ejected, f"{run_dir}/{USERSPACE_SOCKET}", more)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        runners.append(runner)
        if private:
            path = f"{run_dir}/agent.sock"
            with suppress(FileNotFoundError):
                os.unlink(path)
            await web.UnixSite(runner, path).start()
            os.chmod(path, 0o600)
        elif listen:
            await web.TCPSite(runner, *listen).start()
    return runners
