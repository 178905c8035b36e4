"""The two languages of etcd: the JSON gateway of etcd 3, and the keys of etcd 2.

A key is a path in both. In etcd 3 it is only a name, so what is below one is a range of names; in etcd 2 it is a place
in a tree of directories, and taking away a directory is one event.
Sources: etcd.io/docs/v3.4/dev-guide/api_grpc_gateway, api/etcdserverpb/rpc.proto; etcd.io/docs/v2.3/api.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from urllib.parse import quote

import msgspec

from podnet.client.etcd import Change, Etcd, EtcdError, Held, Reply, decoded, excerpt
from podnet.errors import UserError

_URL = re.compile(r"https?://[^/\s,@]+/?")

OPERATIONS = 100
"""How many a transaction holds; etcd takes 128."""

# -- etcd 3


class _KeyValue(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes = b""


class _Header(msgspec.Struct, frozen=True):
    revision: int = 0


class _Range(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    kvs: tuple[_KeyValue, ...] = ()


class _Event(msgspec.Struct, frozen=True):
    kv: _KeyValue
    type: str = "PUT"


class _Events(msgspec.Struct, frozen=True):
    header: _Header = _Header()
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: tuple[_Event, ...] = ()


class _Refusal(msgspec.Struct, frozen=True):
    message: str = ""


class _Watched(msgspec.Struct, frozen=True):
    result: _Events = _Events()
    error: _Refusal | None = None


# Integers of 64 bits are strings in protobuf's JSON.
_RANGE = msgspec.json.Decoder(_Range, strict=False)
_WATCHED = msgspec.json.Decoder(_Watched, strict=False)


class Etcd3(Etcd):
    """etcd 3.4 and later."""

    async def read(self, root: str) -> Held:
        found = decoded(_RANGE, await self._post("kv/range", _below(root)))
        return Held(found.header.revision, {each.key.decode(): each.value.decode() for each in found.kvs})

    async def write(self, values: Mapping[str, str], gone: Collection[str] = (), trees: Iterable[str] = ()) -> int:
        steps: list[dict[str, object]]
        steps = [{"request_put": {"key": key.encode(), "value": value.encode()}} for key, value in values.items()]
        steps += [{"request_delete_range": {"key": key.encode()}} for key in gone]
        steps += [{"request_delete_range": _below(tree)} for tree in trees]
        revision = 0
        for at in range(0, len(steps), OPERATIONS):
            answer = await self._post("kv/txn", {"success": steps[at : at + OPERATIONS]})
            revision = decoded(_RANGE, answer).header.revision
        return revision

    async def watch(self, root: str, after: int) -> AsyncGenerator[tuple[int, tuple[Change, ...]]]:
        wanted = {"create_request": {**_below(root), "start_revision": after + 1}}
        async with aclosing(self._stream("POST", "/v3/watch", wanted)) as pieces:
            async for line in _lines(pieces):
                told = decoded(_WATCHED, line)
                if told.error or told.result.canceled:
                    raise EtcdError(_end_of_watch(told))
                if told.result.created and told.result.header.revision < after:
                    raise EtcdError(f"etcd is at revision {told.result.header.revision}, which is before {after}")
                yield told.result.header.revision, tuple(map(_change3, told.result.events))
        raise EtcdError("etcd ended the watch")

    async def _post(self, path: str, body: object) -> bytes:
        reply = await self._ask("POST", f"/v3/{path}", body)
        if reply.status == 404:
            raise UserError(
                f"{self._endpoints[0]} does not serve etcd's /v3: give etcd 3.4 or later, or say --etcd-api 2"
            )
        if reply.status != 200:
            raise EtcdError(f"{self._endpoints[0]} says {reply.status} {excerpt(reply.body)}")
        return reply.body


def _below(root: str) -> dict[str, bytes]:
    """The keys that begin with `root/`; `0` is what comes after `/`."""
    return {"key": f"{root}/".encode(), "range_end": f"{root}0".encode()}


async def _lines(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        for line in lines:
            if line:
                yield line


def _end_of_watch(told: _Watched) -> str:
    if told.error:
        return told.error.message
    if told.result.compact_revision:
        return f"etcd knows only what happened since revision {told.result.compact_revision}"
    return told.result.cancel_reason or "etcd ended the watch"


def _change3(event: _Event) -> Change:
    return Change(event.kv.key.decode(), None if event.type == "DELETE" else event.kv.value.decode())


# -- etcd 2

_NO_KEY = 100


class _Node(msgspec.Struct, frozen=True):
    key: str = ""
    value: str | None = None
    nodes: tuple[_Node, ...] = ()


class _Answer2(msgspec.Struct, frozen=True, rename="camel"):
    action: str = ""
    node: _Node | None = None
    error_code: int = 0
    message: str = ""


class _Stamp(msgspec.Struct, frozen=True, rename="camel"):
    modified_index: int = 0


class _Event2(msgspec.Struct, frozen=True):
    action: str
    node: _Stamp


_ANSWER2 = msgspec.json.Decoder(_Answer2)
_EVENT2 = msgspec.json.Decoder(_Event2)


class _Refused(EtcdError):
    """etcd is there and does not want to."""


class Etcd2(Etcd):
    """etcd 2, and etcd 3.4 with --enable-v2."""

    hides = True

    async def read(self, root: str) -> Held:
        reply = await self._keys("GET", root, "?recursive=true")
        node = decoded(_ANSWER2, reply.body).node
        return Held(reply.index, dict(_leaves(node)) if node else {})

    async def write(self, values: Mapping[str, str], gone: Collection[str] = (), trees: Iterable[str] = ()) -> int:
        asked: list[tuple[str, str, str, Mapping[str, str] | None]]
        asked = [("DELETE", key, "?recursive=true", None) for key in trees]
        asked += [("PUT", key, "", {"value": value}) for key, value in values.items()]
        asked += [("DELETE", key, "?recursive=true", None) for key in gone]  # late: a name is never without addresses
        revision, refusals = 0, []
        for method, key, query, form in asked:
            try:
                index = (await self._keys(method, key, query, form)).index
            except _Refused as error:  # such as a directory where a value should be: the rest may make room for it
                refusals.append(error)
            else:
                revision = revision if "/_" in key else index  # what is hidden is waited for in vain
        if refusals:
            raise refusals[0]
        return revision

    async def watch(self, root: str, after: int) -> AsyncGenerator[tuple[int, tuple[Change, ...]]]:
        while True:
            path = f"/v2/keys{quote(root)}?recursive=true&wait=true&waitIndex={after + 1}"
            async with aclosing(self._stream("GET", path)) as pieces:
                body = b"".join([piece async for piece in pieces])
            if not body.strip():
                continue  # etcd ends a wait when it was long
            told = decoded(_ANSWER2, body)
            if told.error_code or told.node is None:
                raise EtcdError(f"{self._endpoints[0]} says {told.message}")
            after = decoded(_EVENT2, body).node.modified_index
            yield after, (Change(told.node.key, told.node.value, below=told.node.value is None),)

    async def _keys(self, method: str, key: str, query: str = "", form: Mapping[str, str] | None = None) -> Reply:
        """Raises EtcdError; a key that is not there is no mistake."""
        reply = await self._ask(method, f"/v2/keys{quote(key)}{query}", form=form)
        if reply.status == 404 and not reply.body.startswith(b"{"):
            raise UserError(
                f"{self._endpoints[0]} does not serve etcd's /v2/keys: start it with --enable-v2, or say --etcd-api 3"
            )
        told = decoded(_ANSWER2, reply.body)
        if told.error_code and told.error_code != _NO_KEY:
            raise _Refused(f"{self._endpoints[0]} says {told.message}: {key}")
        return reply


def _leaves(node: _Node) -> Iterator[tuple[str, str]]:
    if node.value is not None:
        yield node.key, node.value
    for each in node.nodes:
        yield from _leaves(each)


ETCD: Mapping[str, type[Etcd]] = {"2": Etcd2, "3": Etcd3}
"""By the number of the API."""


def connect(
    api: str, endpoints: Sequence[str], timeout: float, *, ca: str = "", certificate: str = "", key: str = ""
) -> Etcd:
    """A cluster of etcd as flags describe it; the last three are PEM files. Raises UserError."""
    for endpoint in endpoints:
        if not _URL.fullmatch(endpoint):
            raise UserError(f"{endpoint!r} is no URL of an etcd: write it as http://127.0.0.1:2379")
    context = ssl.create_default_context()
    try:
        if ca:
            context.load_verify_locations(ca)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(filter(None, (ca, certificate, key)))
        raise UserError(f"{names}: {error.strerror or error}; give PEM files that can be read") from None
    return ETCD[api](endpoints, timeout, context)
