"""What one node's kernel should hold: the sum of its features, each a pure function of what the node sees.

Read this first. `desired(view)` is podnet: everything else brings objects here, or carries the result to a kernel.
A node feature is computed from the view without its pods and Services, a pod or service feature from that and one
attachment or Service, the DNS cache from that and whether it answers; each is computed again only when one of its
inputs is another object than before. The result maps a
unit (a feature, a pod, a Service) to its resources, so that the reconciler can compare just the units that changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from podnet.network import bandwidth, forwarding, hostports, leases, masquerade, migration, pods
from podnet.network.dns import node_cache
from podnet.network.memo import Memo, each, forget, joined, recall
from podnet.network.proxy import announce
from podnet.network.proxy import feature as proxy
from podnet.network.service_port import ServicePort
from podnet.network.view import Attachment, NodeView, PortMapping, Resolver
from podnet.state.host import Action
from podnet.state.plan import Plan
from podnet.state.resource import NodeState, Resource, state

NodeFeature = Callable[[NodeView], Iterator[Resource]]
PodFeature = Callable[[NodeView, Attachment], Iterator[Resource]]
ServiceFeature = Callable[[NodeView, tuple[ServicePort, ...]], Iterator[Resource]]
Unit = tuple[str, ...]
Desired = Mapping[Unit, tuple[Resource, ...]]

NODE_FEATURES: Mapping[str, NodeFeature] = {
    "forwarding": forwarding.forward,
    "backend": migration.connect,
    "pods": pods.segment,
    "masquerade": masquerade.masquerade,
    "hostports": hostports.table,
    "services": proxy.frame,
    "announce": lambda view: announce.bear(view, view.borne),
}

POD_FEATURES: Mapping[str, PodFeature] = {
    "attach": pods.attach,
    "publish": hostports.publish,
    "limit": bandwidth.limit,
    "hairpin": proxy.hairpin,
}

SERVICE_FEATURES: Mapping[str, ServiceFeature] = {"serve": proxy.serve}


def desired(view: NodeView, memo: Memo | None = None) -> Desired:
    """Every unit's resources. `memo` only saves time: with or without it the result is equal."""
    memo = {} if memo is None else memo
    parts = (view.me, view.peers, view.network, view.facts, view.affinities, view.retries, view.borne, view.algorithms)
    leased = leases.assign(view.attachments, view.leases)
    marks = pods.bridges(view), any(leased.values()) or any(attachment.ports for attachment in view.attachments)
    node = recall(memo, "desired", (*parts, *marks), lambda: _without_pods(view, *marks))
    served: Desired = each(
        memo,
        "served",
        (node,),
        (view.services,),
        lambda key: tuple(_service(node, view.services[key])),
        lambda key: ("service", *key),
    )
    units: dict[Unit, tuple[Resource, ...]] = {}
    for name, feature in NODE_FEATURES.items():
        units[name,] = recall(memo, (name,), (node,), lambda feature=feature: tuple(feature(node)))  # type: ignore[misc]
    units["dns-cache",] = recall(
        memo, ("dns-cache",), (node, view.resolver), lambda: tuple(node_cache.keep(view, proxy.mode_name(view)))
    )
    units["together",] = proxy.together(node, view.services, memo)
    for attachment in view.attachments:
        unit, own = ("pod", *attachment.id), leased.get(attachment.id, ())
        made = recall(memo, unit, (node, attachment, own), lambda it=attachment, own=own: tuple(_pod(node, it, own)))  # type: ignore[misc]
        units[unit] = made
    forget(memo, "pod", units)
    return joined(memo, "units", served, units)


def node_state(units: Desired) -> NodeState:
    """All units as one state; raises Conflict when two features want the same kernel object differently."""
    return state(resource for resources in units.values() for resource in resources)


def after(view: NodeView, plan: Plan) -> tuple[Action, ...]:
    """What is not a state but follows from the difference."""
    return (*hostports.forget(view, plan), *proxy.forget(view, plan), *announce.tell(plan))


def _without_pods(view: NodeView, bridged: bool, published: bool) -> NodeView:
    return msgspec.structs.replace(
        view,
        attachments=(),
        services={},
        leases={},
        mtu=migration.pod_mtu(view),
        bridged=bridged,
        published=published,
        resolver=Resolver(),
    )


def _service(node: NodeView, ports: tuple[ServicePort, ...]) -> Iterator[Resource]:
    for feature in SERVICE_FEATURES.values():
        yield from feature(node, ports)


def _pod(node: NodeView, attachment: Attachment, leased: tuple[PortMapping, ...]) -> Iterator[Resource]:
    for feature in POD_FEATURES.values():
        yield from feature(node, leases.extended(attachment, leased))
