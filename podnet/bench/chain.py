"""CNI as a runtime does it, with as little as possible around it: the time from exec to result is the plugins'.

What each plugin gets and in which order is libcni's business (podnet/lab/libcni.py); here it is executed with
posix_spawn from a thread in the node's namespace, and the clock stands while nothing of a plugin runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from podnet.kernel.netns import inside
from podnet.lab.libcni import Json, Network, Runtime, configuration, environment


class PluginFailed(Exception):
    """A plugin ended with an error; the text is its answer."""


class Chain:
    """The plugins of one network on one node (path of its namespace), found in `folder`."""

    def __init__(self, node: str, network: Network, folder: str) -> None:
        self.node, self.network, self.folder = node, network, folder
        self.results: dict[str, Json] = {}

    def add(self, pod: Runtime) -> float:
        """Seconds that an ADD takes, over all plugins; the result is kept for the DEL. Raises PluginFailed."""
        result: Json = {}
        seconds = 0.0
        for plugin in self.network.plugins:
            took, answer = self._run("ADD", plugin, pod, {"prevResult": result} if result else {})
            seconds, result = seconds + took, msgspec.json.decode(answer)
        self.results[pod.container_id] = result
        return seconds

    def delete(self, pod: Runtime) -> float:
        """Seconds that a DEL takes. Raises PluginFailed."""
        result = self.results.pop(pod.container_id)
        plugins = reversed(self.network.plugins)
        return sum(self._run("DEL", plugin, pod, {"prevResult": result})[0] for plugin in plugins)

    def add_at_once(self, pods: Sequence[Runtime]) -> float:
        """Seconds until ADDs that start at the same time are all done."""
        return self._at_once(self.add, pods)

    def delete_at_once(self, pods: Sequence[Runtime]) -> float:
        """Likewise for DEL."""
        return self._at_once(self.delete, pods)

    def _at_once(self, call: Any, pods: Sequence[Runtime]) -> float:
        with ThreadPoolExecutor(len(pods)) as threads:
            start = time.monotonic()
            list(threads.map(call, pods))
            return time.monotonic() - start

    def _run(self, command: str, plugin: Json, pod: Runtime, extra: Mapping[str, Any]) -> tuple[float, bytes]:
        stdin = msgspec.json.encode(configuration(self.network, plugin, pod, extra))
        env = environment(command, pod, (self.folder,))
        with inside(self.node):
            seconds, code, answer = execute(f"{self.folder}/{plugin['type']}", env, stdin)
        if code:
            raise PluginFailed(f"{plugin['type']} {command}: {answer.decode(errors='replace').strip()}")
        return seconds, answer


def execute(path: str, env: Mapping[str, str], stdin: bytes) -> tuple[float, int, bytes]:
    """Run a program in the calling thread's namespaces: seconds from exec to its end, exit code, stdout."""
    config = os.memfd_create("stdin")
    read, write = os.pipe()
    try:
        os.pwrite(config, stdin, 0)
        files = [(os.POSIX_SPAWN_DUP2, config, 0), (os.POSIX_SPAWN_DUP2, write, 1)]
        start = time.monotonic()
        try:
            child = os.posix_spawn(path, [path], env, file_actions=files)
        finally:
            os.close(write)
        answer = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
        status = os.waitpid(child, 0)[1]
        return time.monotonic() - start, os.waitstatus_to_exitcode(status), answer
    finally:
        os.close(config)
        os.close(read)
