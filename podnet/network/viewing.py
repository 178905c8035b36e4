"""From the cluster's objects to what one node sees, leaving out what can't be honoured and saying so.

Each Node object is parsed once, and the result is shared while the node stays the same, so a heartbeat of a thousand
nodes leaves `peers` the identical tuple. A network configuration or a range that can't work is treated as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from podnet.network.backends import validate
from podnet.network.dns import node_cache
from podnet.network.dns.records import pod_addresses
from podnet.network.dns.zone import completes
from podnet.network.leases import Leases, leases, node_of
from podnet.network.memo import Memo, each, forget, group, recall
from podnet.network.nodes import addresses_of, ranges_of, usable_address, usable_range
from podnet.network.proxy import claims, faults
from podnet.network.proxy.algorithms import RANDOM, Loads, weighed
from podnet.network.proxy.balancers import borne, health_checks
from podnet.network.proxy.feature import LOCALHOST, MODES, mode_in_force
from podnet.network.proxy.service_ports import affinity, algorithm, cluster_addresses, owner, retried, service_ports
from podnet.network.proxy.splitting import in_force
from podnet.network.service_port import Place, ServicePort
from podnet.network.view import (
    Attachment,
    LocalFacts,
    NodeInfo,
    NodeView,
    Problem,
    Resolver,
    Words,
    base_address,
    is_v6,
)
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import ZONE, Node, Pod
from podnet.objects.network import ACCEPTS_ANNOTATION, NETWORK_NAME, PRIMARY, SENDS_ANNOTATION, NetworkSpec

Network = IPv4Network | IPv6Network

ATTACHMENTS = ("bridge", "ptp")
NO_LOADS: Loads = {}
NOWHERE = LocalFacts("")
MTU = {False: range(576, 65536), True: range(1280, 65536)}
"""What a pod's interface may have, without and with IPv6 (RFC 791, RFC 8200)."""


def node_info(node: Node) -> NodeInfo:
    """Reduce a Node object; what can't be used is left out (problems() names it)."""
    annotations = node.metadata.annotations
    return NodeInfo(
        name=node.metadata.name,
        addresses=_one_per_family(filter(None, (usable_address(text) for _, text in addresses_of(node)))),
        pod_cidrs=_one_per_family(filter(None, (usable_range(text) for _, text in ranges_of(node)))),
        accepts=_words(annotations.get(ACCEPTS_ANNOTATION, "")),
        sends=_words(annotations.get(SENDS_ANNOTATION, "")),
    )


def view(
    cluster: Cluster,
    facts: LocalFacts,
    attachments: tuple[Attachment, ...] = (),
    memo: Memo | None = None,
    said: tuple[Words, Words] | None = None,
    loads: Loads = NO_LOADS,
    cached: bool = False,
) -> NodeView | None:
    """What the node named in `facts` sees; None while the cluster has no usable network configuration or not this node.

    `loads` are weights that what is going on asks for (proxy/algorithms.py); `cached`: this node's DNS cache answers.
    `said` is (accepts, sends) as this node's agent last tried to publish them: its Node object may not show that yet.
    """
    memo = {} if memo is None else memo
    node, config = cluster.nodes.get(("", facts.node)), cluster.network
    if node is None or config is None:
        return None
    network = recall(memo, "network", (config,), lambda: None if any(mistakes(config.spec)) else config.spec)
    if network is None:
        return None
    me = _info(memo, facts.node, node)
    if said is not None:
        me = recall(memo, "said", (me, said), lambda info=me: _saying(info, *said))  # type: ignore[misc]
    peers = recall(memo, "peers", (cluster.nodes, me.addresses, me.pod_cidrs), lambda: _peers(cluster, me, memo))
    served = network.proxy.mode != "none"
    own = _own(cluster, facts, memo)
    without = claims.lost(memo, cluster.services, own) if served else {}
    more = _more_frontends(network, facts, cached, memo)
    services = _services(cluster, node, memo, loads, more, without, own) if served else {}
    affinities = recall(memo, "affinities", (cluster.services,), lambda: _affinities(cluster))
    retries = recall(memo, "retries", (cluster.services,), lambda: any(map(retried, cluster.services.values())))
    algorithms = recall(memo, "algorithms", (cluster.services,), lambda: _algorithms(cluster))
    leased = _leases(cluster, facts.node, memo)
    return NodeView(
        me,
        peers,
        network,
        facts,
        attachments,
        services=services,
        affinities=affinities,
        retries=retries,
        leases=leased,
        algorithms=algorithms,
        borne=borne(cluster, facts.node, memo),
        checks=health_checks(cluster, facts.node, memo, without) if served else (),
        resolver=_resolver(cluster, facts.node, network, cached, memo),
    )


