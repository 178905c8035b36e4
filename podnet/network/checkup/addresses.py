"""Ranges and addresses that must not overlap, within the cluster and with what is around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from podnet.network.checkup.finding import Finding, error, warning
from podnet.network.checkup.survey import Survey
from podnet.network.view import NodeInfo
from podnet.state.resource import LINK_PREFIX

Network = IPv4Network | IPv6Network


def overlaps(survey: Survey) -> Iterator[Finding]:
    """The pods' ranges against the nodes' own subnets, the Services' ranges, and routes of others."""
    pods = [ip_network(cidr) for cidr in survey.cluster.pod_cidrs or survey.agent.pod_cidrs]
    around = list(_around(survey))
    for what, network in around:
        for pod in pods:
            if _overlap(pod, network):
                why = "an address then means a pod and something else; one of the two can't be reached"
                fix = "choose spec.podCIDRs of the NetworkConfig apart from it, before there are pods"
                yield error(f"the pods' range {pod} overlaps {what} {network}", why, fix)
    subnets = {network for _, network in around}
    for route in survey.routes:
        network = ip_network(route.dst, strict=False)
        if network in subnets:  # said above; without its route the node would be cut off
            continue
        inside = [pod for pod in pods if not route.ours and _within(network, pod)]
        if inside and not route.dev.startswith(LINK_PREFIX):
            why = "it is more precise than ours, so packets to pods there leave through it"
            fix = f"ip route del {route.dst} dev {route.dev}, or choose another range for pods"
            yield error(f"the route {route.dst} dev {route.dev} lies in the pods' range {inside[0]}", why, fix)


def _around(survey: Survey) -> Iterator[tuple[str, Network]]:
    for cidr in survey.cluster.service_cidrs:
        yield "the Services' range", ip_network(cidr, strict=False)
    for link in survey.links:
        if not link.name.startswith(LINK_PREFIX):
            for address in link.addresses:
                network = ip_network(address, strict=False)
                if not network.is_loopback and not network.is_link_local:
                    yield f"the subnet on {link.name}", network


def resolvers(survey: Survey) -> Iterator[Finding]:
    """A name server inside the pods' range is not reached, unless it is a pod."""
    for cidr in map(ip_network, survey.cluster.pod_cidrs or survey.agent.pod_cidrs):
        for resolver in survey.resolvers:
            address = ip_address(resolver.partition("%")[0])
            if address.version == cidr.version and address in cidr:
                fix = "choose spec.podCIDRs of the NetworkConfig apart from it, or another name server"
                why = "packets to it go to a node that has no such pod"
                yield warning(f"the name server {resolver} lies in the pods' range {cidr}", why, fix)


def mistakes(surveys: Sequence[Survey]) -> Iterator[Finding]:
    """What network/view.py finds in the cluster's objects: missing, equal and overlapping addresses and ranges."""
    for what in dict.fromkeys(problem for survey in surveys for problem in survey.problems):
        why = "what is wrong is treated as absent; two nodes with one address or range get each other's packets"
        yield error(what, why, "correct the object; of two nodes that claim the same, delete and add the newer")


def strays(surveys: Sequence[Survey]) -> Iterator[Finding]:
    """Each node's range within the cluster's."""
    cluster = [ip_network(cidr) for survey in surveys for cidr in survey.cluster.pod_cidrs]
    for node in _nodes(surveys):
        for cidr in map(ip_network, node.pod_cidrs):
            if cluster and not any(_within(cidr, outer) for outer in cluster):
                why = "other nodes' pods reach its pods masqueraded, as if they were outside of the cluster"
                fix = "make spec.podCIDRs of the NetworkConfig the range that the nodes' ranges are cut from"
                yield warning(f"{cidr} of {node.name} lies outside of the pods' range", why, fix)


def _nodes(surveys: Sequence[Survey]) -> list[NodeInfo]:
    found = {node.name: node for survey in surveys for node in survey.cluster.nodes}
    return [found[name] for name in sorted(found)]


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
