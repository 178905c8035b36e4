"""Writing EndpointSlices: what the controllers that fill them have in common.

A controller makes `Draft`s: each is a slice that exists, or a new one, with the endpoints it shall have. `settle` turns
them into as few writes as will do: a slice that has become empty is written over with one that is needed, rather than
one deleted and another created, and a draft that did not change costs nothing.
Source: k8s.io/endpointslice reconciler.go (finalize), utils.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import count
from typing import Any

import msgspec
from msgspec.structs import replace

from podnet.network.controllers.actions import Action, Create, Delete, Replace
from podnet.objects.cluster import Key
from podnet.objects.kinds import ENDPOINTSLICES, Kind
from podnet.objects.meta import Object, ObjectMeta, OwnerReference
from podnet.objects.services import CHANGE_TIME, EndpointSlice, SliceEndpoint, SlicePort

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_NAME_LENGTH = 253

Ports = tuple[SlicePort, ...]
Identity = tuple[tuple[str, ...], str | None, str | None]
"""What makes two endpoints the same one: addresses, hostname, name of the pod."""
Dress = Callable[[ObjectMeta], ObjectMeta]
"""Gives a slice's metadata the labels, annotations and owner it shall have."""


class Draft(msgspec.Struct):
    """A slice as it shall be; `old` is what is stored, None for a new one. Without endpoints an old one goes."""

    family: str
    ports: Ports
    endpoints: list[SliceEndpoint] = []
    old: EndpointSlice | None = None
    changed: bool = True
    empty: bool = False  # stays, although it has no endpoints

    @property
    def needless(self) -> bool:
        """Whether nothing is left in it."""
        return not self.endpoints and not self.empty


def order(ports: Iterable[SlicePort]) -> Ports:
    """Ports in the order in which sets of them are compared."""
    return tuple(sorted(ports, key=lambda port: (port.name, port.protocol, port.port or 0, port.app_protocol or "")))


def identity(endpoint: SliceEndpoint) -> Identity:
    """Which endpoint this is."""
    return endpoint.addresses, endpoint.hostname, endpoint.target_ref.name if endpoint.target_ref else None


def owner(kind: Kind, of: Object) -> OwnerReference:
    """The reference that lets an object go with its owner."""
    meta = of.metadata
    return OwnerReference(kind.api_version, kind.kind, meta.name, meta.uid, controller=True, block_owner_deletion=True)


def controlled_by(slice_: EndpointSlice, uid: str) -> bool:
    """Whether the slice was made for this very object."""
    return any(reference.controller and reference.uid == uid for reference in slice_.metadata.owner_references)


def delete(slice_: EndpointSlice) -> Delete:
    """The end of one slice."""
    return Delete(ENDPOINTSLICES, *slice_.key, slice_.metadata.uid)


def settle(drafts: Iterable[Draft], key: Key, dress: Dress, taken: Container[Key], grow: bool) -> Iterator[Action]:
    """The writes for the drafts of one family of the Service (or Endpoints) `key`; new slices only while it may `grow`.

    `taken` holds the keys of all slices, so that a new one gets a name of its own.
    """
    drafts = list(drafts)
    spare = [draft.old for draft in drafts if draft.old is not None and draft.needless]
    new = [draft for draft in drafts if draft.old is None]
    for draft in new[: len(spare)]:
        draft.old = spare.pop(0)
    names = _names(key, drafts[0].family if drafts else "", taken)
    for draft in drafts:
        if draft.needless or not draft.changed:
            continue
        if draft.old is not None:
            yield Replace(ENDPOINTSLICES, *draft.old.key, _document(draft, dress(draft.old.metadata)))
        elif grow:
            meta = ObjectMeta(name=next(names), namespace=key[0])
            yield Create(ENDPOINTSLICES, key[0], _document(draft, dress(meta)))
    yield from map(delete, spare)


def _names(key: Key, family: str, taken: Container[Key]) -> Iterator[str]:
    """Names for new slices, always the same ones, so that creating one twice creates one."""
    for number in count():
        digest = hashlib.sha256(f"{key[0]}/{key[1]}/{family}/{number}".encode()).digest()
        suffix = "".join(_SUFFIX[byte % len(_SUFFIX)] for byte in digest[:5])
        name = f"{key[1][: _NAME_LENGTH - 6]}-{suffix}"
        if (key[0], name) not in taken:
            yield name


def _document(draft: Draft, meta: ObjectMeta) -> dict[str, Any]:
    made = EndpointSlice(meta, draft.family, tuple(draft.endpoints), draft.ports)
    return {"endpoints": [], "ports": [], **plain(made)}


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """The JSON document that a value is."""
    return msgspec.json.decode(msgspec.json.encode(value))  # type: ignore[no-any-return]


def with_change_time(meta: ObjectMeta, time: str | None) -> ObjectMeta:
    """The metadata with the time of the change that is being written; without one if it is not known."""
    others = {name: value for name, value in meta.annotations.items() if name != CHANGE_TIME}
    return replace(meta, annotations={**others, CHANGE_TIME: time} if time else others)
