"""Whatever happens to objects, watches and lists: in the end the snapshot is what the server holds.

Random histories mix changes with faults. After each one the server behaves, and the client must come to the truth,
whatever it believed before: same keys, same decoded values, invalid documents absent or at their last good version.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from podnet.client.api import Api
from podnet.client.config import Credentials
from podnet.client.informer import Pace
from podnet.client.reflector import Informers, Watch
from podnet.objects.cluster import Cluster
from podnet.objects.codec import InvalidObject, convert
from podnet.objects.kinds import NODES, PODS
from tests.client.fake_api import FakeApi, Fault, expired, too_large
from tests.client.waiting import until

FAST = Pace(
    first=0.001, base=0.001, cap=0.01, confirm=0.001, brief=0.0005, watch=0.05, relist=0.06, grace=0.01, page=2
)  # fmt: skip
NAMES = st.sampled_from("abcdef")
PAUSES = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.01])

CHANGES = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["10.0.0.0/24", "10.0.1.0/24"])),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("pod"), NAMES, st.sampled_from(["a", "b"])),
    st.tuples(st.just("bad"), NAMES),
    st.tuples(st.just("heartbeat"), NAMES),
)
FAULTS = st.one_of(
    st.tuples(st.sampled_from(["cut", "expire", "garbage", "back", "error", "backup", "restore"])),
    st.tuples(st.just("answer"), st.sampled_from([410, 429, 500, 503, 504, 403, 404])),
    st.tuples(st.just("page"), st.sampled_from([410, 504])),
    st.tuples(st.just("lie"), st.booleans()),
    st.tuples(st.just("lost"), NAMES),
    st.tuples(st.just("forget tokens")),
)
HISTORY = st.lists(st.tuples(st.one_of(CHANGES, CHANGES, FAULTS), PAUSES), min_size=3, max_size=25)


class Play:
    """One history, played against one server."""

    def __init__(self, server: FakeApi) -> None:
        self.server = server
        self.backup = server.backup()

    def step(self, step: tuple[Any, ...]) -> None:
        server = self.server
        match step:
            case ("put", name, cidr):
                server.put(NODES, {"metadata": {"name": name}, "spec": {"podCIDR": cidr}})
            case ("delete", name):
                server.delete(NODES, name)
                server.delete(PODS, name, "x")
            case ("pod", name, where):
                server.put(PODS, {"metadata": {"name": name, "namespace": "x"}, "spec": {"nodeName": where}})
            case ("bad", name):
                server.put(NODES, {"metadata": {"name": name}, "spec": {"podCIDRs": 5}})
            case ("heartbeat", name) if ("", name) in server.of(NODES):
                server.put(NODES, server.of(NODES)["", name] | {"beat": server.version})
            case ("lost", name):
                server.put(NODES, {"metadata": {"name": name}, "spec": {"podCIDR": "10.7.7.0/24"}}, silent=True)
            case ("lie", stale):
                server.list_lies.append((server.version // 2 if stale else server.version, []))
            case _:
                self.fault(step)

    def fault(self, step: tuple[Any, ...]) -> None:
        server = self.server
        match step:
            case ("cut",):
                server.cut()
            case ("expire",):
                server.expire()
            case ("garbage",):
                server.say(b'{"type":"ADDED","object":[]}')
            case ("error",):
                server.say(b'{"type":"ERROR","object":{"code":500,"reason":"InternalError"}}')
            case ("back",):
                server.say(b'{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}')
            case ("backup",):
                self.backup = server.backup()
            case ("restore",):
                server.restore(self.backup)
            case ("forget tokens",):
                server.forget_tokens = not server.forget_tokens
            case ("answer", code):
                server.answers.append(Fault(code, "Because"))
            case ("page", code):
                server.list_faults.extend([None, expired() if code == 410 else too_large()])

    def heal(self) -> None:
        for faults in (self.server.answers, self.server.list_faults, self.server.list_lies):
            faults.clear()
        self.server.forget_tokens = False


def agrees(cluster: Cluster, server: FakeApi) -> bool:
    """Whether a snapshot is what the server holds; for a bad document any earlier good one, or none, will do."""
    return agrees_on_pods(cluster, server) and agrees_on_nodes(cluster, server)


def agrees_on_pods(cluster: Cluster, server: FakeApi) -> bool:
    truth = {key: each["spec"]["nodeName"] for key, each in server.of(PODS).items() if each["spec"]["nodeName"] == "a"}
    return {key: pod.spec.node_name for key, pod in cluster.pods.items()} == truth


def agrees_on_nodes(cluster: Cluster, server: FakeApi) -> bool:
    truth = server.of(NODES)
    if not set(cluster.nodes) <= set(truth):
        return False
    for key, document in truth.items():
        try:
            expected = convert(document, NODES.type)
        except InvalidObject:
            continue
        held = cluster.nodes.get(key)
        if held is None or held.spec != expected.spec:  # type: ignore[attr-defined]
            return False
    return True


async def play(history: list[tuple[tuple[Any, ...], float]]) -> None:
    async with FakeApi() as server, Api(Credentials(server=server.url), timeout=2) as api:
        for name in "abc":
            server.put(NODES, {"metadata": {"name": name}, "spec": {"podCIDR": "10.0.0.0/24"}})
        informers = Informers(api, [Watch(NODES), Watch(PODS, field_selector="spec.nodeName=a")], pace=FAST)
        task = asyncio.create_task(informers.run())
        played = Play(server)
        for step, pause in history:
            played.step(step)
            await asyncio.sleep(pause)
        played.heal()
        try:
            await until(lambda: task.done() or (informers.synced and agrees(informers.cluster, server)))
            assert not task.done()
        finally:
            informers.stop()
            await task


# Shrinking a history that never settles takes minutes, each try being a wait; the history found is short already.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(HISTORY)
def test_the_snapshot_comes_to_the_truth(history: list[tuple[tuple[Any, ...], float]]) -> None:
    asyncio.run(play(history))
