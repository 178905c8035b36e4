"""Small files that outlive the process: written beside, then renamed into place.

They are about what the kernel holds, which a power failure takes along, so they need not survive one.
"""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec

T = TypeVar("T")


def load(path: str, shape: type[T]) -> T | None:
    """The content of a JSON file; None when it is missing or is not of that shape, as after a change of version."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=shape)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def store(path: str, content: object) -> None:
    """Put content into a JSON file, so that a reader sees the old or the new one. Each process writes beside it under a
    name of its own: `podnet clean --force` works beside an agent."""
    beside = f"{path}.{os.getpid()}.new"
    with open(beside, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
    os.replace(beside, path)
