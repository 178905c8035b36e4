"""A real server on loopback, over TLS, for each test that asks for one."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from podnet.apiserver import pki
from podnet.apiserver.main import Options, Running, running
from podnet.objects.kinds import Kind

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Api:
    """A client of one server: each verb answers (code, document)."""

    def __init__(self, session: aiohttp.ClientSession, server: Running, folder: Path) -> None:
        self.session = session
        self.url = server.url
        self.registry = server.registry
        self.folder = folder

    async def ask(
        self, method: str, path: str, body: Any = None, content: str = JSON, accept: str = JSON, **query: Any
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes | io.BytesIO | None) else json.dumps(body).encode()
        headers = {"Accept": accept, **({"Content-Type": content} if data is not None else {})}
        async with self.session.request(method, self.url + path, data=data, headers=headers, params=query) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == JSON else text

    async def get(self, path: str, **query: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **query)

    async def create(self, kind: Kind, document: Any, **query: Any) -> Any:
        """The created object; anything but 201 fails the test."""
        namespace = document["metadata"].get("namespace", "")
        code, answer = await self.ask("POST", kind.path(namespace), document, **query)
        assert code == 201, answer
        return answer

    async def patch(self, path: str, body: Any, kind: str = "merge-patch", **query: Any) -> tuple[int, Any]:
        return await self.ask("PATCH", path, body, content=f"application/{kind}+json", **query)

    @asynccontextmanager
    async def watch(self, path: str, accept: str = JSON, **query: Any) -> AsyncIterator[Watch]:
        query = {"watch": "true", **query}
        async with self.session.get(self.url + path, params=query, headers={"Accept": accept}) as answer:
            yield Watch(answer)


class Watch:
    """The lines of a watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self, seconds: float = 5.0) -> Any:
        """The next event; None at the end of the stream."""
        async with asyncio.timeout(seconds):
            line = await self.answer.content.readline()
        return json.loads(line) if line else None

    async def rest(self) -> list[Any]:
        """All events until the server ends the stream."""
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (event := await self.next()) is not None:
            yield event


def options(folder: Path, **more: Any) -> Options:
    base: dict[str, Any] = {
        "data_dir": str(folder), "listen": (), "listen_fd": (), "advertise_san": (), "pod_cidr": (), "public_url": "",
        "durability": "normal",
    }  # fmt: skip
    return Options(**(base | more))


@asynccontextmanager
async def serving(folder: Path, **more: Any) -> AsyncIterator[Api]:
    """A server whose data is in `folder`, and its administrator."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with running(options(folder, **more), [sock]) as server:
            authority = pki.load_authority(str(folder))
            context = pki.client_context(authority, pki.issue(authority, "admin", ("system:masters",)))
            connector = aiohttp.TCPConnector(ssl=context, limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Api(session, server, folder)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:  # a disk would spend most of the time in fsync
        async with serving(Path(folder)) as api:
            yield api


async def until(condition: Any, seconds: float = 5.0) -> Any:
    """The first true answer of an async condition; its own end after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    found = await condition()
    while not found and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
        found = await condition()
    assert found, f"{condition} did not come true in {seconds} s"
    return found
