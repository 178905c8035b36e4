"""What holds for podnet's own NetworkConfig and ServiceRoute. A wrong configuration would take the whole cluster's
network with it: refuse early.

Every message says what to write instead. A backend's own options are judged by the backend.
"""

from __future__ import annotations

from itertools import product

from podnet.apiserver.status import Cause
from podnet.apiserver.validation import rules
from podnet.apiserver.validation.rules import Causes, Network, unsupported, wrong
from podnet.network import backends
from podnet.network.dns import node_cache
from podnet.network.proxy import splitting
from podnet.objects.network import NETWORK_NAME, PRIMARY, NetworkConfig, NodeMask, ProxySpec, ServiceRoute

ATTACHMENTS = ("bridge", "ptp")
PROXY_MODES = ("nftables", "iptables", "userspace", "ipvs", "none")
MTU = (576, 65535)
NODE_BITS = 16  # at most 2^16 nodes' ranges in one cluster range, as upstream's allocator
SMALLEST = {4: 30, 6: 126}  # a range of four addresses: network, gateway, one pod, broadcast
LARGEST = {4: 8, 6: 16}


def network_name(field: str, value: str) -> Causes:
    """There is one configuration for the whole cluster, and its name is fixed."""
    if value != NETWORK_NAME:
        yield wrong(field, value, f'must be "{NETWORK_NAME}": one configuration serves the whole cluster')


def network_config(new: NetworkConfig) -> Causes:
    """The whole configuration."""
    spec = new.spec
    networks, causes = rules.cidrs("spec.podCIDRs", spec.pod_cidrs)
    yield from causes
    if not spec.pod_cidrs:
        yield rules.required("spec.podCIDRs", "at least one range, such as 10.244.0.0/16")
    for value, network in ((str(network), network) for network in networks):
        field = f"spec.podCIDRs[{spec.pod_cidrs.index(value)}]"
        yield from _usable(field, network)
        yield from _node_mask(network, spec.node_mask)
    if spec.attachment not in ATTACHMENTS:
        yield unsupported("spec.attachment", spec.attachment, ATTACHMENTS)
    if spec.mtu and not MTU[0] <= spec.mtu <= MTU[1]:
        yield wrong("spec.mtu", spec.mtu, f"must be 0 (derived) or between {MTU[0]} and {MTU[1]}, inclusive")
    if any(network.version == 6 for network in networks) and 0 < spec.mtu < 1280:
        yield wrong("spec.mtu", spec.mtu, "must be 0 (derived) or at least 1280, the least that IPv6 works with")
    yield from _proxy(spec.proxy, networks)
    for field, message in node_cache.mistakes(spec.dns):
        yield Cause("FieldValueInvalid", f"spec.dns.{field}", f"Invalid value: {message}")
    if spec.backend.get("type", "vxlan") not in backends.BACKENDS:
        yield unsupported("spec.backend.type", spec.backend["type"], backends.BACKENDS)
        return
    for field, message in backends.validate(spec.backend):
        yield wrong(f"spec.backend.{field}", spec.backend.get(field, ""), message)


def service_route(new: ServiceRoute) -> Causes:
    """A whole route; what makes one unusable is said where routes are read (network/proxy/splitting.py)."""
    for field, message in splitting.mistakes(new.spec):
        yield Cause("FieldValueInvalid", field, f"Invalid value: {message}")
    lists = [(f"spec.segments[{n}].backends", segment.backends) for n, segment in enumerate(new.spec.segments)]
    for field, listed in (*lists, ("spec.default", new.spec.default)):
        for number, backend in enumerate(listed):
            yield from rules.labels(f"{field}[{number}].selector", backend.selector)


def _proxy(spec: ProxySpec, pods: list[Network]) -> Causes:
    if spec.mode not in PROXY_MODES:
        yield unsupported("spec.proxy.mode", spec.mode, PROXY_MODES)
    for index, value in enumerate(spec.node_port_addresses):
        if value != PRIMARY:
            yield from rules.cidr(f"spec.proxy.nodePortAddresses[{index}]", value)
    networks, causes = rules.cidrs("spec.proxy.serviceCIDRs", spec.service_cidrs)
    yield from causes
    for network, other in product(networks, pods):
        if network.overlaps(other):
            field = f"spec.proxy.serviceCIDRs[{spec.service_cidrs.index(str(network))}]"
            yield wrong(field, str(network), f"overlaps the pods' range {other}: give Services a range of their own")


def _usable(field: str, network: Network) -> Causes:
    special = network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified
    if special:
        yield wrong(field, str(network), "must not be loopback, link-local, multicast or unspecified")
    if network.prefixlen < LARGEST[network.version]:
        yield wrong(field, str(network), f"is too large: the prefix must be at least /{LARGEST[network.version]}")


def _node_mask(network: Network, masks: NodeMask) -> Causes:
    family = f"ipv{network.version}"
    mask = masks.ipv4 if network.version == 4 else masks.ipv6
    field = f"spec.nodeMask.{family}"
    if mask < network.prefixlen:
        yield wrong(
            field, mask, f"must be at least {network.prefixlen}: {network} is too small for even one node's /{mask}"
        )
    elif mask > SMALLEST[network.version]:
        yield wrong(field, mask, f"must be at most {SMALLEST[network.version]}: a node needs room for at least one pod")
    elif mask - network.prefixlen > NODE_BITS:
        yield wrong(
            field,
            mask,
            f"must be at most {network.prefixlen + NODE_BITS}: more than 2^{NODE_BITS} ranges are never needed",
        )
