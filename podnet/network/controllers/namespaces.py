"""The end of a namespace: delete what is in it, wait for what goes gracefully, then let it go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from podnet.network.controllers.actions import Action, Delete, Finalize
from podnet.objects.core import Namespace
from podnet.objects.kinds import Kind


class Content(msgspec.Struct, frozen=True):
    """One object in a namespace; `leaving`: its deletion has begun."""

    kind: Kind
    name: str
    uid: str
    leaving: bool = False


def drain(namespace: Namespace, contents: Sequence[Content]) -> Iterator[Action]:
    """What to do about one namespace; nothing while it is not being deleted."""
    name = namespace.metadata.name
    if namespace.metadata.deletion_timestamp is None:
        return
    for content in contents:
        if not content.leaving:
            yield Delete(content.kind, name, content.name, content.uid)
    if not contents:
        yield Finalize(name)
