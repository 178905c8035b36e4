"""Pods without containers: a network namespace each, as a runtime makes it before it calls CNI."""

from __future__ import annotations

from typing import Any

from podnet.bench import arena
from podnet.kernel import netns
from podnet.lab.libcni import Runtime


def make(name: str, ports: tuple[tuple[int, int], ...] = ()) -> Runtime:
    """A pod with a fresh namespace; `ports` are TCP (host port, container port)."""
    path = f"{arena.NETNS}/{name}"
    netns.create(path)
    mappings = [{"hostPort": host, "containerPort": container, "protocol": "tcp"} for host, container in ports]
    capabilities: dict[str, Any] = {"portMappings": mappings} if mappings else {}
    return Runtime(name, path, capabilities=capabilities)


def remove(pod: Runtime) -> None:
    """Take the pod's namespace away."""
    netns.remove(pod.netns)
