"""The common shape of everything podnet puts into a kernel.

A resource is a frozen value with a `key` that says which kernel object it is. Two states are compared key by key, so
the key holds what the kernel itself identifies the object by, and nothing else. `netns` is "" for the node's own
network namespace and a path for a pod's. A field that is None is not managed: it is neither compared nor set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

ROUTE_PROTOCOL = 112
"""The mark of every route that podnet makes (rtnetlink rtm_protocol; unassigned in iproute2's rt_protos)."""

LINK_PREFIX = "podnet"
"""The mark of every link that podnet makes in a node's namespace."""

TABLE_PREFIX = "podnet-"
"""The mark of every nft table that podnet makes."""

Key = tuple[str, ...]


class Resource(msgspec.Struct, frozen=True, gc=False):
    """One kernel object, or one attribute group of it.

    `created_with` names fields used only when the object is made: they can't be read back, so they are not compared.
    `fixed` names fields the kernel can't change on a living object: a difference there means delete and add.
    """

    created_with: ClassVar[frozenset[str]] = frozenset()
    fixed: ClassVar[frozenset[str]] = frozenset()

    @property
    def key(self) -> Key:
        """(kind, netns, identity...); equal keys mean the same kernel object."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """The first part of the key; ORDER in state/plan.py ranks kinds."""
        return self.key[0]

    @property
    def on(self) -> tuple[str, str] | None:
        """(netns, link) without which this resource can't exist; it vanishes together with that link."""
        return None

    def changes(self, actual: Resource) -> tuple[str, ...]:
        """Names of managed fields in which `actual` differs from this, the desired value."""
        if type(self) is not type(actual):
            return ("type",)
        return tuple(
            name
            for name in self.__struct_fields__
            if name not in self.created_with
            and (wanted := getattr(self, name)) is not None
            and wanted != getattr(actual, name)
        )

    def replaces(self, actual: Resource) -> bool:
        """Whether `actual` has to be deleted before this can be made in its place."""
        return type(self) is not type(actual) or not self.fixed.isdisjoint(self.changes(actual))


NodeState = Mapping[Key, Resource]
"""What one node's kernel holds, or should hold, of podnet's."""


class Conflict(Exception):
    """Two features want the same kernel object: a mistake in podnet itself."""


def state(resources: Iterator[Resource]) -> dict[Key, Resource]:
    """Collect resources into a NodeState; raises Conflict when two differ under one key."""
    result: dict[Key, Resource] = {}
    for resource in resources:
        other = result.setdefault(resource.key, resource)
        if other != resource:
            raise Conflict(f"{other} and {resource} are the same kernel object")
    return result
