"""The Kubernetes REST verbs over one aiohttp session.

Every call takes a `Kind` for the path and `into`, the type to decode the answer into: a typed struct such as `Node`
(the kind's own by default), or `dict` for the whole document. Structs hold only the fields podnet acts on, so an object
is changed by a patch, or by get-change-replace of a dict, never by writing a struct back. Every failure is an
`ApiError`: with the server's code and reason when it answered, `Unreachable` when it did not; each names the server.
Source: kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import aiohttp
import msgspec
from typing_extensions import TypeVar
from yarl import URL

import podnet
from podnet.client.auth import Authenticator
from podnet.client.config import ConfigError, Credentials
from podnet.client.errors import ApiError as ApiError
from podnet.client.errors import Unreachable as Unreachable
from podnet.client.errors import error_from, unreachable
from podnet.objects.codec import decode
from podnet.objects.kinds import PODS, Kind
from podnet.objects.meta import Object

T = TypeVar("T", default=Object)
Document = dict[str, Any]
Documents = list[Document]
Batch = tuple[bytes, ...]
Query = Mapping[str, str | int]
PatchType = Literal["merge", "strategic", "json"]

JSON = "application/json"
PATCH_TYPES: Mapping[PatchType, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}
PAGE = 500
CONNECT_SECONDS = 10.0


class ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Version of a list; `more` is the token of the next page, "" on the last."""

    resource_version: str = ""
    more: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, frozen=True, gc=False):
    """A part of a list. The items are still JSON, so that one bad item spoils no other."""

    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] | None = ()


_PAGE = msgspec.json.Decoder(Page)
_DOCUMENT = msgspec.json.Decoder(Document)


