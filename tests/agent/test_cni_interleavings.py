"""Random histories of ADD, DEL and GC, all at once, with failures and time-outs: no address twice, none leaked."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.agent.attachments import Attachments, claims
from podnet.agent.cni_server import CniServer
from podnet.cni.errors import CniError, Code
from podnet.network.view import Attachment
from tests.agent.fakes import Answer, FakeNetwork, node_view
from tests.cni.calls import frame

CONTAINERS = [f"c{n}" for n in range(6)]
OPERATION = st.tuples(
    st.sampled_from(["ADD", "ADD", "DEL", "GC", "CHECK"]), st.sampled_from(CONTAINERS), st.integers(0, 3)
)


class Unreliable(FakeNetwork):
    """Takes its time, and now and then refuses or hangs for a while; never forgets to notice an address given twice."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(node_view(cidrs=("10.244.1.0/29", "fd00:1::/64")), self.wait)
        self.chance = chance
        self.reliable = False

    async def wait(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if not self.reliable and self.chance.random() < 0.05:
            await asyncio.sleep(0.03)

    async def attach(self, attachment: Attachment) -> None:
        await super().attach(attachment)
        self.sometimes("the kernel refused")

    async def forget(self, attachment: Attachment) -> None:
        await asyncio.sleep(0)

    async def detach(self, attachment: Attachment) -> None:
        self.sometimes("the kernel is busy")
        await super().detach(attachment)

    def sometimes(self, why: str) -> None:
        if not self.reliable and self.chance.random() < 0.1:
            raise CniError(Code.NOT_APPLIED, why)


class World:
    """A server on such a network, and what its callers were told."""

    def __init__(self, store: Attachments, seed: int, seconds: float) -> None:
        self.store = store
        self.network = Unreliable(random.Random(seed))
        self.server = CniServer("/unused", store, self.network, seconds=seconds, inspect=lambda netns, own: 0)

    async def call(self, command: str, name: str, config: Any = None) -> Answer:
        variables = {"CONTAINERID": name, "NETNS": f"/run/netns/{name}"}
        answer = await self.server.answer(frame(config, COMMAND=command, **variables))
        return Answer(answer[0], answer[1:])

    async def operate(self, command: str, name: str, delay: int) -> None:
        for _ in range(delay):
            await asyncio.sleep(0)
        if command == "GC":
            valid = [{"containerID": name, "ifname": "eth0"}]
            await self.call("GC", name, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid})
        elif command == "CHECK":
            await self.call("CHECK", name, {"prevResult": {}})
        else:
            await self.call(command, name)

    def check(self) -> None:
        """What holds whenever nothing is under way."""
        records = {record.id: record for record in self.store.all()}
        given_ = [address for record in records.values() for address in record.addresses]
        assert len(given_) == len(set(given_))
        assert self.network.kernel.items() <= records.items(), "the kernel holds what no record tells"
        assert self.store._held == {claim: record for record in records.values() for claim in claims(record)}


async def run(operations: list[tuple[str, str, int]], seed: int, end: Callable[[World], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory() as state_dir:
        world = World(await Attachments.open(state_dir, "boot"), seed, seconds=0.02)  # so some ADDs come too late
        await asyncio.gather(*(world.operate(*each) for each in operations))
        await world.server.close()
        world.check()
        world.network.reliable = True
        await end(world)
        assert not world.network.kernel
        assert not world.store._held
        assert not world.store.all()
        await world.store.close()
        again = await Attachments.open(state_dir, "boot")
        assert again.all() == ()
        # Nothing leaked: every address of the range can be given.
        fresh = World(again, seed, seconds=10)
        fresh.network.reliable = True
        added = [await fresh.call("ADD", f"n{n}") for n in range(6)]
        assert [answer.code for answer in added] == [0, 0, 0, 0, 0, Code.EXHAUSTED]
        await again.close()


async def delete_all(world: World) -> None:
    answers = await asyncio.gather(*(world.call("DEL", name) for name in CONTAINERS * 2))
    assert [answer.exit for answer in answers] == [0] * len(answers)


async def collect_all(world: World) -> None:
    assert (await world.call("GC", "", {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []})).exit == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATION, max_size=30), st.integers(0, 2**32))
def test_del_alone_cleans_up(operations: list[tuple[str, str, int]], seed: int) -> None:
    asyncio.run(run(operations, seed, delete_all))


@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATION, max_size=30), st.integers(0, 2**32))
def test_gc_alone_cleans_up(operations: list[tuple[str, str, int]], seed: int) -> None:
    asyncio.run(run(operations, seed, collect_all))
