"""Commands as health checks: what is said, that what hangs is killed, and the program as a whole."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner

from podnet.dns.healthz import LONGEST, Check, application, command
from podnet.errors import UserError
from tests.client.waiting import until

PODNET = (sys.executable, "-c", "from podnet.cli.main import main; main()")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4} \S+"


@asynccontextmanager
async def checked(cmd: str, period: float = 0.01, latency: float = 10.0) -> AsyncIterator[Check]:
    check = Check(cmd, "/healthz", period, latency)
    running = asyncio.create_task(check.run())
    try:
        yield check
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_before_the_first_run_it_is_healthy() -> None:
    assert Check("false", "/healthz", 2, 30).answer() == (200, "ok")


async def test_it_follows_the_command(tmp_path: Path) -> None:
    async with checked(f"cat {tmp_path}/file") as check:
        await until(lambda: check.answer()[0] == 503)
        said = check.answer()[1]
        (tmp_path / "file").touch()
        await until(lambda: check.answer()[0] == 200)
    assert re.fullmatch(
        rf"Healthz probe error: Result of last exec: cat: \S+/file: No such file or directory\n, at {TIME}, "
        "error exit status 1",
        said,
    )


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    async with checked(f"echo so far; sleep 600 & echo $! > {tmp_path}/pid; wait", latency=0.3) as check:
        await until(lambda: "signal: killed" in check.answer()[1])
        assert "Result of last exec: so far\n, at" in check.answer()[1]
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text())


async def test_an_old_result_is_none() -> None:
    check = Check("true", "/healthz", 2, 0.02)
    await until(lambda: check.answer()[0] == 503)
    assert re.fullmatch(
        rf"Latest result too old to be useful: Result of last exec: , at {TIME}, error None\.", check.answer()[1]
    )


async def test_a_command_ended_by_a_signal_and_one_that_does_not_exist() -> None:
    for cmd, said in (("kill -9 $$", "error signal: killed"), ("no-such-command-here", "error exit status 127")):
        async with checked(cmd) as check:
            await until(lambda: check.answer()[0] == 503)
            assert check.answer()[1].endswith(said)


async def test_of_much_output_the_beginning_is_kept() -> None:
    async with checked("yes | head -c 5000000; exit 3") as check:
        await until(lambda: check.answer()[0] == 503)
        assert LONGEST <= len(check.answer()[1]) < LONGEST + 200
        assert check.answer()[1].endswith("exit status 3")


async def test_what_is_served() -> None:
    left: list[bool] = []
    good, bad = Check("true", "/good", 2, 30), Check("false", "/bad", 0.01, 30)
    running = asyncio.create_task(bad.run())
    await until(lambda: bad.answer()[0] == 503)
    running.cancel()
    async with TestClient(TestServer(application([good, bad], lambda: left.append(True)))) as client:
        answer = await client.get("/good")
        assert (answer.status, await answer.text()) == (200, "ok")
        answer = await client.get("/bad")
        assert (answer.status, answer.content_type) == (503, "text/plain")
        assert (await answer.text()).startswith("Healthz probe error: Result of last exec: , at ")
        assert "/quit" in await (await client.get("/")).text()
        assert (await client.get("/healthz")).status == 404
        assert not left
        assert (await client.get("/quit")).status == 200
        assert left


@pytest.mark.parametrize(
    "args",
    [
        ["--cmd", "a", "--cmd", "b", "--url", "/a"],
        ["--cmd", "a", "--cmd", "b", "--url", "/a", "--url", "/a"],
        ["--url", "a"],
        ["--url", "/quit"],
        ["--period", "0"],
    ],
)
def test_what_does_not_fit(args: list[str]) -> None:
    assert isinstance(CliRunner().invoke(command, args).exception, UserError)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


@pytest.mark.parametrize("how", ["quit", "signal"])
def test_the_program_serves_until_it_is_told_to_end(how: str) -> None:
    asyncio.run(_live_and_end(how, free_port()))


async def _live_and_end(how: str, port: int) -> None:
    words = ["dns", "healthz", f"-port={port}", "-cmd=true", "--period", "50ms", "--lameduck", "300ms", "--quiet"]
    child = await asyncio.create_subprocess_exec(*PODNET, *words)
    url = f"http://127.0.0.1:{port}"

    async def get(path: str) -> int:
        def blocking() -> int:
            try:
                return int(urllib.request.urlopen(url + path, timeout=5).status)
            except HTTPError as error:
                return error.code
            except OSError:
                return 0

        return await asyncio.to_thread(blocking)

    try:
        async with asyncio.timeout(30):
            while await get("/healthz") != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if how == "quit":
                await get("/quit")
            else:
                os.kill(child.pid, signal.SIGTERM)
                assert await get("/healthz") == 200
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
