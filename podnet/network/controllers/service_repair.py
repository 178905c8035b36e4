"""Looking after what was given out: Services whose addresses or ports are outside the ranges, given twice, or unknown
to the ledger. Nothing is taken away from anybody; people are told, and have to make the Service anew.

Source: k8s.io/kubernetes pkg/registry/core/service/{ipallocator,portallocator}/controller/repair.go, with its words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from podnet.network.controllers import node_ports, service_ips
from podnet.network.controllers.actions import Report
from podnet.network.controllers.node_ports import PortRange
from podnet.network.controllers.service_ips import Range, Token
from podnet.objects.kinds import SERVICES
from podnet.objects.services import Service

Unknown = Mapping[tuple[str, str], AbstractSet[Token]]
AGAIN = "please recreate service"


def check(services: Iterable[Service], ranges: Sequence[Range], ports: PortRange, unknown: Unknown) -> Iterator[Report]:
    """What to tell. `unknown`, by namespace and name: what the ledger had to learn. Of two, the younger is blamed."""
    seen: set[Token] = set()
    for service in sorted(services, key=lambda each: (each.metadata.creation_timestamp or "", each.key)):
        spec = msgspec.to_builtins(service.spec)
        learnt = unknown.get(service.key, frozenset())
        for token in dict.fromkeys(service_ips.tokens(spec)):
            yield from _report(service, _address(token, ranges, token in seen, token in learnt))
            seen.add(token)
        for token in dict.fromkeys(node_ports.tokens(spec)):
            yield from _report(service, _port(token.number, ports, token in seen, token in learnt))
            seen.add(token)
        for text in _odd(service):
            yield from _report(service, ("ClusterIPNotValid", f"Cluster IP {text} is not a valid IP; {AGAIN}"))


def _report(service: Service, finding: tuple[str, str] | None) -> Iterator[Report]:
    if finding is not None:
        yield Report(SERVICES, service, *finding)


def _odd(service: Service) -> Iterator[str]:
    for text in service.spec.cluster_ips:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            if text != "None":
                yield text


def _address(token: Token, ranges: Sequence[Range], seen: bool, learnt: bool) -> tuple[str, str] | None:
    shown = f"Cluster IP [{token.kind}]:{_text(token)}"
    fitting = [each for each in ranges if each.family == token.kind]
    if not fitting:
        why = f"is of an IP family that is not configured on this cluster; {AGAIN}"
        return "ClusterIPOutOfRange", f"{shown} {why}"
    if not fitting[0].has(token):
        return "ClusterIPOutOfRange", f"{shown} is not within the service CIDR {fitting[0].network}; {AGAIN}"
    if seen:
        return "ClusterIPAlreadyAllocated", f"{shown} was assigned to multiple services; {AGAIN}"
    return ("ClusterIPNotAllocated", f"{shown} is not allocated; repairing") if learnt else None


def _text(token: Token) -> str:
    kind = ipaddress.IPv4Address if token.kind == "IPv4" else ipaddress.IPv6Address
    return str(kind(token.number))


def _port(number: int, ports: PortRange, seen: bool, learnt: bool) -> tuple[str, str] | None:
    if not ports.low <= number <= ports.high:
        return "PortOutOfRange", f"Port {number} is not within the port range {ports}; {AGAIN}"
    if seen:
        return "PortAlreadyAllocated", f"Port {number} was assigned to multiple services; {AGAIN}"
    return ("PortNotAllocated", f"Port {number} is not allocated; repairing") if learnt else None