def _resolver(cluster: Cluster, node: str, network: NetworkSpec, cached: bool, memo: Memo) -> Resolver:
    service = cluster.services.get(_dns_service(network))
    completed = group(
        memo, "completed", cluster.pods, lambda pod: pod.spec.node_name if completes(pod, False) else None
    )
    mine = completed.get(node, _NO_PODS)

    def made() -> Resolver:
        known = sorted({ip for pod in mine.values() for ip in pod_addresses(pod)})
        return Resolver(cluster_addresses(service) if service else (), cached, tuple(known))

    return recall(memo, ("resolver", str(cached)), (service, mine), made)


_NO_PODS: Mapping[Key, Pod] = {}


def _dns_service(network: NetworkSpec) -> Key:
    namespace, _, name = network.dns.service.partition("/")
    return (namespace, name)


def _more_frontends(network: NetworkSpec, facts: LocalFacts, cached: bool, memo: Memo) -> Mapping[Key, Words]:
    """Addresses that Services have on this node besides their own."""
    found = node_cache.frontends(network.dns, cached, mode_in_force(network.proxy.mode, facts))
    return recall(memo, "more frontends", (network, found), lambda: {_dns_service(network): found} if found else {})


def _services(
    cluster: Cluster, node: Node, memo: Memo, loads: Loads, more: Mapping[Key, Words], without: claims.Lost, own: Words
) -> Mapping[Key, tuple[ServicePort, ...]]:
    place = recall(memo, "place", (node,), lambda: Place(node.metadata.name, node.metadata.labels.get(ZONE, "")))
    slices = group(memo, "slices", cluster.endpointslices, owner)
    routes = group(memo, "routes", cluster.serviceroutes, lambda route: (route.metadata.namespace, route.spec.service))
    on_labels = dict.fromkeys(routes, cluster.pods)  # only what is split depends on pods

    def labels(pod: Key) -> Mapping[str, str]:
        return cluster.pods[pod].metadata.labels if pod in cluster.pods else {}

    def ports(key: Key) -> tuple[ServicePort, ...]:
        route = in_force(routes.get(key, {}).values())
        pieces = slices.get(key, {}).values()
        made = service_ports(cluster.services[key], pieces, place, route.spec if route else None, labels)
        made = tuple(weighed(port, loads[key]) for port in made) if key in loads else made
        return node_cache.extended(made, more[key]) if key in more else made

    of = (cluster.services, slices, routes, on_labels, loads, more)
    made = each(memo, "services", (place,), of, ports, lambda key: key)
    return claims.honoured(memo, made, without, own)


def _own(cluster: Cluster, facts: LocalFacts, memo: Memo) -> Words:
    """A node's addresses at which node ports are; none without a node."""
    node = cluster.nodes.get(("", facts.node))
    addresses, others = _info(memo, facts.node, node).addresses if node else (), facts.addresses
    every = lambda: tuple(dict.fromkeys((*addresses, LOCALHOST, *others))) if addresses else ()  # noqa: E731
    return recall(memo, "own", (addresses, others), every)


def _leases(cluster: Cluster, node: str, memo: Memo) -> Leases:
    here = group(memo, "external", cluster.pods, node_of).get(node, {})
    return recall(memo, "leases", (here, cluster.debugports), lambda: leases(here, cluster.debugports))


def _affinities(cluster: Cluster) -> tuple[int, ...]:
    return tuple(sorted({affinity(service) for service in cluster.services.values()} - {0}))


def _algorithms(cluster: Cluster) -> Words:
    return tuple(sorted({algorithm(service) for service in cluster.services.values()} - {RANDOM}))


def _saying(info: NodeInfo, accepts: Words, sends: Words) -> NodeInfo:
    return msgspec.structs.replace(info, accepts=accepts, sends=sends)


