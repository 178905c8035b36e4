"""GET /v1/services: what this node makes of each Service, and what its kernel knows about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from podnet.agent.agent import Agent
from podnet.agent.services import show, without_local
from podnet.agent.serving import Serving
from podnet.agent.web import serve
from podnet.daemons.proxy_feed import Message
from podnet.daemons.userspace_proxy import ServiceStatus, Status
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler
from podnet.network.proxy.live import Live, affinities, recent
from podnet.network.proxy.nftables import ids_of
from podnet.network.proxy.shown import ServicesShown
from podnet.network.service_port import ServicePort
from podnet.objects.cluster import Cluster
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import ProxySpec, ServiceRoute, ServiceRouteSpec
from podnet.objects.services import ObjectReference
from podnet.state.ipvs import Balanced, Stay
from podnet.state.nft import Element
from tests import worlds
from tests.worlds import backend, endpoint_slice, service

WEB = service("web", session_affinity="ClientIP", type="NodePort")
LONELY = service("lonely", cluster_ip="10.96.0.2", internal_traffic_policy="Local")
HEADLESS = service("headless", cluster_ip="None")
SLICES = (
    endpoint_slice("web", backend("10.244.1.2", "n1"), backend("10.244.2.2", "n2"), backend("10.244.2.3", ready=False)),
    endpoint_slice("lonely", backend("10.244.2.4", "n2")),
)
DAY = 10800


class Desk:
    def __init__(self, world: Cluster) -> None:
        self.plane = FakeDataplane({"eth0": ("192.168.77.11/24",)})
        self.world: Cluster | None = world
        self.missing = {"ip_vs": "this kernel has none"}
        self.agent = Agent(
            "n1",
            Reconciler(self.plane),
            ThreadPoolExecutor(1),
            cluster=lambda: self.world,
            facts=lambda _: worlds.facts(1, missing=self.missing),
        )


@pytest.fixture
async def desk() -> Desk:
    network = worlds.config(proxy=ProxySpec())
    made = Desk(worlds.cluster([worlds.node(1), worlds.node(2)], network, 0, (WEB, LONELY, HEADLESS), SLICES))
    await made.agent._pass()
    assert made.agent.not_ready() is None
    return made


async def test_every_service_as_this_node_sees_it(desk: Desk) -> None:
    found = await show(desk.agent)
    assert (found.node, found.mode, found.reason) == ("n1", "nftables", "")
    assert [(each.name, each.ready, each.total, each.held) for each in found.services] == [
        ("headless", 0, 0, True),
        ("lonely", 1, 1, True),
        ("web", 2, 3, True),
    ]
    assert [each.address for each in found.services[2].ports[0].port.internal] == ["10.244.1.2", "10.244.2.2"]
    assert found.services[0].ports == ()
    assert found.surroundings.addresses == ("192.168.77.11", "127.0.0.1")
    assert found.surroundings.own == ("10.244.1.0/24",)


async def test_a_refused_mode_is_told_of_while_it_is_asked_for(desk: Desk) -> None:
    for mode, told in (("ipvs", ["ProxyModeRefused"]), ("nftables", [])):
        desk.world = worlds.cluster([worlds.node(1)], worlds.config(proxy=ProxySpec(mode)), 0, (WEB,), SLICES)
        await desk.agent._pass()
        assert [each.reason for each in desk.agent.problems] == told
        assert (await show(desk.agent)).mode == "nftables"
        serving = Serving("n1", "/nowhere", lambda: desk.world)
        assert desk.agent.view is not None
        await serving.prepare(desk.agent.view)
        assert serving.mode == "nftables"


async def test_a_pod_of_two_families_is_one_endpoint(desk: Desk) -> None:
    assert desk.world is not None
    pod = ObjectReference("Pod", "default", "p")
    dual = [endpoint_slice("web", replace(backend(a), target_ref=pod), v6=":" in a) for a in ("10.244.1.2", "fd00::2")]
    desk.world = replace(desk.world, endpointslices={each.key: each for each in dual})
    await desk.agent._pass()
    (found,) = (await show(desk.agent, name="web")).services
    assert (found.ready, found.total) == (1, 1)


async def test_one_service_and_what_the_kernel_adds(desk: Desk) -> None:
    assert desk.agent.view is not None
    port = desk.agent.view.services[WEB.key][0]
    mine = ids_of(port)[port.endpoints[0]]
    number = crc32(port.affinity_of.encode())
    family, table, name = affinities(False, DAY)
    desk.plane.memory[family, table, name] = (f"{number:#010x} . 10.244.1.77 : {mine}",)
    desk.plane.flows = {(6, "10.96.0.1", 80, "10.244.2.2"): 7}
    (found,) = (await show(desk.agent, "default", "web")).services
    (shown,) = found.ports
    assert shown.live is not None
    assert shown.live.affinity == {"10.244.1.77": "10.244.1.2"}
    assert shown.live.connections == {"10.244.2.2": 7}
    assert (await show(desk.agent, "other", "web")).services == ()


async def in_mode(desk: Desk, mode: str) -> ServicePort:
    """WEB's port, in another mode."""
    network = worlds.config(proxy=ProxySpec(mode))
    desk.missing.clear()
    desk.world = worlds.cluster([worlds.node(1), worlds.node(2)], network, 0, (WEB,), SLICES)
    await desk.agent._pass()
    assert desk.agent.view is not None
    return desk.agent.view.services[WEB.key][0]


