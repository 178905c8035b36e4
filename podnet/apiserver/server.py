"""HTTP: who asks, what for, in which form. Everything that an answer says comes from the registry.

A client must show a certificate of the cluster's CA; health and version are open to all. There is no router: a path
names a kind, a method a verb, and both tables are in target.py and here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from podnet.apiserver import bodies, discovery, stream
from podnet.apiserver.lifecycle import DeleteOptions
from podnet.apiserver.logs import LogProxy
from podnet.apiserver.records import Record, Selection
from podnet.apiserver.registry import Page, Registry
from podnet.apiserver.status import (
    ApiError,
    Cause,
    Document,
    bad_request,
    invalid,
    method_not_allowed,
    resource,
    success,
)
from podnet.apiserver.tables import table
from podnet.apiserver.target import Query, Target, parse_path, wants_table
from podnet.objects.kinds import Kind

BODY_LIMIT = 3 << 20  # bytes, as upstream
WATCH_SECONDS = 1800.0
JSON = {"Content-Type": "application/json"}
OPEN = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_AGGREGATED = {"v2": "g=apidiscovery.k8s.io;v=v2;", "v2beta1": "g=apidiscovery.k8s.io;v=v2beta1;"}


def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """aiohttp's request with our limit on bodies."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT)


class Server:
    """Turns one HTTP request into one answer; see `handle`."""

    def __init__(self, registry: Registry, logs: LogProxy) -> None:
        self._registry = registry
        self._logs = logs
        self._fixed = _fixed_answers()
        self.ready = True

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer, or the Status of what is wrong with the question."""
        try:
            if request.path in OPEN:
                return self._open(request.path)
            _authenticate(request)
            target = parse_path(request.path)
            return self._describe(request) if target is None else await self._serve(request, target)
        except ApiError as error:
            return _document(error.status(), error.code)

    def _open(self, path: str) -> web.Response:
        if path == "/version":
            return _document(discovery.VERSION)
        fine = self.ready or path == "/livez"
        return web.Response(text="ok" if fine else "the server is going", status=200 if fine else 500)

    def _describe(self, request: web.BaseRequest) -> web.Response:
        """Discovery and OpenAPI."""
        path, accept = request.path.rstrip("/"), request.headers.get("Accept", "")
        if path in ("/api", "/apis"):
            offers = [(accept.find(mark), version) for version, mark in _AGGREGATED.items() if mark in accept]
            if offers:
                version = min(offers)[1]
                kind = f"application/json;{_AGGREGATED[version]}as=APIGroupDiscoveryList"
                return _document(discovery.aggregated(path == "/api", version), headers={"Content-Type": kind})
        if path == "/openapi/v2" and discovery.OPENAPI_V2_ACCEPT in accept:
            return web.Response(body=discovery.OPENAPI_V2, headers={"Content-Type": discovery.OPENAPI_V2_TYPE})
        body = self._fixed.get(path)
        if body is None:
            return web.Response(text="404 page not found\n", status=404)
        if request.method != "GET":
            raise method_not_allowed()
        return web.Response(body=body, headers=JSON)

    # Verbs -----------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if target.subresource in ("log", "exec"):
            return await self._stream(request, target)
        if request.method == "GET":
            return await self._get(request, target) if target.name else await self._list(request, target)
        if request.method == "POST":
            return await self._post(request, target)
        if request.method == "DELETE" and not target.subresource:
            return await self._delete(request, target)
        if request.method in ("PUT", "PATCH") and target.name and target.subresource != "binding":
            return await self._update(request, target)
        raise method_not_allowed()

    async def _stream(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if target.subresource == "exec":
            raise ApiError(
                501, "NotImplemented", "this API server does not serve pods/exec; in a lab use: podnet lab exec"
            )
        if request.method != "GET":
            raise method_not_allowed()
        return await self._logs.serve(request, target.namespace, target.name)

    async def _get(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if request.query_string and Query(request.query).flag("watch"):
            return await self._watch(request, target)
        if target.subresource not in ("", "status"):
            raise method_not_allowed()
        tabular = wants_table(request.headers.get("Accept", ""))
        return self._answer(
            request, target.kind, self._registry.get(target.kind, target.namespace, target.name), tabular
        )

    def _answer(
        self, request: web.BaseRequest, kind: Kind, record: Record, tabular: bool = False, status: int = 200
    ) -> web.Response:
        if not tabular:
            return web.Response(body=record.value, status=status, headers=JSON)
        version = {"resourceVersion": str(record.revision)}
        return _document(table(kind, [record], self._registry.now(), _include(Query(request.query)), version), status)

    async def _list(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query = Query(request.query)
        query.check()
        if query.flag("watch"):
            return await self._watch(request, target)
        tabular = wants_table(request.headers.get("Accept", ""))
        version, exact = query.number("resourceVersion"), query.text("resourceVersionMatch") == "Exact"
        if not exact:
            self._registry.not_older_than(version)
        page = self._registry.list(
            _selection(target, query), query.number("limit"), query.text("continue"), version if exact else None
        )
        return self._page(target.kind, page, _include(query) if tabular else None)

    def _page(self, kind: Kind, page: Page, include: str | None = None) -> web.Response:
        metadata: Document = {"resourceVersion": str(page.revision)}
        if page.following:
            metadata["continue"] = page.following
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        if include is not None:
            return _document(table(kind, page.records, self._registry.now(), include, metadata))
        head = msgspec.json.encode({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata})
        items = b",".join([record.value for record in page.records])
        return web.Response(body=b"".join((head[:-1], b',"items":[', items, b"]}")), headers=JSON)

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query, kind = Query(request.query), target.kind
        tabular = wants_table(request.headers.get("Accept", ""))
        version = query.number("resourceVersion")
        initial = query.flag("sendInitialEvents")
        seconds = query.number("timeoutSeconds") or WATCH_SECONDS * (1 + random.random())
        try:
            watcher = self._registry.watch(_selection(target, query), None if initial else version or None)
        except ApiError as error:
            if error.code != 410:
                raise
            return stream.refuse(error)
        render = stream.as_tables(kind, _include(query), self._registry.now) if tabular else stream.plain
        marks: Callable[[bool], bytes] | None = None
        if query.flag("allowWatchBookmarks"):
            marks = lambda end: stream.bookmark(kind, self._registry.store.revision, tabular, end)  # noqa: E731
        try:
            return await stream.follow(request, watcher, render, seconds, marks, initial)
        finally:
            self._registry.unwatch(watcher)

    async def _post(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if target.name and target.subresource != "binding":
            raise method_not_allowed()
        if target.kind.namespaced and not target.namespace:
            raise method_not_allowed()
        document, dry_run = await _body(request), Query(request.query).dry_run
        if target.subresource:
            await self._registry.bind(
                target.namespace, target.name, _node_of(target.kind, target.name, document), dry_run
            )
            return _document(
                {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
            )
        tabular = wants_table(request.headers.get("Accept", ""))
        record = await self._registry.create(target.kind, target.namespace, document, dry_run)
        return self._answer(request, target.kind, record, tabular, 201)

    async def _update(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        kind, namespace, name, subresource = target.kind, target.namespace, target.name, target.subresource
        dry_run, tabular = Query(request.query).dry_run, wants_table(request.headers.get("Accept", ""))
        if request.method == "PUT":
            document = await _body(request)
            record = await self._registry.replace(kind, namespace, name, document, subresource, dry_run)
        else:
            patch = bodies.patcher(await _read(request), request.content_type, discovery.patch_types(kind))
            record = await self._registry.patch(kind, namespace, name, patch, subresource, dry_run)
        return self._answer(request, kind, record, tabular)

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query, kind = Query(request.query), target.kind
        options = _delete_options(await _body(request), query)
        dry_run = query.dry_run or "All" in options.dry_run
        if not target.name:
            if kind.namespaced and not target.namespace:
                raise method_not_allowed()
            page = await self._registry.delete_collection(kind, _selection(target, query), options, dry_run)
            return self._page(kind, page)
        record, gone = await self._registry.delete(kind, target.namespace, target.name, options, dry_run)
        if gone and kind.kind != "Pod":
            return _document(success(kind, target.name, record.document()["metadata"]["uid"]))
        return self._answer(request, kind, record)


def _authenticate(request: web.BaseRequest) -> None:
    """TLS has verified the certificate; here it only has to exist."""
    transport = request.transport
    if transport is None or not transport.get_extra_info("peercert"):
        raise ApiError(401, "Unauthorized", "Unauthorized")


async def _read(request: web.BaseRequest) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        message = f"Request entity too large: limit is {BODY_LIMIT}"
        raise ApiError(413, "RequestEntityTooLarge", message) from None


async def _body(request: web.BaseRequest) -> Document:
    """The document of the request; {} for none, which only DELETE takes."""
    body = await _read(request)
    if not body and request.method == "DELETE":
        return {}
    return bodies.decode(body, request.content_type)


def _selection(target: Target, query: Query) -> Selection:
    fields = query.text("fieldSelector")
    if target.name:
        fields = ",".join(filter(None, (fields, f"metadata.name={target.name}")))
    return Selection.parse(resource(target.kind), target.namespace, query.text("labelSelector"), fields)


def _include(query: Query) -> str:
    include = query.text("includeObject") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise bad_request(f'unrecognized includeObject value: "{include}"')
    return include


def _node_of(kind: Kind, name: str, document: Document) -> str:
    target = document.get("target")
    node = target.get("name") if isinstance(target, dict) else None
    if not isinstance(node, str) or not node:
        raise invalid(kind, name, [Cause("FieldValueRequired", "target.name", "Required value")])
    return node


def _delete_options(document: Document, query: Query) -> DeleteOptions:
    try:
        options = msgspec.convert(document, DeleteOptions)
    except msgspec.ValidationError as error:
        raise bad_request(f"invalid DeleteOptions: {error}") from None
    if options.grace_period_seconds is None and query.text("gracePeriodSeconds"):
        options.grace_period_seconds = query.number("gracePeriodSeconds")
    return options


def _document(document: Document, status: int = 200, headers: Mapping[str, str] = JSON) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, headers=headers)


def _fixed_answers() -> dict[str, bytes]:
    """Discovery for clients that do not aggregate, and OpenAPI: they follow from the kinds, so they never change."""
    answers: dict[str, Document] = {"/api": discovery.api_versions(), "/apis": discovery.group_list()}
    for group, versions in discovery.groups().items():
        if group:
            answers[f"/apis/{group}"] = discovery.group(group)
        for version, kinds in versions.items():
            answers[f"/apis/{group}/{version}" if group else f"/api/{version}"] = discovery.resource_list(kinds)
    documents = discovery.openapi_documents()
    answers["/openapi/v3"] = discovery.openapi_index(documents)
    encoded = {path: msgspec.json.encode(answer) for path, answer in answers.items()}
    return encoded | {f"/openapi/v3/{path}": document for path, document in documents.items()}