def lasting_socket(address: tuple[Any, Any, int, str, Any]) -> socket.socket:
    """A socket that notices within 30 s that the other end is gone; a quiet watch would wait for ever else."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 15),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 30_000),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


class Api:
    """A client of one API server. Close it, or write `async with Api(credentials) as api`.

    credentials  from client/config.py; unusable ones raise ConfigError here
    timeout      seconds for a whole request, and for a stream to open
    """

    def __init__(self, credentials: Credentials, timeout: float = 30.0) -> None:
        self.server = credentials.server
        self.namespace = credentials.namespace
        self.timeout = timeout
        self._server_name = credentials.tls_server_name or None
        self._auth = Authenticator(credentials)
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._opened:
            await self._opened.close()

    async def request(
        self, method: str, path: str, *, query: Query | None = None, body: object = None, content_type: str = JSON,
        accept: str = JSON,
    ) -> bytes:  # fmt: skip
        """One request and its whole answer; `body` is sent as JSON unless it is bytes. Raises ApiError."""
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        with self._translated():
            async with asyncio.timeout(self.timeout), await self._send(method, path, query, data, headers) as response:
                return await response.read()

    async def stream(self, path: str, *, query: Query | None = None, accept: str = JSON) -> AsyncGenerator[bytes]:
        """GET an answer in pieces; the first is empty and says that the stream is open. Raises ApiError."""
        with self._translated():
            async with asyncio.timeout(self.timeout):
                response = await self._send("GET", path, query, None, {"Accept": accept})
        try:
            yield b""
            while not response.content.at_eof():
                with self._translated():
                    piece = await response.content.readany()
                if piece:
                    yield piece
        finally:
            response.close()

    async def get(
        self, kind: Kind, name: str, namespace: str = "", *, into: type[T] | None = None, subresource: str = ""
    ) -> T:
        """One object. Raises ApiError, InvalidObject."""
        return self._decode(kind, await self.request("GET", self._path(kind, namespace, name, subresource)), into)

    async def list(
        self, kind: Kind, namespace: str = "", *, into: type[T] | None = None, label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[T, ...]:  # fmt: skip
        """Every object of a kind, of all namespaces unless one is given. Raises ApiError, InvalidObject."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        try:
            return await self._collect(kind, namespace, into, {**query, "limit": PAGE})
        except ApiError as error:
            if not error.expired:
                raise
            return await self._collect(kind, namespace, into, query)

    async def _collect(self, kind: Kind, namespace: str, into: type[T] | None, query: Query) -> tuple[T, ...]:
        pages = self.pages(kind, namespace, query)
        return tuple([self._decode(kind, item, into) async for page in pages for item in page.items or ()])

    async def pages(self, kind: Kind, namespace: str = "", query: Query | None = None) -> AsyncGenerator[Page]:
        """The pages of a list; `query` holds the API's own parameters. ApiError is `expired` when it took too long."""
        query = dict(query or {})
        path = self._path(kind, namespace)
        while True:
            page = self._page(await self.request("GET", path, query=query))
            yield page
            if not page.metadata.more:
                return
            # the token holds the version: naming both is an error
            query = {key: value for key, value in query.items() if not key.startswith("resourceVersion")}
            query["continue"] = page.metadata.more

    def _page(self, body: bytes) -> Page:
        try:
            return _PAGE.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ApiError(500, "InternalError", f"the list is not valid JSON: {error}", server=self.server) from None

    async def watch(self, kind: Kind, namespace: str = "", query: Query | None = None) -> AsyncGenerator[Batch]:
        """Events as JSON lines, in the batches in which they come; the first batch is empty: the watch is open.

        A line that the connection's end cut off is dropped. Raises ApiError.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", **(query or {})}
        rest: list[bytes] = []
        async with aclosing(self.stream(self._path(kind, namespace), query=query)) as pieces:
            async for piece in pieces:
                head, newline, tail = piece.rpartition(b"\n")
                if newline or not piece:
                    lines = b"".join([*rest, head]).split(b"\n")
                    rest = []
                    yield tuple(line for line in lines if line)
                if tail:
                    rest.append(tail)

    async def create(
        self, kind: Kind, body: Document | msgspec.Struct, namespace: str = "", *, into: type[T] | None = None,
        name: str = "", subresource: str = "",
    ) -> T:  # fmt: skip
        """POST a new object, or to a subresource of the object `name`. Raises ApiError, InvalidObject."""
        document = _document(kind, body)
        namespace = namespace or document.get("metadata", {}).get("namespace", "") or self.namespace
        path = self._path(kind, namespace, name, subresource)
        return self._decode(kind, await self.request("POST", path, body=document), into)

    async def replace(self, kind: Kind, document: Document, *, into: type[T] | None = None, subresource: str = "") -> T:
        """PUT a whole document; if it has a resourceVersion, only over that version. Raises ApiError, InvalidObject."""
        meta = document.get("metadata", {})
        path = self._path(kind, meta.get("namespace", ""), meta.get("name", ""), subresource)
        return self._decode(kind, await self.request("PUT", path, body=_document(kind, document)), into)

    async def patch(
        self, kind: Kind, name: str, patch: Document | Documents, namespace: str = "", *, strategy: PatchType = "merge",
        into: type[T] | None = None, subresource: str = "",
    ) -> T:  # fmt: skip
        """Change an object by a merge, strategic merge or JSON patch. Raises ApiError, InvalidObject."""
        path = self._path(kind, namespace, name, subresource)
        answer = await self.request("PATCH", path, body=patch, content_type=PATCH_TYPES[strategy])
        return self._decode(kind, answer, into)

    async def status(
        self, kind: Kind, name: str, status: Document, namespace: str = "", *, strategy: PatchType = "merge",
        into: type[T] | None = None,
    ) -> T:  # fmt: skip
        """Patch the status of an object, which a plain patch leaves alone. Raises ApiError, InvalidObject."""
        body = {"status": status}
        return await self.patch(kind, name, body, namespace, strategy=strategy, into=into, subresource="status")

    async def delete(
        self, kind: Kind, name: str, namespace: str = "", *, grace: int | None = None, uid: str = ""
    ) -> None:
        """Ask for an object's end, `grace` seconds from now; with `uid` only that very object. Raises ApiError."""
        options: Document = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid:
            options["preconditions"] = {"uid": uid}
        await self.request("DELETE", self._path(kind, namespace, name), body=options)

    async def logs(self, pod: str, namespace: str = "", **options: str | int | bool) -> AsyncGenerator[bytes]:
        """What a container wrote, as it comes; options are the API's: container, follow, tailLines, previous,
        timestamps, sinceSeconds. Raises ApiError."""
        query = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
        async with aclosing(self.stream(self._path(PODS, namespace, pod, "log"), query=query, accept="*/*")) as pieces:
            async for piece in pieces:
                if piece:
                    yield piece

    def _path(self, kind: Kind, namespace: str, name: str = "", subresource: str = "") -> str:
        """Names are quoted: a slash in one must not lead elsewhere."""
        if name and kind.namespaced:
            namespace = namespace or self.namespace
        return kind.path(quote(namespace, safe=""), quote(name, safe=":"), subresource)

    def _decode(self, kind: Kind, data: bytes, into: type[T] | None) -> T:
        wanted: Any = into or kind.type
        if wanted is dict:
            answer: T = _document(kind, _DOCUMENT.decode(data))  # type: ignore[assignment]
        else:
            answer = decode(data, wanted)
        return answer

    async def _send(
        self, method: str, path: str, query: Query | None, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """An answer whose body is still unread. A 401 is tried again once if a fresh token can be had."""
        asked = {key: value for key, value in (query or {}).items() if value != ""}
        url = URL(self.server + path, encoded=True).with_query(asked)
        retry = True
        while True:
            response = await self._session.request(
                method, url, data=body, headers=headers | await self._auth.headers(), ssl=self._auth.tls() or True,
                server_hostname=self._server_name, allow_redirects=False,
            )  # fmt: skip
            if response.status < 300:
                return response
            async with response:
                error = error_from(await response.read(), response.status, self.server)
                error.retry_after = max(error.retry_after, _seconds(response.headers.get("Retry-After", "")))
            if response.status != 401 or not retry or not self._auth.refused():
                raise error
            retry = False

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Made at first use: aiohttp wants a running loop. Without a limit: watches hold their connections."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=lasting_socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, self.timeout)),
                headers={"User-Agent": f"podnet/{podnet.__version__}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._opened

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Everything that aiohttp and the plugins raise, as ApiError."""
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error, self.server, self.timeout) from error
        except ConfigError as error:
            raise ApiError(401, "Unauthorized", str(error), server=self.server) from None


def _seconds(text: str) -> float:
    """A Retry-After header; one that holds a date counts as none."""
    return float(text) if text.isdecimal() else 0.0


def _document(kind: Kind, body: Document | msgspec.Struct) -> Document:
    document: Document = msgspec.to_builtins(body) if isinstance(body, msgspec.Struct) else body
    return {"apiVersion": kind.api_version, "kind": kind.kind, **document}
