"""What holds for ExternalPods and DebugPorts. That a node port is free is seen to where it is given out."""

from __future__ import annotations

from podnet.apiserver.validation import rules
from podnet.apiserver.validation.pod import PROTOCOLS
from podnet.apiserver.validation.rules import Causes
from podnet.network.controllers.external_pods import ADDRESS_TYPES
from podnet.objects.leases import DebugPort, ExternalPods

LONGEST = 86400


def external_pods(new: ExternalPods) -> Causes:
    """A whole ExternalPods."""
    if not new.spec.selector:
        yield rules.required("spec.selector", "the labels of the pods that get ports")
    yield from rules.labels("spec.selector", new.spec.selector)
    if not new.spec.ports:
        yield rules.required("spec.ports", "at least one port")
    for index, port in enumerate(new.spec.ports):
        field = f"spec.ports[{index}]"
        yield from rules.port_name(f"{field}.name", port.name)
        yield from rules.port(f"{field}.containerPort", port.container_port)
        yield from rules.one_of(f"{field}.protocol", port.protocol, PROTOCOLS)
    yield from rules.unique("spec.ports[{}].name", (port.name for port in new.spec.ports))
    yield from rules.one_of("spec.address", new.spec.address, tuple(ADDRESS_TYPES))


def debug_port(new: DebugPort) -> Causes:
    """A whole DebugPort."""
    spec = new.spec
    if not spec.pod:
        yield rules.required("spec.pod", "the name of a pod in this namespace")
    yield from rules.port("spec.port", spec.port)
    yield from rules.one_of("spec.protocol", spec.protocol, PROTOCOLS)
    yield from rules.within("spec.seconds", spec.seconds, 1, LONGEST)


def debug_port_update(new: DebugPort, old: DebugPort) -> Causes:
    """Only its time may change."""
    for name in ("pod", "port", "protocol", "node_port"):
        field = {"node_port": "nodePort"}.get(name, name)
        yield from rules.immutable(f"spec.{field}", getattr(new.spec, name), getattr(old.spec, name))
