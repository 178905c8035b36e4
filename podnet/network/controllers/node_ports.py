"""The node ports of a Service: one number for each of its ports, the same on every node, and one for health checks.

A number belongs to one Service, which may use it once per protocol: TCP and UDP of one port share theirs when the
Service is created, as DNS wants it.
Source: k8s.io/kubernetes pkg/registry/core/service/storage/alloc.go (initNodePorts, updateNodePorts), KEP-3668.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from podnet.network.controllers.bands import Dice, choose, static_band
from podnet.network.controllers.service_fields import Spec, checked, needs_node_ports, node_ports, type_of
from podnet.network.controllers.service_ips import Refusal, Taken, Token

FULL = "range is full"


class PortRange(msgspec.Struct, frozen=True):
    """The numbers that can be given out, both ends included."""

    low: int = 30000
    high: int = 32767

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """From `30000-32767`; raises ValueError."""
        low, _, high = text.partition("-")
        if not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 65536):
            raise ValueError(f"{text!r} must be LOW-HIGH with ports from 1 to 65535")
        return cls(int(low), int(high))

    @property
    def size(self) -> int:
        """How many there are."""
        return self.high - self.low + 1

    @property
    def static(self) -> int:
        """How many of them are kept for wishes."""
        return static_band(self.size, 32, 128)

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


def port_token(number: int) -> Token:
    """What stands for a node port."""
    return Token("port", number)


def tokens(spec: Mapping[str, Any]) -> Iterator[Token]:
    """The node ports that a Service has; what an ExternalName says is not given out."""
    if needs_node_ports(type_of(spec)):
        yield from map(port_token, node_ports(spec))
    if spec.get("healthCheckNodePort"):
        yield port_token(spec["healthCheckNodePort"])


class Numbers(msgspec.Struct):
    """Numbers given to one Service in one go: those of others are `taken`, those it had before are its own."""

    range: PortRange
    taken: Taken
    dice: Dice
    mine: set[int]
    given: set[int] = msgspec.field(default_factory=set)

    def reserve(self, number: int) -> str:
        """Take this very number; why not, or ""."""
        if number not in self.mine:
            if not self.range.low <= number <= self.range.high:
                return f"provided port is not in the valid range. The range of valid ports is {self.range}"
            if self._used(number):
                return "provided port is already allocated"
        self.given.add(number)
        return ""

    def any(self) -> int:
        """Take any number; 0 when none is left."""
        low = self.range.low
        offset = choose(self.range.size, self.range.static, lambda offset: self._used(low + offset), self.dice)
        if offset is None:
            return 0
        self.given.add(low + offset)
        return low + offset

    def _used(self, number: int) -> bool:
        return number in self.given or number in self.mine or self.taken(port_token(number))


def allocate(new: Spec, old: Spec | None, of: PortRange, taken: Taken, dice: Dice) -> list[Refusal]:
    """Give `new` what it lacks and see to what it asks for."""
    numbers = Numbers(of, taken, dice, {token.number for token in tokens(old)} if old is not None else set())
    refusals = list(_ports(new, old is None, numbers)) if needs_node_ports(type_of(new)) else []
    if not refusals and checked(new):
        refusals = list(_health_check(new, numbers))
    return refusals


def _ports(new: Spec, share: bool, numbers: Numbers) -> Iterator[Refusal]:
    """Wishes first: what is chosen freely keeps out of their way."""
    ports: list[Spec] = new.get("ports", [])
    for index, port in enumerate(ports):
        number = port.get("nodePort", 0)
        if number and number not in numbers.given and (why := numbers.reserve(number)):
            yield Refusal(why, f"spec.ports[{index}].nodePort", number)
            return
    if type_of(new) == "LoadBalancer" and new.get("allocateLoadBalancerNodePorts") is False:
        return
    known = {port["port"]: port["nodePort"] for port in ports if port.get("nodePort")} if share else {}
    for port in ports:
        if not port.get("nodePort"):
            port["nodePort"] = known.get(port["port"]) or numbers.any()
        if not port["nodePort"]:
            yield Refusal(f"failed to allocate a nodePort: {FULL}")
            return
        if share:
            known.setdefault(port["port"], port["nodePort"])


def _health_check(new: Spec, numbers: Numbers) -> Iterator[Refusal]:
    wish = new.get("healthCheckNodePort")
    if not wish:
        new["healthCheckNodePort"] = numbers.any()
        if not new["healthCheckNodePort"]:
            yield Refusal(f"failed to allocate a HealthCheck NodePort: {FULL}")
    elif wish in numbers.given:
        yield _unhealthy(wish, "provided port is already allocated")
    elif why := numbers.reserve(wish):
        yield _unhealthy(wish, why)


def _unhealthy(wish: int, why: str) -> Refusal:
    return Refusal(f"failed to allocate requested HealthCheck NodePort {wish}: {why}")
