"""Hands for pods of a lab: made as a test wants them, looked at from all sides, and gone afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from podnet.lab import echo
from podnet.lab.sandbox import Sandbox, read_all
from podnet.objects.kinds import PODS
from tests.lab.labs import PODNET, LiveLab, run, until

Json = dict[str, Any]

ECHO = [sys.executable, "-I", "-S", echo.__file__]


class Pods:
    """Makes pods and looks at them; all are gone after the test."""

    def __init__(self, live: LiveLab) -> None:
        self.live = live
        self.made: list[str] = []

    def create(self, name: str, *containers: Json, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        each = [{"image": "test", **container} for container in containers]
        document = {
            "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
            "spec": {"nodeName": "node1", "terminationGracePeriodSeconds": 1, **spec, "containers": each},
        }
        self.made.append(name)
        self.live.api(lambda api: api.create(PODS, document, into=dict))

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.live.api(lambda api: api.get(PODS, name, "default", into=dict))["status"]
        return found

    def condition(self, name: str, kind: str) -> str:
        found = {each["type"]: each["status"] for each in self.status(name).get("conditions", ())}
        return str(found.get(kind))

    def ready(self, name: str) -> None:
        until(lambda: self.condition(name, "Ready") == "True", f"{name} is ready", 15)

    def phase(self, name: str, wanted: str) -> dict[str, Any]:
        until(lambda: self.status(name).get("phase") == wanted, f"{name} is {wanted}", 15)
        return self.status(name)

    def container(self, name: str, number: int = 0) -> dict[str, Any]:
        all_of_them = until(lambda: self.status(name).get("containerStatuses"), f"{name} is reported")
        found: dict[str, Any] = all_of_them[number]
        return found

    def sandbox(self, name: str) -> Sandbox:
        found = [each for node in self.live.lab.nodes for each in read_all(node.pods_dir) if each.name == name]
        assert found, f"{name} has no sandbox"
        return found[-1]

    def delete(self, name: str, grace: int | None = None) -> None:
        self.live.api(lambda api: api.delete(PODS, name, "default", grace=grace))

    def gone(self, name: str, seconds: float = 15) -> None:
        """The object goes last: when it is gone nothing else may be left."""
        until(lambda: not self.exists(name), f"the object of {name} is gone", seconds)
        assert name not in self.sandboxes()

    def sandboxes(self) -> list[str]:
        return [each.name for node in self.live.lab.nodes for each in read_all(node.pods_dir)]

    def exists(self, name: str) -> bool:
        found = self.live.api(lambda api: api.list(PODS, "default", into=dict))
        return name in [each["metadata"]["name"] for each in found]

    def logs(self, name: str, **options: Any) -> str:
        async def read(api: Any) -> bytes:
            return b"".join([piece async for piece in api.logs(name, "default", **options)])

        return self.live.api(read).decode()

    def execute(self, name: str, *words: str, container: str = "", code: int = 0) -> str:
        options = ["-c", container] if container else []
        entering = [PODNET, "lab", "exec", "--name", self.live.name, *options, f"default/{name}", "--"]
        return run(*entering, *words, code=code)


@contextmanager
def pods_of(live: LiveLab) -> Iterator[Pods]:
    """Pods that are gone afterwards."""
    found = Pods(live)
    yield found
    for name in found.made:
        if found.exists(name):
            found.delete(name, 0)
    until(lambda: not set(found.made) & set(found.sandboxes()), "everything is gone", 20)


def sh(script: str, name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": ["sh", "-c", script], **fields}


PAUSE: Json = {"name": "main"}
