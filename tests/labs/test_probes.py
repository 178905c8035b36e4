"""Probes: thresholds, the order of the three kinds, and each way of asking, against real servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import msgspec
import pytest
from aiohttp import web

from podnet.lab import process
from podnet.lab.probes import Probing, Threshold, early
from podnet.objects.core import Container, Probe
from tests.labs.values import until


def probe(**fields: Any) -> Probe:
    return msgspec.convert(fields, Probe)


def container(**fields: Any) -> Container:
    return msgspec.convert({"name": "main", **fields}, Container)


# -- thresholds


@pytest.mark.parametrize(
    ("success", "failure", "first", "results", "verdicts"),
    [
        (1, 3, True, "ffff", "TTFF"),
        (1, 3, True, "ffsfff", "TTTTTF"),
        (1, 1, False, "sfs", "TFT"),
        (3, 1, False, "ssfsss", "FFFFFT"),
        (2, 2, None, "sfss", "---T"),
        (0, 0, None, "s", "T"),
    ],
)
def test_so_many_in_a_row_change_the_verdict(
    success: int, failure: int, first: bool | None, results: str, verdicts: str
) -> None:
    threshold = Threshold(probe(successThreshold=success, failureThreshold=failure), first)
    said = [threshold.feed(result == "s") for result in results]
    assert "".join({True: "T", False: "F", None: "-"}[each] for each in said) == verdicts


def test_a_threshold_knows_whether_it_has_begun() -> None:
    threshold = Threshold(probe(), None)
    assert not threshold.begun
    threshold.feed(False)
    assert threshold.begun


# -- the three kinds


class Scripted(Probing):
    """Answers of a probe are taken from lists instead of from the network; what is left of a list repeats."""

    def __init__(self, **results: list[bool]) -> None:
        probes = {f"{kind}Probe": {"periodSeconds": 0, "tcpSocket": {"port": kind}} for kind in results}
        self.results = results
        self.asked: list[str] = []
        self.changes = 0
        super().__init__(container(**probes), "127.0.0.1", {}, self._count)

    def _count(self) -> None:
        self.changes += 1

    async def check(self, probe: Probe, pid: int) -> bool:
        assert probe.tcp_socket
        kind = str(probe.tcp_socket.port)
        self.asked.append(kind)
        return self.results[kind].pop(0) if len(self.results[kind]) > 1 else self.results[kind][0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe's period becomes a hundredth."""
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        await sleep(seconds / 100)

    monkeypatch.setattr("podnet.lab.probes.asyncio.sleep", short)


@asynccontextmanager
async def running(probing: Probing, adopted: bool = False) -> AsyncIterator[asyncio.Task[bool]]:
    task = asyncio.create_task(probing.unhealthy(1, adopted))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_without_probes_it_is_started_and_ready_at_once() -> None:
    probing = Scripted()
    async with running(probing) as task:
        await until(lambda: probing.started and probing.ready)
        assert not task.done()
    assert probing.changes == 1


async def test_readiness_comes_and_goes() -> None:
    probing = Scripted(readiness=[False, True])
    async with running(probing):
        await until(lambda: probing.started)
        await until(lambda: probing.ready)
        probing.results["readiness"] = [False]
        await until(lambda: not probing.ready)
        assert probing.started


