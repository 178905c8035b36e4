"""The agent's HTTP: anyone may ask for health and metrics, only the unix socket answers what root may know."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest

from podnet.agent.agent import Agent
from podnet.agent.web import serve
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler
from tests import worlds


@pytest.fixture
async def agent() -> Agent:
    world = worlds.cluster([worlds.node(1), worlds.node(2)], worlds.config())
    me = worlds.facts(1)
    return Agent(
        worlds.node(1).metadata.name,
        Reconciler(FakeDataplane({me.uplink: ("192.168.0.1/24",)}, pods=[worlds.attachment(1, 0).netns])),
        ThreadPoolExecutor(1),
        cluster=lambda: world,
        facts=lambda _: me,
        attachments=(worlds.attachment(1, 0),),
    )


@pytest.fixture
async def served(agent: Agent, tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[tuple[Path, int]]:
    (tmp_path / "agent.sock").touch()  # what a killed agent left behind
    ejected = frozenset({(("demo", "web"), "10.244.2.2"), (("demo", "web"), "10.244.1.2")})
    runners = await serve(agent, "9.9", str(tmp_path), ("127.0.0.1", unused_tcp_port), lambda: ejected)
    yield tmp_path / "agent.sock", unused_tcp_port
    for runner in runners:
        await runner.cleanup()


async def fetch(url: str, sock: Path | None = None) -> tuple[int, str]:
    connector = aiohttp.UnixConnector(str(sock)) if sock else None
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_health_and_readiness(agent: Agent, served: tuple[Path, int]) -> None:
    _, port = served
    assert await fetch(f"http://127.0.0.1:{port}/healthz") == (200, "ok\n")
    code, text = await fetch(f"http://127.0.0.1:{port}/readyz")
    assert code == 503
    assert "starting" in text
    await agent._pass()
    assert await fetch(f"http://127.0.0.1:{port}/readyz") == (200, "ok\n")


async def test_metrics_are_prometheus(agent: Agent, served: tuple[Path, int]) -> None:
    await agent._pass()
    _, text = await fetch(f"http://127.0.0.1:{served[1]}/metrics")
    assert "podnet_ready 1.0" in text
    assert "podnet_attachments 1.0" in text
    assert "podnet_peers 1.0" in text
    assert 'podnet_reconcile_steps_total{kind="Route",verb="add"}' in text


async def test_state_is_for_the_unix_socket_only(agent: Agent, served: tuple[Path, int]) -> None:
    sock, port = served
    await agent._pass()
    assert os.stat(sock).st_mode & 0o777 == 0o600
    for path, word in {
        "status": '"version":"9.9"',
        "desired": "podnet.1",
        "plan": '"steps":[]',
        "attachments": "eth0",
    }.items():
        assert (await fetch(f"http://127.0.0.1:{port}/v1/{path}"))[0] == 404
        code, text = await fetch(f"http://x/v1/{path}", sock)
        assert code == 200
        assert word in text


async def test_status_tells_of_ejected_endpoints(agent: Agent, served: tuple[Path, int]) -> None:
    _, text = await fetch("http://x/v1/status", served[0])
    assert json.loads(text)["ejected"] == {"demo/web": ["10.244.1.2", "10.244.2.2"]}