async def test_in_mode_iptables_the_lists_of_recent_clients(desk: Desk) -> None:
    port = await in_mode(desk, "iptables")
    desk.plane.memory[recent(port, port.endpoints[1])] = ("10.244.1.77 : 3.0",)
    desk.plane.flows = {(6, "10.96.0.1", 80, "10.244.2.2"): 7}
    found = await show(desk.agent, "default", "web")
    assert found.surroundings.mode == found.mode == "iptables"
    assert found.services[0].ports[0].live == Live({"10.244.1.77": "10.244.2.2"}, (), {"10.244.2.2": 7})


async def test_in_mode_ipvs_what_that_says_and_no_localhost(desk: Desk) -> None:
    port = await in_mode(desk, "ipvs")
    desk.plane.balance = Balanced(
        {("tcp", "10.96.0.1", 80, "10.244.2.2"): (2, 1)}, (Stay("tcp", "10.244.1.77", "10.96.0.1", 80, "10.244.2.2"),)
    )
    found = await show(desk.agent, "default", "web")
    assert (found.surroundings.mode, found.surroundings.addresses) == ("ipvs", ("192.168.77.11",))
    assert port.affinity
    assert found.services[0].ports[0].live == Live(
        {}, (), {"10.244.2.2": 2}, {"10.96.0.1:80": {"10.244.1.77": "10.244.2.2"}}, {"10.244.2.2": 1}
    )


async def test_in_mode_userspace_what_the_proxy_says(desk: Desk, tmp_path: Path) -> None:
    port = await in_mode(desk, "userspace")
    path = str(tmp_path / "proxy.sock")
    assert (await show(desk.agent, "default", "web", proxy=path)).services[0].ports[0].live == Live()
    told = ServiceStatus(port.label, "tcp", False, {"10.244.2.2:80": 2}, {"10.244.1.77": "10.244.2.2:80"})

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert msgspec.json.decode(await reader.readline(), type=Message).details
        writer.write(msgspec.json.encode(Status(services=(told,))) + b"\n")
        writer.close()

    async with await asyncio.start_unix_server(tell, path):
        found = await show(desk.agent, "default", "web", proxy=path)
    assert found.services[0].ports[0].live == Live({"10.244.1.77": "10.244.2.2"}, (), {"10.244.2.2": 2})


async def test_the_kernel_is_looked_at_anew(desk: Desk) -> None:
    gone = next(key for key, each in desk.plane.holds.items() if isinstance(each, Element) and "10.96.0.2" in key[-1])
    del desk.plane.holds[gone]
    assert {each.name: each.held for each in (await show(desk.agent)).services} == {
        "headless": True,
        "lonely": False,
        "web": True,
    }


async def test_briefly_asks_the_kernel_nothing(desk: Desk) -> None:
    desk.plane.remembered = desk.plane.translated = None  # type: ignore[assignment, method-assign]
    found = await show(desk.agent, brief=True)
    assert [(each.held, each.ports[0].live) for each in found.services if each.ports] == [(None, None), (None, None)]


async def test_problems_are_shown_with_their_service(desk: Desk) -> None:
    assert desk.world is not None
    twin = service("web2", cluster_ip="10.96.0.1")
    broken = ServiceRoute(metadata=ObjectMeta(name="r", namespace="default"), spec=ServiceRouteSpec("web", (), ()))
    doubled = replace(broken, spec=replace(broken.spec, default=()), metadata=replace(broken.metadata, name="r2"))
    desk.world = replace(
        desk.world,
        services={**desk.world.services, twin.key: twin},
        serviceroutes={each.key: each for each in (broken, doubled)},
    )
    await desk.agent._pass()
    found = {each.name: [problem.reason for problem in each.problems] for each in (await show(desk.agent)).services}
    assert found == {"headless": [], "lonely": [], "web": ["AnotherRouteHolds"], "web2": ["FrontendTaken"]}


async def test_an_agent_that_knows_nothing_yet_says_why() -> None:
    desk = Desk(Cluster())
    desk.world = None
    await desk.agent._pass()
    assert await show(desk.agent) == ServicesShown("n1", reason="the API server was not heard yet")


async def test_ports_without_a_local_endpoint_are_counted(desk: Desk) -> None:
    seen = desk.agent.view
    assert [without_local(seen, v6, policy) for v6 in (False, True) for policy in ("internal", "external")] == [
        1,
        0,
        0,
        0,
    ]
    assert without_local(None, False, "internal") == 0


@pytest.fixture
async def sock(desk: Desk, tmp_path: Path) -> AsyncIterator[Path]:
    runners = await serve(desk.agent, "1", str(tmp_path), None)
    yield tmp_path / "agent.sock"
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["headless", "lonely", "web"]),
        ("?name=web", ["web"]),
        ("?namespace=x", []),
        ("?brief&name=lonely", ["lonely"]),
    ],
)
async def test_over_http(sock: Path, query: str, names: list[str]) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(sock))) as session,
        session.get(f"http://x/v1/services{query}") as answer,
    ):
        body: dict[str, Any] = await answer.json()
    assert [each["name"] for each in body["services"]] == names
    assert msgspec.convert(body, ServicesShown).node == "n1"
