"""JSON in, typed objects out. A document that does not fit becomes `InvalidObject`, which names the field.

Callers treat an invalid object as absent and report it (client/informer.py keeps the last good one), so one bad object
never blocks the others.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from podnet.objects.meta import Object

O = TypeVar("O", bound=Object)  # noqa: E741


class InvalidObject(ValueError):
    """A document that is not a valid object. `field` is a JSON path such as spec.podCIDRs[0], or ""."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


@cache
def _decoder(type_: type[Object]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


def _invalid(error: msgspec.ValidationError) -> InvalidObject:
    message, _, path = str(error).partition(" - at `")
    return InvalidObject(message, path[path.find("$") + 1 :].rstrip("`").removeprefix("."))


def decode(data: bytes | str, type_: type[O]) -> O:
    """Decode one JSON document; raises InvalidObject."""
    try:
        return _decoder(type_).decode(data)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidObject(f"not JSON: {error}") from None
    except RecursionError:
        raise InvalidObject("nested too deeply") from None


def convert(document: object, type_: type[O]) -> O:
    """Decode an already parsed document (dicts and lists); raises InvalidObject."""
    try:
        return msgspec.convert(document, type_)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


def encode(value: msgspec.Struct) -> bytes:
    """Canonical compact JSON of a struct, defaults left out."""
    return msgspec.json.encode(value)
