"""A container runtime in a few lines: calls the real plugin executable as the conflist of the agent tells it to.

Pods are namespaces bound in a scratch folder. Calls may be started and killed in the midst of what they do.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from podnet.agent.conflist import NAME
from podnet.kernel import netns
from podnet.lab.sandbox import raise_loopback
from tests.lab.labs import BIN, SECONDS, LiveLab

VERSION = "1.1.0"


class Answer(NamedTuple):
    """Exit code, and the document the plugin wrote: a result or an error."""

    exit: int
    document: dict[str, Any]

    @property
    def code(self) -> int:
        """The CNI error code, 0 for none."""
        return int(self.document.get("code", 0)) if self.exit else 0

    @property
    def words(self) -> str:
        """What the error says."""
        return f"{self.document.get('msg', '')}: {self.document.get('details', '')}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of a result, without the prefix."""
        return tuple(each["address"].partition("/")[0] for each in self.document["ips"])


class Runtime:
    """The runtime of one node."""

    def __init__(self, live: LiveLab, node: str, folder: Path) -> None:
        self.live, self.node, self.folder = live, node, folder
        self.conflist = Path(live.lab.node(node).conf_dir, NAME)
        self.network = json.loads(self.conflist.read_text())

    def start(
        self, command: str, pod: str = "", config: Mapping[str, Any] = {}, netns: str = "", ifname: str = "eth0"
    ) -> subprocess.Popen[bytes]:
        """Begin a call; `config` is merged into the plugin's configuration, `netns` is said if it is not ours."""
        (plugin,) = self.network["plugins"]
        stdin = {key: value for key, value in plugin.items() if key != "capabilities"}
        stdin |= {"cniVersion": VERSION, "name": self.network["name"], **config}
        about = {"CNI_CONTAINERID": pod, "CNI_NETNS": netns or self.path(pod), "CNI_IFNAME": ifname} if pod else {}
        call = subprocess.Popen(
            [f"{BIN}/{plugin['type']}"],
            env={"CNI_COMMAND": command, "CNI_PATH": BIN, "PATH": os.defpath, **about},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert call.stdin
        call.stdin.write(json.dumps(stdin).encode())
        call.stdin.close()
        call.stdin = None
        return call

    @staticmethod
    def end(call: subprocess.Popen[bytes]) -> Answer:
        """Wait for a call."""
        out, _ = call.communicate(timeout=SECONDS)
        return Answer(call.returncode, json.loads(out or b"{}"))

    def call(
        self, command: str, pod: str = "", config: Mapping[str, Any] = {}, netns: str = "", ifname: str = "eth0"
    ) -> Answer:
        """A whole call."""
        return self.end(self.start(command, pod, config, netns, ifname))

    def add(self, pod: str, **runtime: Any) -> Answer:
        """ADD with a runtimeConfig."""
        return self.call("ADD", pod, {"runtimeConfig": runtime} if runtime else {})

    def path(self, pod: str) -> str:
        """The namespace of a pod."""
        return str(self.folder / pod)

    @contextmanager
    def pod(self, name: str) -> Iterator[str]:
        """A namespace of that name; gives its path."""
        netns.create(self.path(name))
        try:
            raise_loopback(self.path(name))
            yield self.path(name)
        finally:
            netns.remove(self.path(name))
