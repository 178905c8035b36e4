"""The schemes for moving a packet between nodes, one file each and one line in BACKENDS.

A backend is a module with `Options` (what `spec.backend` may say; WIRE names the fields that both ends must agree on),
`overhead(options, v6)` in bytes and `connect(view)`. CLI, lab, bench and tests pick it up from the table.

A *scheme* is a backend with its wire options, spelt `vxlan` or `vxlan:port=4789`: what nodes tell each other that they
receive and send (see network/migration.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol, cast

import msgspec

from podnet.network.backends import host_gw, vxlan
from podnet.network.view import NodeView, Options
from podnet.state.resource import Resource

Setting = str | int | bool


class Backend(Protocol):
    """What a backend module offers."""

    Options: type[Options]

    def overhead(self, options: Any, v6: bool) -> int:
        """Bytes that the scheme takes from each packet between nodes of one family."""

    def connect(self, view: NodeView) -> Iterator[Resource]:
        """What this node's kernel needs to exchange packets with view.peers; with no peers: only to receive."""


BACKENDS: Mapping[str, Backend] = {"vxlan": cast(Backend, vxlan), "host-gw": cast(Backend, host_gw)}


def options(backend: Mapping[str, Setting]) -> Options:
    """The typed options of `spec.backend`; raises msgspec.ValidationError, or KeyError for an unknown type."""
    return msgspec.convert(dict(backend), BACKENDS[str(backend.get("type", "vxlan"))].Options)


def validate(backend: Mapping[str, Setting]) -> list[tuple[str, str]]:
    """(field, message) for each mistake in `spec.backend`; empty when it can be used."""
    kind = backend.get("type", "vxlan")
    if kind not in BACKENDS:
        return [("type", f"Unsupported value: {kind!r}: supported values: {', '.join(map(repr, sorted(BACKENDS)))}")]
    known = {field.encode_name for field in msgspec.structs.fields(BACKENDS[str(kind)].Options)}
    if unknown := sorted(set(backend) - known):
        return [(name, f"unknown option of backend {kind}") for name in unknown]
    try:
        options(backend)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        return [(path.rstrip("`").removeprefix("$."), message)]
    return []


def scheme(backend: Mapping[str, Setting]) -> str:
    """The name under which nodes agree on this backend and its wire options."""
    chosen = options(backend)
    fields = {field.name: field for field in msgspec.structs.fields(type(chosen))}
    different = (name for name in chosen.WIRE if getattr(chosen, name) != fields[name].default)
    return ":".join([chosen.type, *(f"{fields[name].encode_name}={getattr(chosen, name)}" for name in different)])


@lru_cache
def parse_scheme(name: str) -> Mapping[str, Setting] | None:
    """The `spec.backend` that `scheme` came from; None for what this version of podnet would not spell so."""
    kind, *words = name.split(":")
    if kind not in BACKENDS:
        return None
    backend: dict[str, str] = {"type": kind} | dict(word.partition("=")[::2] for word in words)
    try:
        parsed = msgspec.to_builtins(msgspec.convert(backend, BACKENDS[kind].Options, strict=False))
        return cast(Mapping[str, Setting], parsed) if scheme(parsed) == name else None
    except msgspec.ValidationError:
        return None
