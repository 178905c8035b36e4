"""The agent's loop on a kernel in memory: what it waits for, what it keeps, and what it tells the CNI server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from podnet.agent import agent as module
from podnet.agent.agent import Agent
from podnet.agent.status import status
from podnet.cni.errors import CniError, Code
from podnet.kernel.fake import FakeDataplane
from podnet.kernel.reconciler import Reconciler
from podnet.network.pods import host_ifname
from podnet.network.proxy import claims
from podnet.network.view import LocalFacts, NodeView, PortMapping, Problem
from podnet.objects.cluster import Cluster
from podnet.objects.network import ProxySpec
from podnet.objects.services import Service
from podnet.state.host import ForgetFlows, Sysctl
from podnet.state.resource import LINK_PREFIX
from tests import worlds


class Bench:
    """An agent of node 1 in a cluster of three, with everything around it in the test's hands."""

    def __init__(self) -> None:
        me = worlds.facts(1)
        self.kernel = FakeDataplane(
            {me.uplink: ("192.168.0.1/24",)}, pods=[worlds.attachment(1, k).netns for k in range(9)]
        )
        self.cluster: Cluster | None = worlds.cluster([worlds.node(i) for i in (1, 2, 3)], worlds.config())
        self.facts: LocalFacts | str = me
        self.applied: list[tuple[NodeView | None, str | None]] = []
        self.reads = 0
        self.agent = Agent(
            worlds.node(1).metadata.name,
            Reconciler(self.kernel),
            ThreadPoolExecutor(1),
            cluster=lambda: self.cluster,
            facts=self._facts,
            applied=lambda seen, reason: self.applied.append((seen, reason)),
            unusable=lambda: (Problem("Node/bad", "Invalid", "no object"),),
        )

    def _facts(self, _: object) -> LocalFacts | str:
        self.reads += 1
        return self.facts

    async def settle(self) -> None:
        """Wait for a pass that starts now."""
        await self.agent._next_pass()


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "POLL", 0.02)
    monkeypatch.setattr(module, "CANARY", 0.02)
    made = Bench()
    running = asyncio.create_task(made.agent.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.005)


def routes(bench: Bench) -> set[str]:
    return {key[2] for key in bench.kernel.holds if key[0] == "Route" and key[1] == ""}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: setattr(b, "cluster", None), "API server"),
        (lambda b: setattr(b, "cluster", worlds.cluster([worlds.node(1)])), "NetworkConfig/default"),
        (lambda b: setattr(b, "cluster", worlds.cluster([worlds.node(2)], worlds.config())), "Node/"),
        (lambda b: setattr(b, "facts", "no link carries it"), "no link carries it"),
    ],
    ids=["unsynced", "no-config", "no-node", "no-facts"],
)
async def test_knowing_nothing_changes_nothing(bench: Bench, spoil: Callable[[Bench], None], words: str) -> None:
    spoil(bench)
    await bench.settle()
    assert words in (bench.agent.not_ready() or "")
    assert bench.kernel.plans == []
    assert bench.agent.view is None
    with pytest.raises(CniError) as caught:
        await bench.agent.attach(worlds.attachment(1, 0))
    assert caught.value.code == Code.TRY_AGAIN
    with pytest.raises(CniError):
        await bench.agent.detach(worlds.attachment(1, 0))
    assert bench.applied[-1] == (None, bench.agent.not_ready())


async def test_a_node_without_a_range_waits_for_it(bench: Bench) -> None:
    bare = msgspec.structs.replace(
        worlds.node(1), spec=msgspec.structs.replace(worlds.node(1).spec, pod_cidr="", pod_cidrs=())
    )
    bench.cluster = worlds.cluster([bare, worlds.node(2)], worlds.config())
    await bench.settle()
    assert "podCIDR" in (bench.agent.not_ready() or "")
    bench.cluster = worlds.cluster([worlds.node(1), worlds.node(2)], worlds.config())
    await bench.settle()
    assert bench.agent.not_ready() is None


