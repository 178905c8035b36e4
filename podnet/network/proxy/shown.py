"""What an agent answers when it is asked for its Services: GET /v1/services, which `podnet service` reads."""

from __future__ import annotations

from podnet.network.proxy.live import Live
from podnet.network.proxy.manners import Surroundings
from podnet.network.service_port import ServicePort
from podnet.network.value import Value
from podnet.network.view import Problem


class Shown(Value, frozen=True):
    """A port of a Service, and what is known of its use; None when nobody asked."""

    port: ServicePort
    live: Live | None = None


class ServiceShown(Value, frozen=True):
    """One Service on this node.

    `ready` of `total` endpoints are; `held`: the kernel holds all that belongs to it, None when nobody
    looked; `problems` what of it can't be honoured.
    """

    namespace: str
    name: str
    type: str
    addresses: tuple[str, ...]
    ready: int
    total: int
    ports: tuple[Shown, ...]
    held: bool | None
    problems: tuple[Problem, ...]


class ServicesShown(Value, frozen=True):
    """The answer to GET /v1/services. `reason` why there is nothing to show."""

    node: str
    mode: str = ""
    reason: str = ""
    surroundings: Surroundings = Surroundings()
    services: tuple[ServiceShown, ...] = ()
