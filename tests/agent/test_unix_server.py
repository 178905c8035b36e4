"""The socket: who may ask, how much, how long; what is left of a dead agent's; the real shim at the other end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from podnet.agent import unix_server
from podnet.agent.attachments import Attachments
from podnet.agent.cni_server import CniServer
from podnet.agent.unix_server import UnixServer
from podnet.errors import UserError
from tests.agent.fakes import Answer, FakeNetwork
from tests.cni.calls import CONFIG, ENV, frame

SHIM = str(shutil.which("podnet-cni", path=sysconfig.get_path("scripts")))


async def ask(path: Path, request: bytes) -> bytes:
    """The answer, b"" when the connection is closed without one."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def echo(request: bytes) -> bytes:
    return b"<" + request + b">"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UnixServer]:
    made = UnixServer(str(tmp_path / "run" / "x.sock"), echo)
    await made.start()
    yield made
    await made.close()


def path_of(server: UnixServer) -> Path:
    return Path(server.path)


async def test_answers(server: UnixServer) -> None:
    assert await ask(path_of(server), b"") == b"<>"
    assert await ask(path_of(server), b"a" * 1_000_000) == b"<" + b"a" * 1_000_000 + b">"


async def test_only_its_user_gets_to_the_socket(server: UnixServer) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(server.path)).st_mode) == 0o700


@pytest.mark.parametrize("uid", [1, 1000, 65534])
async def test_other_users_are_refused(server: UnixServer, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(unix_server, "_peer", lambda connection: uid)
    assert await ask(path_of(server), b"x") == b""


async def test_the_kernel_says_who_asks(server: UnixServer) -> None:
    client, peer = socket.socketpair()
    with client, peer:
        assert unix_server._peer(peer) == os.geteuid()


async def test_too_much(server: UnixServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_server, "LARGEST_REQUEST", 1000)
    assert await ask(path_of(server), b"x" * 1000) != b""
    assert await ask(path_of(server), b"x" * 1001) == b""


async def test_too_slow(server: UnixServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_server, "READ_SECONDS", 0.05)
    reader, writer = await asyncio.open_unix_connection(server.path)
    writer.write(b"no end")
    assert await reader.read() == b""
    writer.close()


async def test_hundreds_at_once(server: UnixServer) -> None:
    answers = await asyncio.gather(*(ask(path_of(server), str(n).encode()) for n in range(400)))
    assert answers == [f"<{n}>".encode() for n in range(400)]


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "x.sock"))
    server = UnixServer(str(tmp_path / "x.sock"), echo)
    await server.start()
    assert await ask(path_of(server), b"1") == b"<1>"
    await server.close()
    assert os.listdir(tmp_path) == []
    await server.close()


async def test_a_living_agents_socket_is_not(server: UnixServer) -> None:
    with pytest.raises(UserError, match="another podnet agent listens there"):
        await UnixServer(server.path, echo).start()
    assert await ask(path_of(server), b"1") == b"<1>"


@pytest.mark.parametrize("name", ["x" * 120, "file/x.sock", "file"])
async def test_paths_that_can_not_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"too long|can't listen"):
        await UnixServer(str(tmp_path / name), echo).start()
    assert os.listdir(tmp_path) == ["file"]


async def test_closing_lets_requests_end(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(request: bytes) -> bytes:
        await go.wait()
        return b"done"

    server = UnixServer(str(tmp_path / "x.sock"), slow)
    await server.start()
    asking = asyncio.ensure_future(ask(path_of(server), b"x"))
    await asyncio.sleep(0.02)
    closing = asyncio.ensure_future(server.close())
    await asyncio.sleep(0.02)
    with pytest.raises(OSError, match=r"No such file|refused"):
        await ask(path_of(server), b"y")
    assert not closing.done()
    go.set()
    assert await asking == b"done"
    await closing


# -- with the shim


async def shim(socket_path: Path, command: str, name: str) -> Answer:
    config = CONFIG | {"agentSocket": str(socket_path)}
    stdin = frame(config).partition(b"\0\0")[2]
    env = ENV | {"CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": f"/run/netns/{name}"}
    process = await asyncio.create_subprocess_exec(
        SHIM, env=env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return Answer(process.returncode, out)


async def through_the_shim(folder: Path) -> None:
    """ADD, ADD again, ADDs at once, DEL; then without the agent."""
    path = folder / "cni.sock"
    store = await Attachments.open(str(folder / "state"), "boot")
    network = FakeNetwork()
    server = CniServer(str(path), store, network, inspect=lambda netns, own: 0)
    await server.start()
    assert (await shim(path, "ADD", "a")).address == "10.244.1.2"
    assert (await shim(path, "ADD", "a")).code == 103
    names = [f"b{n}" for n in range(20)]
    added = await asyncio.gather(*(shim(path, "ADD", name) for name in names))
    assert len({answer.address for answer in added} | {"10.244.1.2"}) == 21
    deleted = await asyncio.gather(*(shim(path, "DEL", name) for name in ["a", *names]))
    assert {(answer.exit, answer.text) for answer in deleted} == {(0, b"")}
    assert (network.kernel, store.all()) == ({}, ())
    await server.close()
    await store.close()
    assert (await shim(path, "ADD", "c")).code == 11


def test_through_the_shim(tmp_path: Path) -> None:
    asyncio.run(through_the_shim(tmp_path))


def test_through_the_shim_on_uvloop(tmp_path: Path) -> None:
    uvloop.run(through_the_shim(tmp_path))