async def test_the_kernel_follows_the_cluster(bench: Bench) -> None:
    await bench.settle()
    assert len(routes(bench)) == 2
    assert bench.agent.not_ready() is None
    bench.cluster = worlds.cluster([worlds.node(1), worlds.node(2)], worlds.config())
    await bench.settle()
    assert len(routes(bench)) == 1


@pytest.mark.parametrize("gone", ["cluster", "config", "me"])
async def test_losing_the_cluster_keeps_everything(bench: Bench, gone: str) -> None:
    await bench.agent.attach(worlds.attachment(1, 0)) if bench.agent.not_ready() is None else await bench.settle()
    await bench.agent.attach(worlds.attachment(1, 1))
    before = dict(bench.kernel.holds)
    bench.cluster = {
        "cluster": None,
        "config": worlds.cluster([worlds.node(1)]),
        "me": worlds.cluster([worlds.node(2)], worlds.config()),
    }[gone]
    await bench.settle()
    assert bench.agent.not_ready() is not None
    assert bench.kernel.holds == before
    await bench.agent.detach(worlds.attachment(1, 1))
    assert host_ifname(worlds.attachment(1, 1)) not in {key[2] for key in bench.kernel.holds if key[0] == "Link"}
    assert routes(bench) == {key[2] for key in before if key[0] == "Route" and key[1] == ""}


async def test_attach_and_detach(bench: Bench) -> None:
    await bench.settle()
    start = dict(bench.kernel.holds)
    pod = worlds.attachment(1, 0, ports=(PortMapping(8080, 80), PortMapping(53, 53, "udp")))
    await bench.agent.attach(pod)
    assert ("Link", "", host_ifname(pod)) in bench.kernel.holds
    assert await bench.agent.verify(pod) == ()
    assert bench.agent.attached == (pod,)
    await bench.agent.detach(pod)
    assert bench.kernel.holds == start
    await bench.agent.forget(pod)
    ip = pod.addresses[0].partition("/")[0]
    assert {ForgetFlows(source=ip), ForgetFlows(answered_by=ip)} <= set(bench.kernel.acted)
    await bench.agent.detach(pod)
    assert bench.kernel.holds == start


async def test_verify_says_what_is_missing(bench: Bench) -> None:
    await bench.settle()
    pod = worlds.attachment(1, 0)
    assert "no desired state" in (await bench.agent.verify(pod))[0]
    await bench.agent.attach(pod)
    address = next(key for key in bench.kernel.holds if key[0] == "Address" and key[1] == pod.netns)
    bench.kernel.vanish(address)
    assert any(line.startswith("add address") for line in await bench.agent.verify(pod))


async def test_a_missing_namespace_is_the_callers_mistake(bench: Bench) -> None:
    await bench.settle()
    pod = worlds.attachment(1, 0, netns="/run/netns/nowhere")
    with pytest.raises(CniError) as caught:
        await bench.agent.attach(pod)
    assert caught.value.code == Code.NETNS
    assert "/run/netns/nowhere" in caught.value.msg
    assert bench.agent.attached == ()
    await bench.agent.detach(pod)
    assert bench.agent.not_ready() is None, "a pod that waits does not make the node unready"


async def test_another_namespace_at_the_same_path_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    await bench.settle()
    place = tmp_path / "ns"
    place.touch()
    bench.kernel.pods.add(str(place))
    pod = worlds.attachment(1, 0, netns=str(place), inode=place.stat().st_ino + 1)
    with pytest.raises(CniError) as caught:
        await bench.agent.attach(pod)
    assert caught.value.code == Code.NETNS
    assert [key for key in bench.kernel.holds if key[0] == "PodLink"] == []


async def test_many_attachments_share_passes(bench: Bench) -> None:
    await bench.settle()
    before = bench.agent.passes
    await asyncio.gather(*(bench.agent.attach(worlds.attachment(1, k)) for k in range(9)))
    assert bench.agent.passes - before <= 3
    assert len([key for key in bench.kernel.holds if key[0] == "PodLink"]) == 9


