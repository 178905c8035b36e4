"""Startup, readiness and liveness probes of one running container.

    startup, if any ──succeeded──► readiness and liveness, side by side
        └── failed: unhealthy          liveness failed: unhealthy

The kubelet lives in its node's network namespace, so TCP and HTTP probes leave from the node, as in a real cluster;
exec probes enter the container's namespaces. What was never ready yet is looked at sooner than its period says, so that
nobody waits for the next look at a program that needs a moment to start.
Source: k8s.io/kubernetes pkg/kubelet/prober/worker.go for thresholds and order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat

import aiohttp

from podnet.lab import process
from podnet.objects.core import Container, HTTPGetAction, Probe

FIRST_SECONDS, SLOWER = 0.1, 1.4
"""Between the first two looks at what is not ready; how much longer each time."""


class Threshold:
    """Turns single results into a verdict: so many in a row are needed to change it."""

    def __init__(self, probe: Probe, verdict: bool | None) -> None:
        self.verdict = verdict
        self._probe = probe
        self._last: bool | None = None
        self._count = 0

    @property
    def begun(self) -> bool:
        """Whether there was a result."""
        return self._last is not None

    def feed(self, result: bool) -> bool | None:
        """Count one result; the verdict so far, None before there is one."""
        self._count = self._count + 1 if result is self._last else 1
        self._last = result
        needed = self._probe.success_threshold if result else self._probe.failure_threshold
        if self._count >= max(needed, 1):
            self.verdict = result
        return self.verdict


def early(probe: Probe) -> Iterator[float]:
    """Seconds between looks at what is not ready: few at first, then its period."""
    pause, period = FIRST_SECONDS, max(probe.period_seconds, 1)
    while pause < period:
        yield pause
        pause *= SLOWER
    yield from repeat(period)


class Probing:
    """What the probes of one container say: `started` and `ready`. `changed()` is called when one of them changed."""

    def __init__(
        self, container: Container, address: str, variables: Mapping[str, str], changed: Callable[[], None]
    ) -> None:
        self.started = False
        self.ready = False
        self._container = container
        self._address = address
        self._variables = variables
        self._changed = changed

    def adopt(self) -> None:
        """The process was started by another kubelet: it counts as started and ready until a probe fails."""
        self.started = self.ready = True

    async def unhealthy(self, pid: int, adopted: bool) -> bool:
        """Probe the process `pid` until it is found unhealthy; returns True then, never otherwise (cancel it).

        For one that was `adopted` the startup probe is over.
        """
        startup, readiness = self._container.startup_probe, self._container.readiness_probe
        self._set(started=adopted or startup is None, ready=adopted or startup is readiness is None)
        if startup and not adopted:
            if not await self._startup(startup, pid):
                return True
            self._set(started=True, ready=readiness is None)
        following = asyncio.create_task(self._readiness(readiness, pid, adopted))
        try:
            return await self._liveness(self._container.liveness_probe, pid)
        finally:
            following.cancel()

    def _set(self, *, started: bool, ready: bool) -> None:
        if (started, ready) != (self.started, self.ready):
            self.started, self.ready = started, ready
            self._changed()

    async def _startup(self, probe: Probe, pid: int) -> bool:
        """The first verdict."""
        threshold = Threshold(probe, None)
        while threshold.verdict is None:
            threshold.feed(await self._after(probe, threshold, pid))
        return threshold.verdict

    async def _liveness(self, probe: Probe | None, pid: int) -> bool:
        if probe is None:
            await asyncio.Event().wait()
        assert probe is not None
        threshold = Threshold(probe, True)
        while threshold.verdict:
            threshold.feed(await self._after(probe, threshold, pid))
        return True

    async def _readiness(self, probe: Probe | None, pid: int, adopted: bool) -> None:
        if probe is None:
            return
        threshold, pauses = Threshold(probe, adopted), early(probe)
        while True:
            soon = next(pauses) if threshold.begun and not threshold.verdict else None
            threshold.feed(await self._after(probe, threshold, pid, soon))
            self._set(started=True, ready=bool(threshold.verdict))

    async def _after(self, probe: Probe, threshold: Threshold, pid: int, soon: float | None = None) -> bool:
        """The next result, at the time it is due, or after so many seconds."""
        period = max(probe.period_seconds, 1) if soon is None else soon
        await asyncio.sleep(period if threshold.begun else probe.initial_delay_seconds)
        return await self.check(probe, pid)

    async def check(self, probe: Probe, pid: int) -> bool:
        """Probe once."""
        timeout = max(probe.timeout_seconds, 1)
        try:
            async with asyncio.timeout(timeout):
                if probe.exec:
                    return await self._exec(probe.exec.command, pid, timeout)
                if probe.tcp_socket:
                    return await _tcp(probe.tcp_socket.host or self._address, self._port(probe.tcp_socket.port))
                if probe.http_get:
                    return await self._http(probe.http_get)
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
            return False
        return True

    async def _exec(self, command: tuple[str, ...], pid: int, seconds: float) -> bool:
        done = await process.call(process.enter(pid, command), env=self._variables, seconds=seconds)
        return done.code == 0

    async def _http(self, get: HTTPGetAction) -> bool:
        """As the kubelet: 200 to 399 is success, certificates are not looked at."""
        host = get.host or self._address
        authority = f"{f'[{host}]' if ':' in host else host}:{self._port(get.port)}"
        url = f"{get.scheme.lower()}://{authority}/{get.path.lstrip('/')}"
        headers = {"User-Agent": "kube-probe/1.32"} | {header.name: header.value for header in get.http_headers}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(url, ssl=False, allow_redirects=False) as response,
        ):
            return 200 <= response.status < 400

    def _port(self, port: int | str) -> int:
        """A number, or the number of the container's port of that name. Raises ValueError."""
        for named in self._container.ports:
            if named.name and named.name == port:
                return named.container_port
        return int(port)


async def _tcp(host: str, port: int) -> bool:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return True
