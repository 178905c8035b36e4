"""What every proxy mode is computed from: one port of one Service in one IP family, as this node sees it.

The endpoints are chosen already, for clients inside the cluster and for those outside; a mode only renders them. The
order of endpoints is that of their addresses, so equal inputs give equal values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from podnet.network.value import Value

Scope = Literal["cluster", "external", "balancer", "node"]


class Place(Value, frozen=True):
    """Where this node is: what the choice of endpoints depends on. `zone` is "" when unknown."""

    node: str
    zone: str = ""


class Endpoint(Value, frozen=True):
    """One address and port that a Service leads to; `local`: on this node; `weight`: its share beside the others'."""

    address: str
    port: int
    local: bool = False
    weight: int = 1


class Segment(Value, frozen=True):
    """Clients of these CIDRs have endpoints of their own (ServiceRoute); the fields are those of ServicePort."""

    sources: tuple[str, ...]
    internal: tuple[Endpoint, ...] = ()
    external: tuple[Endpoint, ...] = ()
    cluster: tuple[Endpoint, ...] = ()


class Frontend(Value, frozen=True):
    """One address and port at which clients meet a Service; "" stands for any address of the node.

    `scope` says what kind of address it is: the cluster's, an externalIP, a load balancer's, or a node port.
    """

    scope: Scope
    address: str
    port: int


class ServicePort(Value, frozen=True):
    """One port of one Service in one family.

    protocol         tcp, udp or sctp
    affinity         seconds a client stays with its endpoint; 0: not at all
    affinity_of      what it is that a client stays with: this port (default), or the whole Service
    internal_local   internalTrafficPolicy Local; external_local likewise
    source_ranges    CIDRs of this family that may use the load balancer's addresses; None: everybody
    internal         endpoints for clients of the cluster address
    external         endpoints for clients outside, at external addresses and node ports
    cluster          endpoints under policy Cluster: for clients inside that use an external address
    segments         clients that have endpoints of their own; all others have those above
    algorithm        which endpoint the next connection gets (proxy/algorithms.py)
    retry            a connection that is refused or not answered goes to another endpoint
    anywhere         whether the Service has an endpoint at all, which tells "refused" from "not here"
    """

    namespace: str
    service: str
    name: str
    protocol: str
    v6: bool
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    affinity: int = 0
    affinity_of: str = ""
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0
    internal: tuple[Endpoint, ...] = ()
    external: tuple[Endpoint, ...] = ()
    cluster: tuple[Endpoint, ...] = ()
    segments: tuple[Segment, ...] = ()
    algorithm: str = "random"
    retry: bool = False
    anywhere: bool = False

    @property
    def label(self) -> str:
        """namespace/service:port, as kube-proxy prints it; without the colon for the one port that has no name."""
        return f"{self.namespace}/{self.service}" + (f":{self.name}" if self.name else "")

    @property
    def frontends(self) -> Iterator[Frontend]:
        """Every address and port that leads here."""
        yield Frontend("cluster", self.cluster_ip, self.port)
        yield from (Frontend("external", address, self.port) for address in self.external_ips)
        yield from (Frontend("balancer", address, self.port) for address in self.balancer_ips)
        if self.node_port:
            yield Frontend("node", "", self.node_port)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that some client may reach."""
        own = {*self.internal, *self.external, *self.cluster}
        for segment in self.segments:
            own |= {*segment.internal, *segment.external, *segment.cluster}
        return tuple(sorted(own, key=order))


def order(endpoint: Endpoint) -> tuple[str, int]:
    """By address and port: any fixed order will do."""
    return (endpoint.address, endpoint.port)
