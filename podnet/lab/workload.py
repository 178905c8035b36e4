"""What `podnet lab up` puts into a fresh cluster: the network's configuration and nine demo pods.

Objects that are there already are left as they are, so a user's change survives the next `up`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from podnet.client.api import Api
from podnet.client.errors import ApiError
from podnet.lab import echo
from podnet.lab.registry import service_cidrs
from podnet.objects.kinds import NAMESPACES, PODS, Kind
from podnet.objects.network import NETWORK_NAME

Json = dict[str, Any]

DEMO = "demo"
DEMO_PODS = 9
PORT, SIDE_PORT = 8080, 8081
POD_CIDR4, POD_CIDR6 = "10.244.0.0/16", "fd00:10:244::/56"


def network(backend: str, dual_stack: bool, attachment: str) -> Json:
    """NetworkConfig/default: 256 nodes of 254 pods, and of a /64 each in a dual-stack lab."""
    spec: Json = {"podCIDRs": [POD_CIDR4, *([POD_CIDR6] if dual_stack else [])], "backend": {"type": backend}}
    spec["proxy"] = {"serviceCIDRs": service_cidrs(dual_stack)}
    return {"metadata": {"name": NETWORK_NAME}, "spec": spec | ({"attachment": attachment} if attachment else {})}


def web(number: int) -> Json:
    """The pod web-N; web-1 has a second container, which the first reaches on localhost."""
    containers = [_container("web", PORT), *([_container("side", SIDE_PORT)] if number == 1 else [])]
    return {
        "metadata": {"name": f"web-{number}", "namespace": DEMO, "labels": {"app": "web"}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 1},
    }


def _container(name: str, port: int) -> Json:
    return {
        "name": name,
        "image": "podnet-echo",
        "command": [sys.executable, "-I", "-S", echo.__file__, str(port)],
        "ports": [{"containerPort": port}],
    }


def demo() -> list[tuple[Kind, Json]]:
    """The namespace and its pods."""
    pods = [(PODS, web(number)) for number in range(1, DEMO_PODS + 1)]
    return [(NAMESPACES, {"metadata": {"name": DEMO}}), *pods]


async def ensure(api: Api, objects: Sequence[tuple[Kind, Json]]) -> list[str]:
    """Create what is missing, in order; the names of what was made. Raises ApiError."""
    made = []
    for kind, document in objects:
        try:
            await api.create(kind, document, into=dict)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        else:
            made.append(f"{kind.singular}/{document['metadata']['name']}")
    return made