@pytest.mark.parametrize(("period", "looks"), [(0, 7), (1, 7), (10, 14)])
def test_what_is_not_ready_is_looked_at_sooner(period: int, looks: int) -> None:
    pauses = [*islice(early(Probe(period_seconds=period)), looks + 3)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.1
    assert pauses.index(max(period, 1)) == looks


async def test_failed_liveness_is_unhealthy() -> None:
    probing = Scripted(liveness=[True, False])
    async with running(probing) as task:
        assert await asyncio.wait_for(task, 5)
    assert probing.asked.count("liveness") == 4


async def test_the_others_wait_for_startup() -> None:
    probing = Scripted(startup=[False, False, True], readiness=[True], liveness=[True])
    async with running(probing):
        await until(lambda: probing.ready)
    assert probing.asked[:3] == ["startup"] * 3
    assert "startup" not in probing.asked[3:]


async def test_not_started_and_not_ready_before_startup() -> None:
    probing = Scripted(startup=[False])
    task = asyncio.create_task(probing.unhealthy(1, False))
    await asyncio.sleep(0)
    assert (probing.started, probing.ready) == (False, False)
    assert await asyncio.wait_for(task, 5)
    assert probing.asked == ["startup"] * 3


async def test_startup_alone_makes_it_ready() -> None:
    probing = Scripted(startup=[True])
    async with running(probing):
        await until(lambda: probing.started and probing.ready)


async def test_an_adopted_process_counts_as_ready_until_a_probe_fails() -> None:
    probing = Scripted(startup=[False], readiness=[True])
    async with running(probing, adopted=True):
        await until(lambda: "readiness" in probing.asked)
        assert (probing.started, probing.ready) == (True, True)
        assert "startup" not in probing.asked
        probing.results["readiness"] = [False]
        await until(lambda: not probing.ready)


async def test_the_first_probe_waits_its_delay() -> None:
    """The delay is a hundredth here, as every time is."""
    probing = Scripted(readiness=[True])
    object.__setattr__(
        probing, "_container", container(readinessProbe={"initialDelaySeconds": 20, "tcpSocket": {"port": "readiness"}})
    )
    async with running(probing):
        await until(lambda: probing.started)
        assert probing.asked == []
        await until(lambda: probing.ready)


# -- asking


def checker(address: str = "127.0.0.1", **fields: Any) -> Probing:
    return Probing(container(**fields), address, {"PATH": "/usr/bin:/bin", "WORD": "yes"}, lambda: None)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "enter", lambda pid, command: list(command))


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("command", "result"),
    [
        (["true"], True),
        (["false"], False),
        (["sh", "-c", 'test "$WORD" = yes'], True),
        (["/no/such/program"], False),
        (["sleep", "30"], False),
    ],
)
async def test_exec(command: list[str], result: bool) -> None:
    assert await checker().check(probe(exec={"command": command}), 1) is result


Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts an HTTP server on loopback; returns its port."""
    runners = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> int:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "result"), [(200, True), (204, True), (301, True), (399, True), (400, False), (404, False), (500, False)]
)
async def test_http(serve: Serve, status: int, result: bool) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    port = await serve(handler)
    assert await checker().check(probe(httpGet={"port": port, "path": "/healthz"}), 1) is result


async def test_http_sends_path_and_headers(serve: Serve) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response()

    port = await serve(handler)
    get = {"port": port, "path": "deep/path?q=1", "httpHeaders": [{"name": "X-Asked", "value": "kubelet"}]}
    assert await checker().check(probe(httpGet=get), 1)
    assert seen[0].path_qs == "/deep/path?q=1"
    assert seen[0].headers["X-Asked"] == "kubelet"
    assert seen[0].headers["User-Agent"].startswith("kube-probe/")


async def test_http_that_does_not_answer_in_time(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    port = await serve(handler)
    assert not await checker().check(probe(httpGet={"port": port}, timeoutSeconds=1), 1)


async def test_a_named_port(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    port = await serve(handler)
    asking = checker(ports=[{"name": "other", "containerPort": 1}, {"name": "web", "containerPort": port}])
    assert await asking.check(probe(httpGet={"port": "web"}), 1)
    assert not await asking.check(probe(httpGet={"port": "unknown"}), 1)


async def test_tcp(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    port = await serve(handler)
    assert await checker().check(probe(tcpSocket={"port": port}), 1)
    assert await checker("192.0.2.1").check(probe(tcpSocket={"port": port, "host": "127.0.0.1"}), 1)


async def test_refused() -> None:
    assert not await checker().check(probe(tcpSocket={"port": 1}), 1)
    assert not await checker().check(probe(httpGet={"port": 1}), 1)


async def test_a_probe_that_asks_nothing_is_content() -> None:
    assert await checker().check(probe(), 1)
