"""Addresses for Services of type LoadBalancer, from a small pool of the cluster's own.

A Service gets one address of each of its families for which there is a pool: the one it asks for in loadBalancerIP, or
the lowest free one. What it got it keeps while it may; who has what is read from the Services' statuses and nowhere
else. A Service that names another loadBalancerClass is none of our business. While one lacks an address, the condition
GIVEN in its status is False and says why. Announcing the addresses is another part.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from podnet.network.controllers.actions import Action, Patch, Report
from podnet.objects.core import Condition
from podnet.objects.kinds import SERVICES
from podnet.objects.services import Service

CLASS = "podnet.dev/pool"
"""The loadBalancerClass that asks for this pool by name; none at all asks for it too."""

FAILED = "SyncLoadBalancerFailed"
GIVEN = "podnet.dev/LoadBalancerReady"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Pool(msgspec.Struct, frozen=True):
    """Addresses from `low` to `high`, both included and of one family."""

    low: Address
    high: Address

    @classmethod
    def parse(cls, text: str) -> Pool:
        """From a CIDR (whole, but for IPv4's network and broadcast addresses) or A-B; raises ValueError."""
        if "-" in text:
            low, high = (ipaddress.ip_address(part.strip()) for part in text.split("-", 1))
        else:
            network = ipaddress.ip_network(text)
            inner = network.version == 4 and network.num_addresses > 2
            low, high = network[int(inner)], network[-1 - int(inner)]
        if low.version != high.version or int(low) > int(high):
            raise ValueError(f"{text} must run from a lower to a higher address of one family")
        return cls(low, high)

    @property
    def family(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self.low.version}"

    def has(self, address: Address) -> bool:
        """Whether it is one of these."""
        return address.version == self.low.version and int(self.low) <= int(address) <= int(self.high)

    def free(self, taken: set[Address]) -> Address | None:
        """The lowest that is not taken."""
        make = ipaddress.IPv4Address if self.low.version == 4 else ipaddress.IPv6Address
        numbers = range(int(self.low), int(self.high) + 1)
        return next((address for number in numbers if (address := make(number)) not in taken), None)


def assign(services: Iterable[Service], pools: Sequence[Pool]) -> Iterator[Action]:
    """A status for each Service that should have another one; a report for each that can't be served."""
    everyone = list(services)
    for service in everyone:
        if service.status.conditions and not (pools and _ours(service)):
            yield from _tell(service, ())
    mine = sorted(filter(_ours, everyone), key=lambda each: (each.metadata.creation_timestamp or "", each.key))
    if not mine or not pools:
        return
    taken = {address for service in everyone for address in _claimed(service)}
    kept: dict[tuple[str, str], list[Address]] = {}
    for service in mine:
        kept[service.key] = [each for each in _present(service) if _stays(service, each, pools) and each not in taken]
        taken.update(kept[service.key])
    for service in mine:
        yield from _serve(service, kept[service.key], pools, taken)


def _ours(service: Service) -> bool:
    return service.spec.type == "LoadBalancer" and service.spec.load_balancer_class in (None, CLASS)


def _claimed(service: Service) -> Iterator[Address]:
    """What can't be given: external addresses, and what another load balancer gave."""
    yield from _addresses(service.spec.external_ips)
    if not _ours(service):
        yield from _present(service)


def _present(service: Service) -> Iterator[Address]:
    return _addresses(item.ip for item in service.status.load_balancer.ingress)


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield ipaddress.ip_address(text)
        except ValueError:
            continue


def _stays(service: Service, address: Address, pools: Sequence[Pool]) -> bool:
    wish = next(_addresses([service.spec.load_balancer_ip]), None)
    if wish is not None and wish.version == address.version and wish != address:
        return False
    return f"IPv{address.version}" in service.spec.ip_families and any(pool.has(address) for pool in pools)


def _serve(service: Service, kept: list[Address], pools: Sequence[Pool], taken: set[Address]) -> Iterator[Action]:
    given, lacks = [], []
    families = service.spec.ip_families
    if not any(pool.family in families for pool in pools) and service.metadata.deletion_timestamp is None:
        lacks.append(f"no pool has addresses of {' or '.join(families)}; the pools are {_shown(pools)}")
    for family in families:
        of_family = [pool for pool in pools if pool.family == family]
        if not of_family:
            continue
        found = next((each for each in kept if f"IPv{each.version}" == family), None)
        if found is None and service.metadata.deletion_timestamp is None:
            found, why = _find(service.spec.load_balancer_ip, of_family, taken)
            lacks += [] if found else [why]
        if found is not None:
            taken.add(found)
            given.append({"ip": str(found), "ipMode": "VIP"})
    if [(item.ip, item.ip_mode) for item in service.status.load_balancer.ingress] != [tuple(i.values()) for i in given]:
        yield Patch(SERVICES, *service.key, {"status": {"loadBalancer": {"ingress": given}}}, "status")
    for why in lacks:
        yield Report(SERVICES, service, FAILED, f"Error syncing load balancer: {why}")
    yield from _tell(service, lacks)


def _tell(service: Service, lacks: Sequence[str]) -> Iterator[Action]:
    """Have the status say what is lacking, and nothing when nothing is."""
    before = next((each for each in service.status.conditions if each.type == GIVEN), None)
    wanted = (GIVEN, "False", FAILED, "; ".join(lacks)) if lacks else None
    if (before and (before.type, before.status, before.reason, before.message)) == wanted:
        return
    told = Condition(*wanted, before.last_transition_time if before else None) if wanted else None
    item = msgspec.to_builtins(told) if told else {"$patch": "delete", "type": GIVEN}
    yield Patch(SERVICES, *service.key, {"status": {"conditions": [item]}}, "status")


def _find(wish: str, pools: Sequence[Pool], taken: set[Address]) -> tuple[Address | None, str]:
    """(an address, or why there is none); a wish of the other family is none for this one."""
    wished = next(_addresses([wish]), None)
    if wish and wished is None:
        return None, f"loadBalancerIP {wish} is no IP address"
    if wished is not None and wished.version == pools[0].low.version:
        if not any(pool.has(wished) for pool in pools):
            return None, f"loadBalancerIP {wish} is in no pool; the pools are {_shown(pools)}"
        return (None, f"loadBalancerIP {wish} is taken") if wished in taken else (wished, "")
    found = next((free for pool in pools if (free := pool.free(taken)) is not None), None)
    return found, "" if found else f"no address is left in {_shown(pools)}"


def _shown(pools: Sequence[Pool]) -> str:
    return ", ".join(f"{pool.low}-{pool.high}" for pool in pools)
