"""The HTTP that load balancers and kube-proxy's monitoring ask: health check node ports, 10256 and 10249.

Each health check node port is a listener that comes and goes with its Service. All of them are one application, which
tells them apart by the port a question came in at. A port that is taken is reported and tried again at every update.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from podnet.agent import proxy_metrics
from podnet.agent.proxy_metrics import Pulse
from podnet.network.proxy import health
from podnet.network.proxy.health import Answer
from podnet.network.view import HealthCheck, Problem

Handler = Callable[[web.Request], Awaitable[web.Response]]
Place = tuple[str, int]

NO_SNIFF = {"X-Content-Type-Options": "nosniff"}
HEALTHZ, METRICS = ("", 10256), ("127.0.0.1", 10249)
"""Where kube-proxy listens; "" is every address of the node."""

EVERYWHERE = ("",)


class HealthServers:
    """The listeners of health check node ports. `healthy()`: whether the proxy works."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self.problems: tuple[Problem, ...] = ()
        self._healthy = healthy
        self._checks: dict[int, HealthCheck] = {}
        self._sites: dict[Place, web.TCPSite] = {}
        self._runner: web.AppRunner | None = None

    async def update(self, checks: Iterable[HealthCheck], hosts: Iterable[str] = EVERYWHERE) -> None:
        """Serve these from now on at these addresses, and no others."""
        self._checks = {check.port: check for check in checks}
        places = {(host, port) for host in hosts for port in self._checks}
        for place in self._sites.keys() - places:
            await self._sites.pop(place).stop()
        problems = []
        for place in sorted(places - self._sites.keys()):
            try:
                await self._listen(place)
            except OSError as error:
                problems.append(_taken(self._checks[place[1]], error))
        self.problems = tuple(dict.fromkeys(problems))

    async def close(self) -> None:
        """Serve nothing."""
        self._sites.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self, place: Place) -> None:
        if self._runner is None:
            self._runner = await _runner([web.get("/{path:.*}", self._answer)])
        site = web.TCPSite(self._runner, place[0] or None, place[1])
        try:
            await site.start()
        except OSError:
            await site.stop()
            raise
        self._sites[place] = site

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport
        check = self._checks.get(request.transport.get_extra_info("sockname")[1])
        if check is None:
            return web.Response(status=404)
        return _response(health.answer(check, self._healthy()))


async def serve(
    pulse: Pulse,
    eligible: Callable[[], bool],
    mode: Callable[[], str],
    settings: Callable[[], Mapping[str, object]],
    healthz: Place | None = HEALTHZ,
    metrics: Place | None = METRICS,
    clock: Callable[[], float] = time.time,
) -> list[web.AppRunner]:
    """Start the servers whose place is not None; raises OSError when a port is taken. `cleanup` each at the end."""
    runners = []
    for place, routes in ((healthz, _health(pulse, eligible, clock)), (metrics, _monitoring(mode, settings))):
        if place is not None:
            runners.append(await _runner(routes))
            try:
                await web.TCPSite(runners[-1], place[0] or None, place[1]).start()
            except OSError:
                for runner in runners:
                    await runner.cleanup()
                raise
    return runners


def _health(pulse: Pulse, eligible: Callable[[], bool], clock: Callable[[], float]) -> list[web.RouteDef]:
    async def healthz(_: web.Request) -> web.Response:
        found = health.healthz(pulse.progress, clock(), eligible())
        proxy_metrics.HEALTHZ.labels(found.status).inc()
        return _response(found)

    async def livez(_: web.Request) -> web.Response:
        found = health.livez(pulse.progress, clock())
        proxy_metrics.LIVEZ.labels(found.status).inc()
        return _response(found)

    return [web.get("/healthz", healthz), web.get("/livez", livez)]


def _monitoring(mode: Callable[[], str], settings: Callable[[], Mapping[str, object]]) -> list[web.RouteDef]:
    async def metrics(_: web.Request) -> web.Response:
        return _counted(proxy_metrics.REGISTRY)

    async def slis(_: web.Request) -> web.Response:
        return _counted(proxy_metrics.SLIS)

    async def proxy_mode(_: web.Request) -> web.Response:
        return web.Response(text=mode(), headers=NO_SNIFF)

    async def configz(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(settings()), content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        proxy_metrics.pinged()
        return web.Response(text="ok", headers=NO_SNIFF)

    pages = {
        "/metrics": metrics, "/metrics/slis": slis, "/proxyMode": proxy_mode, "/configz": configz, "/healthz": healthz,
    }  # fmt: skip
    return [web.get(path, handler) for path, handler in pages.items()]


async def _runner(routes: Iterable[web.RouteDef]) -> web.AppRunner:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    return runner


def _counted(registry: CollectorRegistry) -> web.Response:
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _response(found: Answer) -> web.Response:
    return web.Response(status=found.status, headers=dict(found.headers), body=found.body.encode())


def _taken(check: HealthCheck, error: OSError) -> Problem:
    message = f"healthCheckNodePort {check.port} can't be served on this node: {error.strerror or error}"
    name = f"Service/{check.namespace}/{check.service}"
    return Problem(name, "HealthCheckPortTaken", message, "spec.healthCheckNodePort")
