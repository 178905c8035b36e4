"""One node made by hand, two of its pods on the bridge and one behind a link of its own: what passes between them.

    server, client: on podnet0        apart: point-to-point        a Service of both families whose endpoint is "server"

The kernel is told beforehand to let what is bridged pass by the IP hooks, as where br_netfilter was never loaded.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest

from podnet.daemons.proxy_feed import Feed
from podnet.kernel.netns import inside
from podnet.network.desired import desired, node_state
from podnet.network.proxy.bridged import FILTERED, MODULE
from podnet.network.proxy.userspace import orders
from podnet.network.service_port import Endpoint, ServicePort
from podnet.network.view import Attachment, LocalFacts, NodeInfo, NodeView
from podnet.objects.network import NetworkSpec, ProxySpec
from podnet.state.plan import plan
from tests.kernel.contract import UPLINK
from tests.lab.hands import KernelNode, kernel_node, needs_root, wait_for
from tests.lab.service_asks import Answer, Ask, Client, ask_all
from tests.lab.service_world import TALK
from tests.worlds import attachment

pytestmark = [pytest.mark.lab, needs_root]

VIP = {False: "10.96.0.10", True: "fd00:96::10"}
PODS = {"server": "bridge", "client": "bridge", "apart": "ptp"}
GATEWAY = ("10.244.1.1", "fd00:10:244:1::1")


class Pods:
    """The node with its pods attached."""

    def __init__(self, node: KernelNode, mode: str, lacks: bool) -> None:
        made = {
            name: attachment(1, number, dual=True, netns=node.pod(), mode=kind)
            for number, (name, kind) in enumerate(PODS.items(), 1)
        }
        self.addresses = {name: tuple(text.partition("/")[0] for text in each.addresses) for name, each in made.items()}
        self.clients = {name: Client(name, each.netns, self.addresses[name]) for name, each in made.items()}
        for name in FILTERED.values():
            node.run(f"sysctl -qew {name}=0")
        self.view = _view(tuple(made.values()), self.addresses["server"], mode, lacks)
        goal = node_state(desired(self.view))
        outcome = node.plane.apply(plan(goal, node.plane.read(goal)))
        assert not outcome.failed
        assert not plan(goal, node.plane.read(goal))

    def ask(self, client: str, host: str, port: int) -> list[Answer]:
        return ask_all([Ask(self.clients[client], host, port, protocol) for protocol in ("tcp", "udp")])


def _view(pods: tuple[Attachment, ...], server: tuple[str, ...], mode: str, lacks: bool) -> NodeView:
    spec = NetworkSpec(pod_cidrs=("10.244.0.0/16", "fd00:10:244::/48"), proxy=ProxySpec(mode=mode))
    me = NodeInfo("n1", ("10.0.0.1", "fd00::1"), ("10.244.1.0/24", "fd00:10:244:1::/64"))
    facts = LocalFacts("n1", UPLINK, missing={MODULE: "not loaded"} if lacks else {})
    there = {v6: (Endpoint(server[v6], 9000),) for v6 in (False, True)}
    ports = tuple(
        ServicePort(
            "default", "web", protocol, protocol, v6, VIP[v6], 80,
            internal=there[v6], external=there[v6], cluster=there[v6], anywhere=True,
        )
        for v6 in (False, True)
        for protocol in ("tcp", "udp")
    )  # fmt: skip
    view = NodeView(me, (), spec, facts, pods)
    return msgspec.structs.replace(view, services={("default", "web"): ports})


@contextmanager
def pods(folder: Path, mode: str = "nftables", lacks: bool = False) -> Iterator[Pods]:
    with kernel_node(folder) as node:
        made = Pods(node, mode, lacks)
        with inside(made.clients["server"].netns):
            server = subprocess.Popen([*TALK, "serve", "server", "9000"])
        try:
            wait_for(lambda: made.ask("client", made.addresses["server"][1], 9000)[0].server == "server")
            with proxy(node, folder, made.view) if mode == "userspace" else nullcontext():
                yield made
        finally:
            server.kill()
            server.wait()


@contextmanager
def proxy(node: KernelNode, folder: Path, view: NodeView) -> Iterator[None]:
    """The proxy of mode userspace, told what the node's agent would tell it."""
    code = f"from podnet.cli.main import main; main(['userspace-proxy', '--run-dir', {str(folder)!r}])"
    with inside(node.netns):
        process = subprocess.Popen([sys.executable, "-c", code])
    feed = Feed(f"{folder}/userspace.sock")
    feed.update(orders(view, (port for ports in view.services.values() for port in ports)))

    async def tell() -> None:
        telling = asyncio.create_task(feed.run())
        assert await feed.settled(20.0)
        telling.cancel()

    try:
        asyncio.run(tell())
        yield
    finally:
        process.terminate()
        process.wait()


def check(made: Pods, lacks: bool) -> None:
    """Translated back in any case; the endpoint sees the client itself where the kernel has br_netfilter."""
    for v6 in (False, True):
        answers = made.ask("client", VIP[v6], 80)
        shown = GATEWAY[v6] if lacks else made.addresses["client"][v6]
        assert [(each.server, each.source) for each in answers] == [("server", shown)] * 2
        hairpin = made.ask("server", VIP[v6], 80)
        assert [(each.server, each.source) for each in hairpin] == [("server", GATEWAY[v6])] * 2


@pytest.mark.parametrize("mode", ["nftables", "iptables", "userspace"])
@pytest.mark.parametrize("lacks", [False, True], ids=["filtered", "unfiltered"])
def test_services_between_pods_of_one_bridge(tmp_path: Path, mode: str, lacks: bool) -> None:
    with pods(tmp_path, mode, lacks) as made:
        check(made, lacks)


def test_pods_on_the_bridge_and_beside_it_reach_each_other(tmp_path: Path) -> None:
    with pods(tmp_path) as made:
        for v6 in (False, True):
            for host, port in ((made.addresses["server"][v6], 9000), (VIP[v6], 80)):
                answers = made.ask("apart", host, port)
                assert [(each.server, each.source) for each in answers] == [("server", made.addresses["apart"][v6])] * 2
