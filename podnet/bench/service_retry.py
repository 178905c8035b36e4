"""Connections to a Service whose endpoints are half dead: with retries, and as mode iptables leads them.

Two nodes with the same Service of four endpoints: two pods answer, one refuses, and one is gone without a word. A
client on each node connects again and again, at a steady pace, without waiting for what is still under way; both nodes
at the same time. It lasts longer than an endpoint is ejected, so that the dead ones are met again meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import msgspec

from podnet.bench.figures import Figure, at_most, figure, say
from podnet.bench.service_change import worst
from podnet.bench.service_node import Node
from podnet.bench.service_objects import PORT, TARGET, cluster, cluster_ip, endpoint_slice, service
from podnet.bench.service_path import BACKENDS, client_and_server, place
from podnet.kernel import netns
from podnet.lab import fabric
from podnet.network.pods import host_ifname
from podnet.network.proxy.service_ports import RETRY_ANNOTATION

CONNECTS, PACE = 1_000, 0.015
PATIENCE = 3.0
"""Seconds after which a client gives up."""

ANSWERING, REFUSING, GONE = BACKENDS[:2], BACKENDS[2], BACKENDS[3]
MODES = {"nftables": "with retry", "iptables": "in mode iptables"}


def refusals(name: str) -> Iterator[Figure]:
    """How many connects failed, and how long they took; one that failed took until then."""
    outcomes = asyncio.run(_all({mode: _served(mode) for mode in MODES}))
    for mode, title in MODES.items():
        ours, what = mode == "nftables", f"{CONNECTS:,} connects {title}, 2 of 4 endpoints dead"
        lost = sum(not connected for connected, _ in outcomes[mode])
        yield figure(name, f"{what}, failed", "connects", [lost], at_most(0) if ours else None)
        slow = worst([seconds for _, seconds in outcomes[mode]])
        yield figure(name, f"{what}, p99", "s", [slow], at_most(1.2) if ours else None)


def _served(mode: str) -> Node:
    made, nodes = client_and_server(f"retry-{mode}"), cluster(1, len(BACKENDS), mode)
    plain, here = service(0), endpoint_slice(0, BACKENDS)
    metadata = msgspec.structs.replace(plain.metadata, annotations={RETRY_ANNOTATION: "true"})
    nodes = nodes.with_objects("services", {plain.key: msgspec.structs.replace(plain, metadata=metadata)})
    made.take(nodes.with_objects("endpointslices", {here.key: here}))
    server, more = made.pods[1], BACKENDS[1:]
    fabric.configure(
        server.netns,
        [
            *(f"address add {address}/32 dev eth0" for address in (*ANSWERING[1:], REFUSING)),
            f"route add blackhole {GONE}/32",  # past the node, which takes it for an open attempt
        ],
    )
    via = f"via {BACKENDS[0]} dev {host_ifname(server)} onlink"
    fabric.configure(made.netns, [f"route add {address}/32 {via}" for address in more])
    return made


Outcomes = list[tuple[bool, float]]


async def _all(nodes: dict[str, Node]) -> dict[str, Outcomes]:
    """Whether each connect came through, and its seconds."""
    listeners = [_listen(place(each, 1), address) for each in nodes.values() for address in ANSWERING]
    running: dict[str, list[asyncio.Task[tuple[bool, float]]]] = {mode: [] for mode in nodes}
    start = time.perf_counter()
    for number in range(CONNECTS):
        await asyncio.sleep(start + number * PACE - time.perf_counter())
        for mode, each in nodes.items():
            running[mode].append(asyncio.create_task(_connect(place(each, 0))))
        if number % 50 == 0:
            say(f"connects to half-dead Services: {number:,} of {CONNECTS:,}", again=True)
    outcomes = {mode: await asyncio.gather(*tasks) for mode, tasks in running.items()}
    say(f"connects to half-dead Services: {time.perf_counter() - start:.0f} s")
    for listener in listeners:
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
    return outcomes


def _listen(path: str, address: str) -> socket.socket:
    """At TARGET; who comes is let in and sent away."""
    listener = netns.socket_in(path, socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, TARGET))
    listener.listen(CONNECTS)
    asyncio.get_running_loop().add_reader(listener, lambda: listener.accept()[0].close())
    return listener


async def _connect(path: str) -> tuple[bool, float]:
    with netns.socket_in(path, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(client, (cluster_ip(0), PORT))
        except OSError:  # TimeoutError is one
            return False, time.perf_counter() - start
        return True, time.perf_counter() - start
