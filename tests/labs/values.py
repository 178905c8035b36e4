"""Pods and sandboxes in short, for the tests of the kubelet's parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from podnet.lab.sandbox import Sandbox, save
from podnet.objects.codec import convert
from podnet.objects.core import Container, Pod


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
    values = {"ips": ("127.0.0.1",), "netns": "/proc/self/ns/net", "made_at": 1.0} | fields
    return save(Sandbox(id="id1", uid=f"uid-{name}", namespace="default", name=name, folder=str(path), **values))
