"""What a controller can ask for. An action says what shall be; doing it twice is harmless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from podnet.objects.kinds import Kind
from podnet.objects.meta import Object


class Create(msgspec.Struct, frozen=True):
    """A new object; nothing happens when there is one of its name."""

    kind: Kind
    namespace: str
    document: Mapping[str, Any]


class Replace(msgspec.Struct, frozen=True):
    """Make an object what `document` says; nothing happens when its resourceVersion is no longer the document's."""

    kind: Kind
    namespace: str
    name: str
    document: Mapping[str, Any]


class Patch(msgspec.Struct, frozen=True):
    """Merge `document` into an object or its status; conditions merge by their type."""

    kind: Kind
    namespace: str
    name: str
    document: Mapping[str, Any]
    subresource: str = ""


class Delete(msgspec.Struct, frozen=True):
    """Delete this very object; `grace` in seconds, None: as the object says."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    grace: int | None = None


class Bind(msgspec.Struct, frozen=True):
    """Give a Pod to a node."""

    namespace: str
    name: str
    node: str


class Finalize(msgspec.Struct, frozen=True):
    """The namespace is empty: let it go."""

    name: str


class Report(msgspec.Struct, frozen=True):
    """Tell people, as an Event about `about`; the same report is told once."""

    kind: Kind
    about: Object
    reason: str
    message: str
    type: str = "Warning"


Action = Create | Replace | Patch | Delete | Bind | Finalize | Report