async def test_drift_is_repaired_by_its_event(bench: Bench) -> None:
    await bench.settle()
    route = next(key for key in bench.kernel.holds if key[0] == "Route")
    bench.kernel.vanish(route)
    bench.agent.kernel_events(bench.kernel.events())
    await until(lambda: route in bench.kernel.holds)


async def test_sysctl_drift_needs_no_event(bench: Bench) -> None:
    await bench.settle()
    sysctl = next(r for rs in bench.agent.units.values() for r in rs if isinstance(r, Sysctl))
    bench.kernel.parameters["", sysctl.name] = "0"
    await until(lambda: bench.kernel.parameters["", sysctl.name] == sysctl.value)


async def test_facts_are_read_once_and_again_when_they_changed(bench: Bench) -> None:
    await bench.settle()
    await bench.settle()
    assert bench.reads == 1
    bench.facts = msgspec.structs.replace(worlds.facts(1), mtu=9000)
    bench.agent.kernel_events([("dirty", "facts")])
    await bench.settle()
    assert bench.reads == 2
    assert bench.kernel.holds["Link", "", f"{LINK_PREFIX}.1"].mtu == 8950  # type: ignore[attr-defined]


async def test_another_kube_proxy_is_looked_for_while_mode_iptables_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chains() -> bool:
        return any(key[0] == "IptablesChain" for key in bench.kernel.holds)

    await bench.settle()
    bench.facts = msgspec.structs.replace(worlds.facts(1), others=("the chain",))
    bench.cluster = worlds.cluster([worlds.node(1)], worlds.config(proxy=ProxySpec("iptables")))
    await bench.settle()
    assert bench.reads == 2, "what is asked for changed"
    assert not chains()
    assert [each.reason for each in bench.agent.problems if "proxy" in each.field] == ["ProxyModeRefused"]
    bench.facts = worlds.facts(1)
    await until(chains)
    assert not [each for each in bench.agent.problems if "proxy" in each.field]
    bench.cluster = worlds.cluster([worlds.node(1)], worlds.config())
    await bench.settle()
    reads = bench.reads
    await asyncio.sleep(0.1)
    assert bench.reads == reads, "nobody asks"


async def test_facts_that_got_lost_keep_the_last_view(bench: Bench) -> None:
    await bench.settle()
    before = dict(bench.kernel.holds)
    bench.facts = "the uplink is gone"
    bench.agent.kernel_events([("dirty", "facts")])
    await bench.settle()
    assert bench.agent.not_ready() == "the uplink is gone"
    assert bench.kernel.holds == before


async def test_status_shows_problems_and_the_last_pass(bench: Bench) -> None:
    await bench.settle()
    shown = status(bench.agent, "1.2.3")
    assert shown["ready"] is True
    assert shown["reason"] is None
    assert shown["version"] == "1.2.3"
    problems = shown["problems"]
    assert isinstance(problems, tuple)
    assert list(problems) == [{"object": "Node/bad", "reason": "Invalid", "message": "no object", "field": ""}]
    assert shown["passes"] == bench.agent.passes >= 1
    assert (await bench.agent.difference()).steps == ()


async def test_services_that_stay_are_not_looked_at_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand of them, a pass that asks each what it claims costs a hundred times what it should."""
    looked: list[str] = []
    asked = claims.asked

    def look(service: Service, own: tuple[str, ...]) -> claims.Claims:
        looked.append(service.metadata.name)
        return asked(service, own)

    monkeypatch.setattr(claims, "asked", look)
    made = [
        worlds.service(name, cluster_ip=f"10.96.0.{place}") for place, name in enumerate(("one", "two", "three"), 1)
    ]
    nodes, config = [worlds.node(i) for i in (1, 2, 3)], worlds.config(proxy=ProxySpec())
    bench.cluster = worlds.cluster(nodes, config, services=made[:2])
    await bench.settle()
    assert sorted(looked) == ["one", "two"]
    looked.clear()
    await bench.settle()
    services = {each.key: each for each in made}
    bench.cluster = bench.cluster.with_objects("services", services)
    await bench.settle()
    assert looked == ["three"]
