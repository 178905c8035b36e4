"""Probes as upstream writes them, and who may say that a name came to be."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from podnet.daemons.asking import Asking
from podnet.daemons.purging import Purging
from podnet.dns.sidecar import Health, Probe, Sidecar, probe


def test_probes_of_upstreams_manifest() -> None:
    assert probe("kubedns,127.0.0.1:10053,kubernetes.default.svc.cluster.local,5,SRV") == Probe(
        "kubedns", Asking("127.0.0.1", 10053, tries=1), "kubernetes.default.svc.cluster.local", 5.0, "SRV"
    )
    assert probe("d,[::1]:53,web.demo.,2.5s") == Probe("d", Asking("::1", tries=1), "web.demo.", 2.5, "A")


def sidecar(*probes: Probe, ready: str = "") -> Sidecar:
    purging = Purging(lambda *_: asyncio.sleep(0, True), lambda: None, lambda: 0.0)
    return Sidecar(Asking("127.0.0.1", 1, seconds=0.05, tries=1), probes, purging, lambda: ready)


@pytest.mark.parametrize(
    ("remote", "status"), [("10.244.1.7", 403), ("", 403), ("127.0.0.1", 400), ("::1", 400), ("::ffff:127.0.0.1", 400)]
)
async def test_who_may_purge(remote: str, status: int) -> None:
    request = make_mocked_request("POST", "/purge").clone(remote=remote)
    handler = next(route.handler for route in sidecar().application().router.routes() if route.method == "POST")
    request._read_bytes = b"no JSON"
    answer = await handler(request)
    assert isinstance(answer, web.Response)
    assert answer.status == status


async def test_before_anything_happened() -> None:
    made = sidecar(probe("web,127.0.0.1:1,web.demo,5"), ready="the settings are not known yet")
    assert made.health == {"web": Health(False, 0.0, "waiting for first probe")}
    async with TestClient(TestServer(made.application())) as client:
        assert (await client.get("/healthcheck/web")).status == 503
        answer = await client.get("/readiness")
        assert (answer.status, await answer.text()) == (503, "the settings are not known yet\n")
        assert "kubedns_probe_web_errors 0.0" in await (await client.get("/metrics")).text()


async def test_a_dnsmasq_that_does_not_answer_is_not_ready_and_counted() -> None:
    made = sidecar(probe("web,127.0.0.1:1,web.demo,0.01"))
    made._period = 0.01
    running = asyncio.create_task(made.run())
    async with TestClient(TestServer(made.application())) as client:
        answer = await client.get("/readiness")
        assert (answer.status, await answer.text()) == (503, "127.0.0.1:1 did not answer\n")
        async with asyncio.timeout(10):
            while made.registry.get_sample_value("kubedns_dnsmasq_errors") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    running.cancel()
    assert made.health["web"].err == "127.0.0.1:1 did not answer"
