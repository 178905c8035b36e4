"""The cluster addresses of a Service: which families it is of, and which address of each family's range it gets.

There is one range, or one of each family; the first is the cluster's own family. What the user left open is filled in
from the policy and the ranges, and written into the spec for everyone to see.
Source: k8s.io/kubernetes pkg/registry/core/service/storage/alloc.go (initIPFamilyFields, updateClusterIPs), KEP-563.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from podnet.network.controllers.bands import Dice, choose, static_band
from podnet.network.controllers.service_fields import Spec, type_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HOST_BITS = 20  # as upstream: a million addresses
OTHER = {"IPv4": "IPv6", "IPv6": "IPv4"}


class Token(NamedTuple):
    """One thing that one Service at a time can have: an address (kind IPv4, IPv6) or a node port (kind port)."""

    kind: str
    number: int


Taken = Callable[[Token], bool]


class Refusal(msgspec.Struct, frozen=True):
    """Why a wish can't be granted; without a `field` it is nobody's mistake, but there is nothing left."""

    why: str
    field: str = ""
    value: object = None


class Range(msgspec.Struct, frozen=True):
    """One range of cluster addresses, without its network and broadcast addresses."""

    network: Network

    @classmethod
    def parse(cls, text: str) -> Range:
        """From `10.96.0.0/16`; raises ValueError for what is no range or has too many or too few addresses."""
        network = ipaddress.ip_network(text)
        bits = network.max_prefixlen - network.prefixlen
        if not 2 <= bits <= HOST_BITS:
            longest, shortest = network.max_prefixlen - 2, network.max_prefixlen - HOST_BITS
            raise ValueError(f"the prefix of {text} must be from /{shortest} to /{longest}")
        return cls(network)

    @property
    def family(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self.network.version}"

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return self.network.num_addresses - (2 if self.network.version == 4 else 1)

    @property
    def static(self) -> int:
        """How many of them are kept for wishes."""
        return static_band(self.network.num_addresses, 16, 256)

    @property
    def first(self) -> str:
        """The address of the Service `kubernetes`."""
        return self.address(0)

    def address(self, offset: int) -> str:
        """The address at an offset, 0 being the first that can be given out."""
        return str(self.network[offset + 1])

    def token(self, offset: int) -> Token:
        """What stands for that address."""
        return Token(self.family, int(self.network.network_address) + 1 + offset)

    def has(self, token: Token) -> bool:
        """Whether an address is one of those that can be given out."""
        return token.kind == self.family and 0 <= token.number - self.token(0).number < self.size


def address_token(text: str) -> Token:
    """What stands for an address; raises ValueError."""
    parsed = ipaddress.ip_address(text)
    return Token(f"IPv{parsed.version}", int(parsed))


def tokens(spec: Mapping[str, Any]) -> Iterator[Token]:
    """The addresses that a Service has; what is no address is skipped."""
    if type_of(spec) == "ExternalName":
        return
    for text in spec.get("clusterIPs") or [spec.get("clusterIP", "")]:
        try:
            yield address_token(text)
        except ValueError:
            continue


def headless(spec: Mapping[str, Any]) -> bool:
    """Whether it has no address, on purpose."""
    return spec.get("clusterIP") == "None"


# Families ------------------------------------------------------------------------------------------------------------


def families(new: Spec, old: Spec | None, ranges: Sequence[Range]) -> list[Refusal]:
    """Fill in ipFamilyPolicy and ipFamilies; `new` has passed validation.service.cluster_ips where policy is given."""
    if type_of(new) == "ExternalName" or (old is not None and _settled(new, old)):
        return []
    policy = _policy(new, old)
    configured = [each.family for each in ranges]
    refusals = [*(_narrow(new, old, policy) if old is not None else ()), *_fitting(new, policy)]
    refusals += _infer(new, configured)
    if refusals:
        return refusals
    if not (headless(new) and not new.get("selector")):
        refusals = list(_possible(new, policy, configured))
        if refusals:
            return refusals
    else:
        configured = [configured[0], OTHER[configured[0]]]  # nobody has to give out addresses
    chosen = new.get("ipFamilies") or configured[:1]
    if policy != "SingleStack" and len(chosen) == 1 and len(configured) == 2:
        chosen = [*chosen, OTHER[chosen[0]]]
    new["ipFamilies"] = chosen
    return []


def _settled(new: Spec, old: Spec) -> bool:
    """A PreferDualStack Service does not change because the cluster has: somebody has to ask."""
    if type_of(new) != type_of(old) or new.get("ipFamilyPolicy") != "PreferDualStack" or not old.get("clusterIPs"):
        return False
    return all(new.get(name) == old.get(name) for name in ("ipFamilyPolicy", "clusterIPs", "ipFamilies"))


def _policy(new: Spec, old: Spec | None) -> str:
    if not new.get("ipFamilyPolicy"):
        bare = headless(new) and not new.get("selector")
        before = (old or {}).get("ipFamilyPolicy")
        new["ipFamilyPolicy"] = before or ("RequireDualStack" if bare else "SingleStack")
    return str(new["ipFamilyPolicy"])


def _narrow(new: Spec, old: Spec, policy: str) -> Iterator[Refusal]:
    """The second address goes when the policy says so, and only then."""
    for name, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        before, after = old.get(name, []), new.get(name, [])
        if policy == "SingleStack":
            if after == before and len(after) > 1:
                new[name] = after[:1]
        elif after and len(after) < len(before):
            yield Refusal(f"must be 'SingleStack' to release the secondary {what}", "spec.ipFamilyPolicy", policy)


def _fitting(new: Spec, policy: str) -> Iterator[Refusal]:
    for name, what in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
        if policy == "SingleStack" and len(new.get(name, ())) == 2:
            why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            yield Refusal(why, "spec.ipFamilyPolicy", policy)


def _infer(new: Spec, configured: Sequence[str]) -> Iterator[Refusal]:
    """The families of addresses that were asked for."""
    if headless(new):
        return
    shown = new.get("clusterIPs", [])
    for index, text in enumerate(shown):
        if index < len(new.get("ipFamilies", ())):
            continue
        family = address_token(text).kind
        if family in configured:
            new["ipFamilies"] = [*new.get("ipFamilies", ()), family]
        else:
            yield Refusal(f"{family} is not configured on this cluster", f"spec.clusterIPs[{index}]", shown)


def _possible(new: Spec, policy: str, configured: Sequence[str]) -> Iterator[Refusal]:
    if policy == "RequireDualStack" and len(configured) < 2:
        yield Refusal("this cluster is not configured for dual-stack services", "spec.ipFamilyPolicy", policy)
    for index, family in enumerate(new.get("ipFamilies", ())):
        if family not in configured:
            yield Refusal("not configured on this cluster", f"spec.ipFamilies[{index}]", family)


# Addresses -----------------------------------------------------------------------------------------------------------


def addresses(new: Spec, old: Spec | None, ranges: Sequence[Range], taken: Taken, dice: Dice) -> list[Refusal]:
    """Give every family of `new` its address: the one asked for, or any. Families are filled in."""
    if type_of(new) == "ExternalName" or headless(new) or (old is not None and headless(old)):
        return []
    given = list(new.get("clusterIPs") or ())
    mine = set(tokens(old)) if old is not None else set()
    by_family = {each.family: each for each in ranges}
    for index, family in enumerate(new.get("ipFamilies", ())):
        if family not in by_family:
            continue  # an address from when the cluster had this family
        wish = given[index] if index < len(given) else ""
        found = _address(by_family[family], wish, mine, taken, dice)
        if isinstance(found, Refusal):
            return [found if not found.field else Refusal(found.why, found.field, given)]
        given[index:] = [found, *given[index + 1 :]]
    if given:
        new["clusterIP"], new["clusterIPs"] = given[0], given
    return []


def _address(of: Range, wish: str, mine: set[Token], taken: Taken, dice: Dice) -> str | Refusal:
    if not wish:
        offset = choose(of.size, of.static, lambda offset: taken(of.token(offset)), dice)
        return Refusal("failed to allocate a serviceIP: range is full") if offset is None else of.address(offset)
    token = address_token(wish)
    if token in mine:
        return wish
    why = ""
    if not of.has(token):
        why = f"provided IP is not in the valid range. The range of valid IPs is {of.network}"
    elif taken(token):
        why = "provided IP is already allocated"
    return Refusal(f"failed to allocate IP {wish}: {why}", "spec.clusterIPs") if why else wish
