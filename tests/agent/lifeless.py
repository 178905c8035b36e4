"""A program to be killed: a CNI server over a kernel made of files, called for ever. See test_cni_kill.py."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress

from podnet.agent.attachments import Attachments
from podnet.agent.cni_server import CniServer
from podnet.network.view import Attachment
from tests.agent.fakes import FakeNetwork, node_view
from tests.cni.calls import frame

NAMES = [f"c{n}" for n in range(12)]


class Files(FakeNetwork):
    """A kernel that outlives its program: a pod's network is a file `<container>-<address>`."""

    def __init__(self, folder: str) -> None:
        super().__init__(node_view(cidrs=("10.244.1.0/27",)))
        self.folder = folder

    def path(self, attachment: Attachment) -> str:
        return os.path.join(self.folder, f"{attachment.container_id}-{attachment.addresses[0].partition('/')[0]}")

    async def attach(self, attachment: Attachment) -> None:
        await asyncio.sleep(0)
        os.close(os.open(self.path(attachment), os.O_CREAT | os.O_EXCL))
        await asyncio.sleep(0)

    async def forget(self, attachment: Attachment) -> None:
        """It has no flows."""

    async def detach(self, attachment: Attachment) -> None:
        await asyncio.sleep(0)
        with suppress(FileNotFoundError):
            os.unlink(self.path(attachment))
        await asyncio.sleep(0)


async def serve(folder: str) -> CniServer:
    store = await Attachments.open(os.path.join(folder, "state"), "boot", lambda netns: True)
    network = Files(os.path.join(folder, "kernel"))
    return CniServer("/unused", store, network, inspect=lambda netns, own: 0)


async def main(folder: str, seed: str) -> None:
    server = await serve(folder)
    os.write(1, b"ready\n")

    async def caller(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")
        while True:
            name = chance.choice(NAMES)
            command = chance.choice(["ADD", "DEL"])
            await server.answer(frame(COMMAND=command, CONTAINERID=name, NETNS=f"/run/netns/{name}"))
            os.write(1, b"answered\n")

    await asyncio.gather(*map(caller, range(6)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
