"""Is this object right? One question, one table: per kind, the struct it must fit and the rules beyond its types.

`causes(kind, new, old)` yields every wrong field at once, so a user mends an object in one go. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from podnet.apiserver.status import Cause, Document
from podnet.apiserver.validation import config, endpoints, leases, network, node, pod, rules, service, service_update
from podnet.apiserver.validation.meta import NameRule, metadata, metadata_update
from podnet.objects import core
from podnet.objects.codec import InvalidObject, convert
from podnet.objects.kinds import Kind
from podnet.objects.leases import DebugPort, ExternalPods
from podnet.objects.meta import Object
from podnet.objects.network import NetworkConfig, ServiceRoute
from podnet.objects.services import Endpoints, EndpointSlice

Causes = Iterator[Cause]


class Form(msgspec.Struct, frozen=True):
    """How one kind is judged: its struct, its name rule, the rules for every write and those for an update alone."""

    type: type[Object]
    rule: Callable[[Any], Causes] = lambda _: iter(())
    update: Callable[[Any, Any], Causes] = lambda _new, _old: iter(())
    name: NameRule = rules.dns_subdomain


FORMS: Mapping[str, Form] = {
    "Namespace": Form(node.NamespaceForm, node.namespace, name=rules.dns_label),
    "Node": Form(core.Node, node.node, node.node_update),
    "Pod": Form(pod.PodForm, pod.pod),
    "Service": Form(service.ServiceForm, service.service, service_update.service_update, rules.dns_1035_label),
    "EndpointSlice": Form(EndpointSlice, endpoints.endpoint_slice, endpoints.endpoint_slice_update),
    "Endpoints": Form(Endpoints, endpoints.endpoints),
    "ConfigMap": Form(config.ConfigMap, config.config_map, config.config_map_update),
    "Secret": Form(config.Secret, config.secret, config.secret_update),
    "Event": Form(config.EventForm, config.event),
    "Lease": Form(config.Lease, config.lease),
    "NetworkConfig": Form(NetworkConfig, network.network_config, name=network.network_name),
    "ServiceRoute": Form(ServiceRoute, network.service_route),
    "ExternalPods": Form(ExternalPods, leases.external_pods),
    "DebugPort": Form(DebugPort, leases.debug_port, leases.debug_port_update),
}


def shape(kind: Kind, document: Document) -> Causes:
    """Does the document have the right types? At most one cause: the first mistake met."""
    try:
        convert(document, FORMS[kind.kind].type)
    except InvalidObject as error:
        yield rules.mistyped(error.field, error.message)


def causes(kind: Kind, new: Document, old: Document | None) -> Causes:
    """Every wrong field of `new`, whose shape is right; `old` is what it would replace, None on create."""
    form = FORMS[kind.kind]
    after = convert(new, form.type)
    yield from metadata(after.metadata, kind.namespaced, form.name)
    yield from form.rule(after)
    if old is not None:
        before = convert(old, form.type)
        yield from metadata_update(after.metadata, before.metadata)
        yield from form.update(after, before)
        if kind.kind == "Pod":
            yield from pod.pod_update(new, old)
