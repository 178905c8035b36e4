"""The base of the plain values of this layer."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Immutable, compared by what is in it."""
