"""etcd as a place for names: a few keys below one root, read whole, written a few at a time, and watched.

Two languages (etcd_dialects.py) stand behind one small interface. etcd 3's JSON gateway is what a plain Debian etcd
serves; etcd 2's keys are what SkyDNS and kube2sky of 2015 spoke, and etcd 3.4 serves them too with --enable-v2.
The stores behind them are apart: what is written in one language is not there in the other.

etcd 2 keeps a secret: keys with a part that begins with `_` are in no listing and no watch (`hides`). They can be read
only by whoever names them, which is how `_http._tcp.web` stayed out of the answers for `web`.

`Mirror` is a copy of a subtree that follows the original. It begins anew, with everything, after each failure: a store
that was restored from a backup, or is another one, has older revisions, and no event would ever tell.
Sources: etcd.io/docs/v2.3/api, etcd.io/docs/v3.4/dev-guide/api_grpc_gateway, api/etcdserverpb/rpc.proto.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from time import monotonic
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

import podnet
from podnet.client.api import lasting_socket
from podnet.client.errors import unreachable

T = TypeVar("T")

TIMEOUT = 10.0
AGAIN = 0.2
"""Seconds before what failed is tried again."""


class EtcdError(Exception):
    """etcd refused, or no endpoint answered; the sentence says which and why."""


class Held(msgspec.Struct, frozen=True):
    """What etcd held below a key, at one revision."""

    revision: int
    values: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    """A key's new value; None: it is gone, and with `below` everything below it too."""

    key: str
    value: str | None
    below: bool = False


class Reply(msgspec.Struct, frozen=True):
    """An answer, read to its end; `index` is etcd 2's revision."""

    status: int
    body: bytes
    index: int = 0


class Etcd(ABC):
    """One cluster of etcd. The endpoints are asked in turn, beginning with the one that last answered.

    endpoints  URLs, such as http://127.0.0.1:2379
    timeout    seconds that a request to one endpoint may take, and a watch to open
    tls        whom to trust and who we are, where the URLs are https; None: as the system does
    """

    hides: ClassVar[bool] = False
    """Whether keys with a leading `_` are in neither `read` nor `watch`."""

    def __init__(self, endpoints: Sequence[str], timeout: float = TIMEOUT, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls or True
        self._endpoints = deque(endpoint.rstrip("/") for endpoint in endpoints)
        self._timeout = timeout
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened:
            await self._opened.close()

    @abstractmethod
    async def read(self, root: str) -> Held:
        """Everything below a key. Raises EtcdError."""

    @abstractmethod
    async def write(self, values: Mapping[str, str], gone: Collection[str] = (), trees: Iterable[str] = ()) -> int:
        """Put values, and take away keys and all that is below some; returns the revision. What is in no store yet or
        no more is no mistake, but no key may be in two of these. etcd 3 does 100 at once. Raises EtcdError."""

    @abstractmethod
    def watch(self, root: str, after: int) -> AsyncGenerator[tuple[int, tuple[Change, ...]]]:
        """What changed below a key after a revision, each time with the revision it leads to. It ends in EtcdError;
        also when etcd does not know any more what happened since."""

    async def _ask(self, method: str, path: str, body: object = None, form: Mapping[str, str] | None = None) -> Reply:
        """One request, to whoever answers. Raises EtcdError when nobody does."""
        problems = []
        for _ in range(len(self._endpoints)):
            url = URL(self._endpoints[0] + path, encoded=True)
            try:
                with self._translated():
                    async with asyncio.timeout(self._timeout), self._request(method, url, body, form) as response:
                        reply = Reply(response.status, await response.read(), _index(response))
                if reply.status < 500:
                    return reply
                problems.append(f"{self._endpoints[0]} says {reply.status} {excerpt(reply.body)}")
            except EtcdError as error:
                problems.append(str(error))
            self._endpoints.rotate(-1)
        raise EtcdError("; ".join(problems))

    async def _stream(self, method: str, path: str, body: object = None) -> AsyncGenerator[bytes]:
        """An answer as it comes. The first piece is empty: it has begun. Raises EtcdError."""
        url = URL(self._endpoints[0] + path, encoded=True)
        with self._translated():
            async with asyncio.timeout(self._timeout):
                response = await self._request(method, url, body)
        async with response:
            if response.status != 200:
                with self._translated():
                    raise EtcdError(f"{self._endpoints[0]} says {excerpt(await response.read())}")
            yield b""
            while not response.content.at_eof():
                with self._translated():
                    piece = await response.content.readany()
                yield piece

    def _request(
        self, method: str, url: URL, body: object, form: Mapping[str, str] | None = None
    ) -> aiohttp.client._RequestContextManager:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=lasting_socket),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout),
                headers={"User-Agent": f"podnet/{podnet.__version__}", "Accept-Encoding": "identity"},
            )
        data = form if body is None else msgspec.json.encode(body)
        return self._opened.request(method, url, data=data, allow_redirects=False, ssl=self._tls)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What aiohttp and the clock raise, as a sentence; the next to be asked is another."""
        endpoint = self._endpoints[0]
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EtcdError(str(unreachable(error, endpoint, self._timeout))) from error


def _index(response: aiohttp.ClientResponse) -> int:
    text = response.headers.get("X-Etcd-Index", "")
    return int(text) if text.isdecimal() else 0


def excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise EtcdError(f"no answer of an etcd: {error}: {excerpt(body)}") from None


class Mirror:
    """A copy of what is below a key, kept up by a watch, and read anew every `resync` seconds.

    values    as etcd last said; only `run` changes them, in place
    revision  up to which they are so
    trouble   why they may be old, "" when they are not; `since` then, by the clock of time.monotonic
    """

    def __init__(self, etcd: Etcd, root: str, resync: float, changed: Callable[[tuple[Change, ...]], None]) -> None:
        """`changed` is called with what changed, after each change; at first with everything, were it nothing."""
        self.values: dict[str, str] = {}
        self.revision = 0
        self.trouble = "not read yet"
        self.since = monotonic()
        self.synced = False
        self._etcd, self._root, self._resync, self._changed = etcd, root, resync, changed

    async def run(self) -> None:
        """Follow until cancelled; raises UserError when etcd does not speak this language at all."""
        while True:
            try:
                await self._read()
                async with asyncio.timeout(self._resync):
                    await self._follow()
            except EtcdError as error:
                self.since = self.since if self.trouble else monotonic()
                self.trouble = str(error)
                await asyncio.sleep(AGAIN)
            except TimeoutError:
                continue  # time to read anew

    async def _read(self) -> None:
        held = await self._etcd.read(self._root)
        changes = tuple(_between(self.values, held.values))
        first = not self.synced
        self.values, self.revision = held.values, held.revision
        self.synced, self.trouble = True, ""
        if first or changes:
            self._changed(changes)

    async def _follow(self) -> None:
        async with aclosing(self._etcd.watch(self._root, self.revision)) as batches:
            async for revision, changes in batches:
                apply(self.values, changes)
                self.revision = max(self.revision, revision)
                if changes:
                    self._changed(changes)


def apply(values: dict[str, str], changes: Iterable[Change]) -> None:
    """Bring a copy up to date."""
    for change in changes:
        if change.value is not None:
            values[change.key] = change.value
            continue
        values.pop(change.key, None)
        if change.below:
            for key in [key for key in values if key.startswith(f"{change.key}/")]:
                del values[key]


def _between(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    yield from (Change(key, None) for key in before if key not in now)
    yield from (Change(key, value) for key, value in now.items() if before.get(key) != value)
