"""A small API server on loopback that can fail in every way a real one does.

It keeps whole documents and a log of events under one counter, as etcd does. The faults are switches that a test sets:
answers that are errors, lists that lie, watches that are cut in the middle of a line, forget, go back in time or lose
events. What the server *really* holds is `objects`, which a test compares with what the client believes.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from podnet.objects import selectors
from podnet.objects.kinds import KINDS, Kind

Document = dict[str, Any]
Event = tuple[int, str, str, Document]
BY_PATH = {(kind.group, kind.plural): kind for kind in KINDS}


class Fault(Exception):
    """An error answer."""

    def __init__(
        self, code: int, reason: str, message: str = "", headers: dict[str, str] | None = None, **details: Any
    ) -> None:
        self.code = code
        self.headers = headers
        self.body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                     "message": message or reason, "details": details}  # fmt: skip


def expired() -> Fault:
    return Fault(410, "Expired", "too old resource version: 1 (9)")


def too_large() -> Fault:
    return Fault(
        504, "Timeout", "Too large resource version: 9, current: 1", causes=[{"reason": "ResourceVersionTooLarge"}]
    )


class FakeApi:
    """See the module; `async with FakeApi() as server` listens, `server.url` says where."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.version = 0
        self.oldest = 0
        self.objects: dict[tuple[str, str, str], Document] = {}
        self.log: list[Event] = []
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []
        self.tokens: dict[str, tuple[int, list[Document]]] = {}
        # faults
        self.answers: deque[Fault | Callable[[], Fault]] = deque()  # given to the next requests of any kind
        self.list_faults: deque[Fault | None] = deque()  # given to the next pages, None: a good page
        self.list_lies: deque[tuple[int, list[Document]]] = deque()  # given instead of the next lists
        self.raw_list = b""  # the body of every list
        self.delay = 0.0
        self.forget_tokens = False
        self.allowed_token = ""
        self.unknown: set[str] = set()
        self.deaf = False  # accepts watches and says nothing
        self.ends_watches = False  # accepts watches and ends them
        self._watchers: set[Watcher] = set()
        self._port = 0
        self._runner: web.AppRunner | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; again on the same port after a stop."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self.tls)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.cut()
        await asyncio.sleep(0)
        assert self._runner
        await self._runner.cleanup()

    # -- the truth -----------------------------------------------------------------------------------------------------

    def of(self, kind: Kind) -> dict[tuple[str, str], Document]:
        return {key[1:]: document for key, document in self.objects.items() if key[0] == kind.plural}

    def put(self, kind: Kind, document: Document, *, silent: bool = False) -> Document:
        """Create or change; `silent` loses the event."""
        key = self._key(kind, document)
        type_ = "MODIFIED" if key in self.objects else "ADDED"
        return self._write(type_, kind, key, document, silent)

    def delete(self, kind: Kind, name: str, namespace: str = "", *, silent: bool = False) -> None:
        key = (kind.plural, namespace, name)
        if key in self.objects:
            self._write("DELETED", kind, key, self.objects[key], silent)

    def _key(self, kind: Kind, document: Document) -> tuple[str, str, str]:
        return (kind.plural, document["metadata"].get("namespace", ""), document["metadata"]["name"])

    def _write(self, type_: str, kind: Kind, key: tuple[str, str, str], document: Document, silent: bool) -> Document:
        self.version += 1
        document = {"apiVersion": kind.api_version, "kind": kind.kind, **copy.deepcopy(document)}
        document["metadata"]["resourceVersion"] = str(self.version)
        if type_ == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = document
        if not silent:
            event = (self.version, type_, kind.plural, document)
            self.log.append(event)
            for watcher in self._watchers if not self.deaf else ():
                watcher.offer(event)
        return document

    # -- faults --------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Break every watch in the middle of a line."""
        for watcher in self._watchers:
            watcher.lines.put_nowait(b'{"type":"ADDED","object":{"metadata":{"name":"half')
            watcher.lines.put_nowait(None)

    def say(self, line: bytes, kind: Kind | None = None) -> None:
        """Send a line of the test's to every watch, or to those of one kind."""
        for watcher in self._watchers:
            if kind in (None, watcher.kind):
                watcher.lines.put_nowait(line + b"\n")

    def expire(self) -> None:
        """Forget all history and tell the watches so."""
        self.oldest = self.version
        self.log.clear()
        self.tokens.clear()
        self.say(json.dumps({"type": "ERROR", "object": expired().body}).encode())

    def backup(self) -> tuple[int, dict[tuple[str, str, str], Document]]:
        return self.version, dict(self.objects)

    def restore(self, backup: tuple[int, dict[tuple[str, str, str], Document]]) -> None:
        """Go back in time, as an operator does after losing etcd."""
        self.version, self.objects = backup[0], dict(backup[1])
        self.log.clear()
        self.tokens.clear()
        self.oldest = 0
        self.cut()

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def count(self, method: str, *words: str) -> int:
        """Requests so far whose URL holds every word."""
        urls = [str(request.rel_url) for request in self.requests if request.method == method]
        return sum(all(word in url for word in words) for url in urls)

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.answers:
                fault = self.answers.popleft()
                raise fault if isinstance(fault, Fault) else fault()
            if self.allowed_token and request.headers.get("Authorization") != f"Bearer {self.allowed_token}":
                raise Fault(401, "Unauthorized")
            return await self._answer(request)
        except Fault as fault:
            return web.json_response(fault.body, status=fault.code, headers=fault.headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info["path"].split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        kind = BY_PATH.get((group, rest[0]))
        if kind is None or kind.plural in self.unknown:
            return web.Response(status=404, text="404 page not found\n")
        if len(rest) == 1 and request.method == "GET":
            if request.query.get("watch"):
                return await self._watch(request, kind, namespace)
            return self._list(request, kind, namespace)
        return await self._object(request, kind, namespace, rest[1:])

    async def _object(self, request: web.Request, kind: Kind, namespace: str, rest: list[str]) -> web.StreamResponse:
        body: Any = await request.json() if request.can_read_body else None
        self.bodies.append(body)
        key = (kind.plural, namespace, rest[0] if rest else body["metadata"]["name"])
        found = self.objects.get(key)
        if request.method == "POST":
            if found:
                raise Fault(409, "AlreadyExists", f'{kind.plural} "{key[2]}" already exists')
            body["metadata"]["namespace"] = namespace
            return web.json_response(self.put(kind, body), status=201)
        if found is None:
            raise Fault(404, "NotFound", f'{kind.plural} "{key[2]}" not found', name=key[2], kind=kind.plural)
        match request.method:
            case "GET" if rest[1:] == ["log"]:
                return web.Response(text="".join(f"line {i}\n" for i in range(int(request.query.get("tailLines", 3)))))
            case "PUT":
                if (
                    body["metadata"].get("resourceVersion", found["metadata"]["resourceVersion"])
                    != found["metadata"]["resourceVersion"]
                ):
                    raise Fault(409, "Conflict", "the object has been modified")
                return web.json_response(self.put(kind, body))
            case "PATCH":
                merged = merge(found, body) if isinstance(body, dict) else found
                return web.json_response(self.put(kind, merged) if merged != found else found)
            case "DELETE":
                self.delete(kind, key[2], namespace)
        return web.json_response(found)

    def _selected(self, request: web.Request, kind: Kind, namespace: str) -> Callable[[Document], bool]:
        terms = selectors.parse_fields(request.query.get("fieldSelector", ""))
        labels = selectors.parse(request.query.get("labelSelector", ""))

        def matches(document: Document) -> bool:
            meta = document["metadata"]
            return (
                namespace in ("", meta.get("namespace", ""))
                and selectors.fields_match(terms, lambda path: field(document, path))
                and selectors.matches(labels, meta.get("labels") or {})
            )

        return matches

    def _list(self, request: web.Request, kind: Kind, namespace: str) -> web.Response:
        if self.list_faults and (fault := self.list_faults.popleft()):
            raise fault
        token = request.query.get("continue", "")
        if token:
            if {"resourceVersion", "resourceVersionMatch"} & set(request.query):
                raise Fault(422, "Invalid", "resourceVersion is forbidden with a continue token")
            if self.forget_tokens or token not in self.tokens:
                raise Fault(410, "Expired", "The provided continue parameter is too old")
            version, items = self.tokens.pop(token)
        else:
            if int(request.query.get("resourceVersion") or 0) > self.version:
                raise too_large()
            version, items = (
                self.version,
                [item for item in self.of(kind).values() if self._selected(request, kind, namespace)(item)],
            )
            if self.list_lies:
                version, items = self.list_lies.popleft()
        if self.raw_list:
            return web.Response(body=self.raw_list, content_type="application/json")
        limit = int(request.query.get("limit") or 0) or len(items) or 1
        meta = {"resourceVersion": str(version)}
        if items[limit:]:
            meta["continue"] = f"{version}-{len(items)}-{len(self.requests)}"
            self.tokens[meta["continue"]] = (version, items[limit:])
        return web.json_response({"kind": kind.kind + "List", "metadata": meta, "items": items[:limit]})

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since > self.version:
            raise too_large()
        if since < self.oldest:
            raise expired()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if self.ends_watches:
            return response
        watcher = Watcher(kind, self._selected(request, kind, namespace), since)
        for event in self.log:
            watcher.offer(event)
        self._watchers.add(watcher)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 3600))):
                while (line := await watcher.lines.get()) is not None:
                    await response.write(line)
            assert request.transport
            request.transport.close()
        except TimeoutError:
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(max(since, self.version))}}}
            await response.write(json.dumps(bookmark).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            self._watchers.discard(watcher)
        return response


class Watcher:
    """One open watch; None in `lines` cuts it off."""

    def __init__(self, kind: Kind, matches: Callable[[Document], bool], since: int) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.kind = kind
        self._matches = matches
        self._since = since

    def offer(self, event: Event) -> None:
        """As the real server: an object that no longer matches the selector is DELETED."""
        version, type_, plural, document = event
        if plural != self.kind.plural or version <= self._since:
            return
        type_ = type_ if self._matches(document) else "DELETED"
        self.lines.put_nowait(json.dumps({"type": type_, "object": document}).encode() + b"\n")


def field(document: Document, path: str) -> str:
    value: Any = document
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def merge(target: Document, patch: Document) -> Document:
    """JSON merge patch (RFC 7386)."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merge(result[key] if isinstance(result.get(key), dict) else {}, value)
        else:
            result[key] = value
    return result
