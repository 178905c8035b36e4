"""`python -m podnet.lab.supervisor LAB`: keeps the programs of a lab running.

What should run is a function of lab.json (`programs`); what runs is read from the programs' folders. The supervisor
starts what is missing, stops what is no longer wanted, and restarts what ended, after a while that doubles. Programs
live in sessions of their own, below shims: when the supervisor is killed they go on, and the next one adopts them.
SIGHUP makes it read lab.json again; it ends when there is none any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from podnet.lab import process, registry
from podnet.lab.process import BIN, Command, StartError
from podnet.lab.registry import AGENT_PORT, API_PORT, SUBNET4, SUBNET6, Lab, LabNode, service_cidrs

log = logging.getLogger(__name__)

FIRST_SECONDS = 0.1
CAP_SECONDS = 5.0
STEADY_SECONDS = 10.0
STOP_SECONDS = 3.0

OWN_TRUST = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""Programs trust their cluster's authority only; loading the machine's would cost each 50 ms at its start."""

ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    **OWN_TRUST,
}


class Program(msgspec.Struct, frozen=True):
    """One program of a lab. With a `port`, `{fd}` in its arguments becomes a socket bound to it on the loopback."""

    command: Command
    port: int = 0


def programs(lab: Lab) -> dict[str, Program]:
    """Everything that should run, by name."""
    found = {"api": api(lab)}
    for node in lab.nodes:
        found[f"agent-{node.name}"] = agent(node)
        found[f"kubelet-{node.name}"] = kubelet(lab, node)
        found[f"proxy-{node.name}"] = proxy(node)
    return found


def proxy(node: LabNode) -> Program:
    """What serves Services in mode userspace; idle in all others."""
    return Program(_command((f"{BIN}/podnet", "userspace-proxy", "--run-dir", node.run_dir), node.netns))


def api(lab: Lab) -> Program:
    """The API server, in the fabric's namespace and with one foot on the machine's loopback."""
    listen = (f"{SUBNET4}.1:{API_PORT}", *((f"[{SUBNET6}:1]:{API_PORT}",) if lab.dual_stack else ()))
    argv = (
        f"{BIN}/podnet",
        "apiserver",
        "--data-dir",
        f"{lab.folder}/api",
        "--listen-fd",
        "{fd}",
        "--public-url",
        lab.api_url,
        "--service-cluster-ip-range",
        ",".join(service_cidrs(lab.dual_stack)),
        "--load-balancer-pool",
        ",".join(lab.pools),
    )
    argv += tuple(word for address in listen for word in ("--listen", address))
    return Program(_command(argv, lab.fabric_netns), port=lab.port)


def agent(node: LabNode) -> Program:
    """The node agent, in its node's namespace."""
    argv = (
        *(f"{BIN}/podnet", "agent", "--node", node.name, "--kubeconfig", node.kubeconfig),
        *("--state-dir", node.state_dir, "--run-dir", node.run_dir, "--conf-dir", node.conf_dir),
        *("--listen", f"{node.addresses[0]}:{AGENT_PORT}"),
    )
    return Program(_command(argv, node.netns))


def kubelet(lab: Lab, node: LabNode) -> Program:
    """The kubelet, in its node's namespace."""
    return Program(_command((sys.executable, "-P", "-m", "podnet.lab.kubelet", lab.name, node.name), node.netns))


def _command(argv: tuple[str, ...], netns: str) -> Command:
    return Command(argv, ENVIRONMENT, netns, cwd="/", keep=True)


def launch(folder: str, program: Program) -> None:
    """Start a program, with its socket if it wants one. Raises StartError, OSError (the port is taken)."""
    with ExitStack() as stack:
        fds = [_bind(stack.enter_context(socket.socket()), program.port)] if program.port else []
        argv = tuple(word.format(fd=fds[0]) if fds else word for word in program.command.argv)
        process.start(folder, msgspec.structs.replace(program.command, argv=argv), fds)


def _bind(made: socket.socket, port: int) -> int:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made.fileno()


async def keep(folder: str, program: Program) -> None:
    """Keep one program running for ever, beginning with the one that may run already."""
    delay, name = FIRST_SECONDS, os.path.basename(folder)
    trouble = ""
    while True:
        began = time.monotonic()
        if (ended := await process.ended(folder)) and not trouble:
            trouble = f"ended with {ended.code}"
        if trouble:
            delay = FIRST_SECONDS if time.monotonic() - began > STEADY_SECONDS else delay
            log.warning("%s %s; again in %.1f s", name, trouble, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, CAP_SECONDS)
        try:
            await process.finish(asyncio.to_thread(launch, folder, program))
            trouble = ""
        except (StartError, OSError) as error:
            trouble = f"can't be started: {error}"


class Supervisor:
    """Owns a task per program."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.reload = asyncio.Event()
        self.reload.set()

    async def run(self) -> None:
        """Follow lab.json until it is gone."""
        while True:
            await self.reload.wait()
            self.reload.clear()
            found = registry.find(self._lab.name)
            if found is None:
                return
            self._lab = found
            await self._bring_to(programs(found))

    async def _bring_to(self, wanted: Mapping[str, Program]) -> None:
        for name in self._tasks.keys() - wanted.keys():
            task = self._tasks.pop(name)
            task.cancel()
            await asyncio.wait([task])
            await process.stop(self._lab.program(name), STOP_SECONDS)
            log.info("%s is no longer wanted", name)
        for name, program in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(keep(self._lab.program(name), program))


async def supervise(name: str) -> None:
    """Everything a supervisor process does."""
    supervisor = Supervisor(registry.load(name))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload.set)
    running = asyncio.create_task(supervisor.run())
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


def start(lab: Lab) -> bool:
    """Make sure that a supervisor of this lab runs and has read its lab.json; True when one had to be started."""
    folder = lab.program("supervisor")
    if isinstance(process.look(folder), process.Running):
        process.send(folder, signal.SIGHUP)
        return False
    argv = (sys.executable, "-P", "-m", "podnet.lab.supervisor", lab.name)
    process.start(folder, _command(argv, ""))
    return True


def main(arguments: list[str]) -> None:
    """The process's entry."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        asyncio.run(supervise(*arguments))
    except ValueError as error:
        sys.exit(f"podnet.lab.supervisor: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
