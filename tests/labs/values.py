"""Pods and sandboxes in short, for the tests of the kubelet's parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podnet.lab.sandbox import Sandbox, save
from podnet.objects.codec import convert
from podnet.objects.core import Pod


async def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something holds; TimeoutError is the test's failure."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 (what is waited for is a file or a process)
            await asyncio.sleep(0.005)


def read_text(*path: str) -> str:
    return Path(*path).read_text()


def exists(path: str) -> bool:
    return os.path.lexists(path)


def write_text(path: str, text: str) -> None:
    Path(path).write_text(text)


def container(name: str = "main", script: str = "sleep 60", **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {"name": name, "image": "none", "command": ["sh", "-c", script], **fields}


def pod(*containers: dict[str, Any], name: str = "web", metadata: dict[str, Any] | None = None, **spec: Any) -> Pod:
    """A pod on node1; `spec` in JSON names."""
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", **(metadata or {})}
    spec = {"nodeName": "node1", "containers": list(containers) or [container()], **spec}
    return convert({"metadata": meta, "spec": spec}, Pod)


def sandbox(folder: Path, name: str = "web", **fields: Any) -> Sandbox:
    """A ready sandbox in this process's own network namespace, written to its folder."""
    path = folder / f"uid-{name}"
    os.makedirs(path, exist_ok=True)
    values: dict[str, Any] = {"ips": ("127.0.0.1",), "netns": "/proc/self/ns/net", "made_at": 1.0} | fields
    return save(Sandbox(id="id1", uid=f"uid-{name}", namespace="default", name=name, folder=str(path), **values))
