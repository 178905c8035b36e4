"""Ways into a lab: the command line that runs something on a node or in a container, and the programs' logs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing

import msgspec

from podnet.lab import logs, process, sandbox
from podnet.lab.containers import container_folder, runs
from podnet.lab.process import Running
from podnet.lab.registry import Lab
from podnet.lab.sandbox import Sandbox


class Entry(msgspec.Struct, frozen=True):
    """What to execute."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def into_node(lab: Lab, name: str, command: tuple[str, ...]) -> Entry:
    """Run a command in a node's network namespace, with the caller's environment. Raises ValueError."""
    return Entry(("nsenter", f"--net={lab.node(name).netns}", "--", *command), os.environ)


def into_pod(lab: Lab, pod: str, container: str, command: tuple[str, ...]) -> Entry:
    """Run a command in the namespaces and with the environment of a container, "" the first. Raises ValueError."""
    namespace, _, name = pod.partition("/")
    found = [each for each in sandboxes(lab) if (each.namespace, each.name) == (namespace, name)]
    if not found:
        raise ValueError(f"lab {lab.name} runs no pod {pod}: podnet lab exec takes NODE or NAMESPACE/POD")
    pids = dict(containers(max(found, key=lambda each: each.made_at)))
    if not pids:
        raise ValueError(f"no container of {pod} runs at the moment")
    if container and container not in pids:
        raise ValueError(f"{pod} runs no container {container!r}; it runs {', '.join(pids)}")
    pid = pids[container] if container else next(iter(pids.values()))
    return Entry(tuple(process.enter(pid, command)), _environment(pid))


def sandboxes(lab: Lab) -> list[Sandbox]:
    """Every pod's sandbox on every node."""
    return [each for node in lab.nodes for each in sandbox.read_all(node.pods_dir)]


def containers(of: Sandbox) -> Iterator[tuple[str, int]]:
    """The containers of a pod that run, and their processes, in the order of the pod's spec."""
    pod = sandbox.read_pod(of)
    for container in pod.spec.containers:
        folder = container_folder(of, container.name)
        for number in runs(folder)[-1:]:
            found = process.look(f"{folder}/{number}")
            if isinstance(found, Running) and found.pid:
                yield container.name, found.pid


def _environment(pid: int) -> dict[str, str]:
    """The variables that a process was started with. Raises ValueError when it is gone."""
    try:
        with open(f"/proc/{pid}/environ", encoding="utf-8", errors="surrogateescape") as file:
            pairs = (word.partition("=") for word in file.read().split("\0") if word)
            return {name: value for name, _, value in pairs}
    except OSError:
        raise ValueError("the container ended a moment ago: try again") from None


def places(lab: Lab) -> list[str]:
    """Everything that can be entered."""
    return [*(node.name for node in lab.nodes), *(f"{each.namespace}/{each.name}" for each in sandboxes(lab))]


def programs_of(lab: Lab, what: str) -> list[str]:
    """The programs that a word means. Raises ValueError."""
    if what in ("supervisor", "api"):
        return [what]
    return lab.node(what).programs


async def program_logs(lab: Lab, what: str, follow: bool, tail: int | None, say: Callable[[bytes], None]) -> None:
    """Say every line that the programs of `what` wrote, and with `follow` those that come. Raises ValueError."""
    names = programs_of(lab, what)
    wanted = logs.Options(follow=follow, tail=tail, timestamps=True)

    async def show(name: str) -> None:
        word = name.encode() + b"  " if len(names) > 1 else b""
        async with aclosing(logs.read(f"{lab.program(name)}/log", wanted, lambda: False)) as lines:
            async for line in lines:
                say(word + line)

    await asyncio.gather(*map(show, names))
