"""A program to be killed: attaches and detaches for ever in a store, and says on stdout what it was told is durable.

A line is `+ id addresses` after an acknowledged add, `? id` before a removal is asked for, `- id` after it is done.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from podnet.agent.attachments import Attachments
from podnet.network.ipam import ranges
from podnet.network.view import Attachment

SETS = ranges.of_node(["10.244.1.0/26", "fd00:1::/64"])
WORKERS = 8


def say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


async def work(store: Attachments, name: str, chance: random.Random) -> None:
    """One worker: adds up to four attachments of its own and removes some, one after the other."""
    mine = [record for record in store.all() if record.container_id.startswith(f"{name}-")]
    while True:
        if len(mine) < 4 and chance.random() < 0.6:
            draft = Attachment(f"{name}-{chance.getrandbits(40):x}", "eth0", f"/run/netns/{chance.getrandbits(40):x}")
            mine.append(await store.add(draft, SETS))
            say("+", draft.container_id, *mine[-1].addresses)
        elif mine:
            gone = mine.pop(chance.randrange(len(mine)))
            say("?", gone.container_id)
            await store.remove(gone)
            say("-", gone.container_id)


async def main(state_dir: str, seed: str) -> None:
    store = await Attachments.open(state_dir, "boot", lambda netns: True)
    say("ready", *store.report)
    async with asyncio.TaskGroup() as tasks:
        for number in range(WORKERS):
            tasks.create_task(work(store, f"w{number}", random.Random(f"{seed}/{number}")))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