def _peers(cluster: Cluster, me: NodeInfo, memo: Memo) -> tuple[NodeInfo, ...]:
    found = [_info(memo, name, node) for name, node in _oldest_first(cluster) if name != me.name]
    forget(memo, "node", {("node", name) for _, name in cluster.nodes})
    return recall(memo, "distinct", (me.addresses, me.pod_cidrs, *found), lambda: tuple(_distinct(me, found)))


def _oldest_first(cluster: Cluster) -> list[tuple[str, Node]]:
    """Nodes by age, then by name: whoever claims what a node has that is there already, goes without."""
    nodes = ((name, node) for (_, name), node in cluster.nodes.items())
    return sorted(nodes, key=lambda each: (each[1].metadata.creation_timestamp or "", each[0]))


def _info(memo: Memo, name: str, node: Node) -> NodeInfo:
    return recall(memo, ("node", name), (node,), lambda: node_info(node))


def _distinct(me: NodeInfo, found: Iterable[NodeInfo]) -> Iterator[NodeInfo]:
    """The peers that can be reached: what is mine stays mine, and a range belongs to the oldest who has it."""
    mine = [ip_network(cidr) for cidr in me.pod_cidrs]
    taken: set[str] = set()
    for peer in found:
        cidrs = tuple(cidr for cidr in peer.pod_cidrs if base_address(cidr) not in taken and _apart(cidr, mine))
        addresses = tuple(address for address in peer.addresses if address not in me.addresses)
        taken.update(map(base_address, cidrs))
        if cidrs and addresses:
            same = (cidrs, addresses) == (peer.pod_cidrs, peer.addresses)
            yield peer if same else msgspec.structs.replace(peer, pod_cidrs=cidrs, addresses=addresses)


def _apart(cidr: str, networks: Iterable[Network]) -> bool:
    network = ip_network(cidr)
    return not any(network.version == other.version and network.overlaps(other) for other in networks)


def mistakes(spec: NetworkSpec) -> Iterator[tuple[str, str]]:
    """(field, message) of what makes a network configuration unusable; the API server refuses more than this."""
    for index, text in enumerate(spec.pod_cidrs):
        if usable_range(text) is None:
            yield f"spec.podCIDRs[{index}]", f"{text!r} is no range for pods; write one such as 10.244.0.0/16"
    families = sorted(map(is_v6, spec.pod_cidrs))
    if families not in ([False], [True], [False, True]):
        yield "spec.podCIDRs", "must hold one range, or one for each IP family"
    if spec.attachment not in ATTACHMENTS:
        yield "spec.attachment", f"Unsupported value: {spec.attachment!r}: supported values: {', '.join(ATTACHMENTS)}"
    allowed = MTU[True in families]
    if spec.mtu and spec.mtu not in allowed:
        yield "spec.mtu", f"must be 0 (derived) or from {allowed[0]} to {allowed[-1]}"
    yield from ((f"spec.backend.{field}", message) for field, message in validate(spec.backend))
    proxy = {"serviceCIDRs": spec.proxy.service_cidrs, "nodePortAddresses": spec.proxy.node_port_addresses}
    for field, texts in proxy.items():
        for index, text in enumerate(texts):
            if not _is_range(text) and (field, text) != ("nodePortAddresses", PRIMARY):
                yield (f"spec.proxy.{field}[{index}]", f"{text!r} is no CIDR; write one such as 10.96.0.0/16")
    yield from ((f"spec.dns.{field}", message) for field, message in node_cache.mistakes(spec.dns))


