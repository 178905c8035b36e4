"""What holds for a Node and a Namespace. Source: k8s.io/kubernetes pkg/apis/core/validation/validation.go."""

from __future__ import annotations

from podnet.apiserver.validation import rules
from podnet.apiserver.validation.pod import EFFECTS
from podnet.apiserver.validation.rules import Causes, wrong
from podnet.objects.core import Namespace, Node
from podnet.objects.meta import Value

ADDRESS_TYPES = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")


class NamespaceSpec(Value, frozen=True):
    """What must be done before a namespace may go."""

    finalizers: tuple[str, ...] = ()


class NamespaceForm(Namespace, frozen=True):
    """A Namespace as validated."""

    spec: NamespaceSpec = NamespaceSpec()


def namespace(new: NamespaceForm) -> Causes:
    """Its finalizers; all else is metadata."""
    for finalizer in new.spec.finalizers:
        yield from rules.qualified_name("spec.finalizers", finalizer)


def node(new: Node) -> Causes:
    """Ranges, taints and addresses."""
    _, causes = rules.cidrs("spec.podCIDRs", new.spec.pod_cidrs)
    yield from causes
    if new.spec.pod_cidr and new.spec.pod_cidrs[:1] != (new.spec.pod_cidr,):
        yield wrong("spec.podCIDRs", new.spec.pod_cidrs, "must contain the value of `podCIDR` as its first element")
    for index, taint in enumerate(new.spec.taints):
        field = f"spec.taints[{index}]"
        yield from rules.qualified_name(f"{field}.key", taint.key)
        yield from rules.one_of(f"{field}.effect", taint.effect, EFFECTS)
    yield from rules.unique("spec.taints[{}]", (f"{taint.key}:{taint.effect}" for taint in new.spec.taints))
    for index, address in enumerate(new.status.addresses):
        yield from rules.one_of(f"status.addresses[{index}].type", address.type, ADDRESS_TYPES)
        if address.type.endswith("IP"):
            yield from rules.address(f"status.addresses[{index}].address", address.address)
    yield from rules.within(
        "status.daemonEndpoints.kubeletEndpoint.Port", new.status.daemon_endpoints.kubelet_endpoint.port, 0, 65535
    )


def node_update(new: Node, old: Node) -> Causes:
    """A node's range is given once: pods have addresses of it."""
    if old.spec.pod_cidrs and new.spec.pod_cidrs != old.spec.pod_cidrs:
        yield rules.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
