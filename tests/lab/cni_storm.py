"""A program for inside a test machine: ADDs by the dozen while the agent or the plugin is killed, and the cleaning up.

Arguments: the lab's folder, a seed, the number of rounds. Each round prints one JSON line: what was done, how the calls
ended, and what was left behind (nothing, if all is well). The network is called `storm`, so GC is about its pods only.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec

from podnet.agent.attachments_file import read
from podnet.agent.census import pod_links
from podnet.kernel import netns
from podnet.lab.process import Running, look
from podnet.lab.registry import Lab, LabNode

BIN = os.path.dirname(sys.executable)
PODS = 12


class Storm:
    """The calls of a runtime on one node, and the accidents."""

    def __init__(self, folder: str, node: LabNode, chance: random.Random) -> None:
        self.node = node
        self.agent = f"{folder}/programs/agent-{node.name}"
        self.chance = chance
        self.running: set[asyncio.subprocess.Process] = set()

    async def call(self, command: str, name: str, config: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Run the plugin as a runtime does."""
        process = await self.start(command, name)
        stdin = {
            "cniVersion": "1.1.0",
            "name": "storm",
            "type": "podnet-cni",
            "agentSocket": f"{self.node.run_dir}/cni.sock",
        }
        out, _ = await process.communicate(json.dumps(stdin | (config or {})).encode())
        return process.returncode or 0, out

    async def start(self, command: str, name: str) -> asyncio.subprocess.Process:
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": space(name), "CNI_IFNAME": "eth0"}
        process = await asyncio.create_subprocess_exec(
            f"{BIN}/podnet-cni", env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.running.add(process)
        return process

    async def add(self, name: str, port: int) -> int:
        ports = [{"hostPort": port, "containerPort": 53, "protocol": "udp"}]
        await asyncio.sleep(self.chance.random() * 0.1)
        with suppress(BrokenPipeError, ConnectionResetError):
            return (await self.call("ADD", name, {"runtimeConfig": {"portMappings": ports}}))[0]
        return -9

    def kill_agent(self) -> None:
        found = look(self.agent)
        if isinstance(found, Running) and found.pid:
            os.kill(found.pid, signal.SIGKILL)

    def kill_plugins(self) -> None:
        for process in list(self.running):
            if process.returncode is None and self.chance.random() < 0.7:
                process.kill()

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while (await self.call("STATUS", "x"))[0] != 0:  # noqa: ASYNC110 (it waits for another program)
                await asyncio.sleep(0.05)

    async def round(self, number: int) -> dict[str, Any]:
        names = [f"r{number}-{i}" for i in range(PODS)]
        victim, cleaning = ("agent", "plugins")[number % 2], ("GC", "DEL")[number // 2 % 2]
        self.running.clear()
        for name in names:
            netns.create(space(name))
        adding = [asyncio.create_task(self.add(name, 20000 + i)) for i, name in enumerate(names)]
        await asyncio.sleep(0.03 + self.chance.random() * 0.07)
        self.kill_agent() if victim == "agent" else self.kill_plugins()
        outcomes = Counter(await asyncio.gather(*adding))
        recorded = len(read(self.node.state_dir)[0])
        gone = [name for name in names if self.chance.random() < 0.3]
        for name in gone:
            netns.remove(space(name))
        await self.until_ready()
        failed = await self.clean(cleaning, names)
        left = self.left()
        for name in set(names) - set(gone):
            netns.remove(space(name))
        return {
            "victim": victim,
            "by": cleaning,
            "adds": dict(outcomes),
            "recorded": recorded,
            "failed": failed,
            "left": left,
        }

    async def clean(self, cleaning: str, names: list[str]) -> list[str]:
        if cleaning == "GC":
            answers = [await self.call("GC", "x", {"cni.dev/valid-attachments": []})]
        else:
            answers = await asyncio.gather(*(self.call("DEL", name) for name in names * 2))
        return [out.decode() for code, out in answers if code]

    def left(self) -> list[str]:
        """Links, records, host ports: whatever is there of the pods."""
        records = [f"record {record.container_id}" for record in read(self.node.state_dir)[0]]
        links = [f"link {name}" for name in pod_links(self.node.netns)]
        words = ["nsenter", f"--net={self.node.netns}", "nft", "list", "table", "inet", "podnet-hostports"]
        table = subprocess.run(words, capture_output=True, text=True, check=False).stdout  # gone with the last port
        return [*records, *links, *(f"nft {line.strip()}" for line in table.splitlines() if "elements" in line)]


def space(name: str) -> str:
    return f"/run/test/{name}"


async def main(storm: Storm, rounds: int) -> None:
    for number in range(rounds):
        print(json.dumps(await storm.round(number)), flush=True)


if __name__ == "__main__":
    folder, seed, rounds = sys.argv[1:]
    with open(f"{folder}/lab.json", "rb") as file:
        lab = msgspec.json.decode(file.read(), type=Lab)
    asyncio.run(main(Storm(folder, lab.nodes[0], random.Random(seed)), int(rounds)))