def _is_range(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return "/" in text


def problems(cluster: Cluster, memo: Memo | None = None, facts: LocalFacts = NOWHERE) -> tuple[Problem, ...]:
    """What in the cluster's objects can't be honoured; each such thing is treated as absent. `memo` as for view();
    what becomes of Services also depends on the node."""
    memo = {} if memo is None else memo
    nodes = recall(memo, "problems", (cluster.nodes, cluster.network), lambda: tuple(_problems(cluster, memo)))
    services = service_problems(cluster, memo, _own(cluster, facts, memo))
    return recall(
        memo, "all problems", (nodes, *services), lambda: (*nodes, *(each for some in services for each in some))
    )


def service_problems(cluster: Cluster, memo: Memo, own: Words) -> tuple[tuple[Problem, ...], ...]:
    """What of Services and ServiceRoutes can't be honoured, by source; `own` are addresses at which node ports are."""
    config, services, routes = cluster.network, cluster.services, cluster.serviceroutes
    if config is None or config.spec.proxy.mode == "none":
        return ()
    families = recall(memo, "families", (config,), lambda: frozenset(map(is_v6, config.spec.pod_cidrs)))
    mode = config.spec.proxy.mode
    wrong = each(
        memo,
        "service faults",
        (families, mode),
        (services,),
        lambda key: tuple(faults.of_service(services[key], families, mode)),
        lambda key: key,
    )
    without = claims.lost(memo, services, own)
    names = recall(memo, "service names", (services,), lambda: frozenset(services)) if routes else frozenset()
    return (
        recall(memo, "faulty", (wrong,), lambda: tuple(problem for some in wrong.values() for problem in some)),
        recall(memo, "losers", (without,), lambda: tuple(claims.problems(without))),
        recall(
            memo, "route faults", (routes, names, config), lambda: tuple(faults.of_routes(routes.values(), names, mode))
        ),
    )


def _problems(cluster: Cluster, memo: Memo) -> Iterator[Problem]:
    config = cluster.network
    inside: list[Network] = []
    if config is not None:
        found = tuple(mistakes(config.spec))
        for field, message in found:
            yield Problem(f"NetworkConfig/{NETWORK_NAME}", "InvalidNetworkConfig", f"{field}: {message}", field)
        yield from faults.of_mode(config.spec, MODES)
        yield from node_cache.problems(config.spec)
        inside = [] if found else [ip_network(cidr) for cidr in config.spec.pod_cidrs]
    infos = []
    for name, node in _oldest_first(cluster):
        yield from recall(memo, ("faults", name), (node, config), lambda node=node: tuple(_faults(node, inside)))  # type: ignore[misc]
        infos.append(_info(memo, name, node))
    forget(memo, "faults", {("faults", name) for _, name in cluster.nodes})
    yield from recall(memo, "shared", tuple(infos), lambda: (*_overlaps(infos), *_duplicates(infos)))


def _faults(node: Node, inside: Iterable[Network]) -> Iterator[Problem]:
    name, addresses, ranges = f"Node/{node.metadata.name}", dict(addresses_of(node)), dict(ranges_of(node))
    if not addresses:
        yield Problem(name, "NoInternalIP", "the node has no InternalIP; its kubelet must report one")
    if not ranges:
        yield Problem(name, "NoPodCIDR", "the node has no podCIDR; is a node IPAM controller running?")
    for field, text in addresses.items():
        if usable_address(text) is None:
            yield Problem(name, "InvalidAddress", f"{text!r} is no address that other nodes can reach", field)
    for field, text in ranges.items():
        if usable_range(text) is None:
            yield Problem(name, "InvalidPodCIDR", f"{text!r} is no range for pods", field)
        elif inside and _apart(text, inside):
            message = (
                f"podCIDR {text} is in no range of NetworkConfig/{NETWORK_NAME}; add one, or pods are masqueraded there"
            )
            yield Problem(name, "PodCIDROutside", message, field)


def _overlaps(infos: Iterable[NodeInfo]) -> Iterator[Problem]:
    """Two ranges are nested or apart: so the widest one before in order is the only one to compare with.

    Of two that are equal the first in `infos` has it.
    """
    ranges = ((ip_network(cidr), info.name) for info in infos for cidr in info.pod_cidrs)
    widest: tuple[Network, str] | None = None
    for network, name in sorted(ranges, key=lambda entry: (entry[0].version, entry[0])):
        if widest is None or widest[0].version != network.version or not widest[0].overlaps(network):
            widest = network, name
            continue
        message = f"podCIDR {network} overlaps {widest[0]} of node {widest[1]}"
        yield Problem(f"Node/{name}", "PodCIDROverlap", message, "spec.podCIDRs")


def _duplicates(infos: Iterable[NodeInfo]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for info in infos:
        for address in info.addresses:
            owner = owners.setdefault(address, info.name)
            if owner != info.name:
                message = f"address {address} is that of node {owner} too"
                yield Problem(f"Node/{info.name}", "DuplicateAddress", message, "status.addresses")


def _one_per_family(values: Iterable[str]) -> tuple[str, ...]:
    first: dict[bool, str] = {}
    for value in values:
        first.setdefault(is_v6(value), value)
    return tuple(first.values())


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))
