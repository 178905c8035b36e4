"""`podnet dns healthz`: what commands say about a server, as HTTP for liveness and readiness probes.

Each command runs again and again, in the background; a request is answered with the last result: 200 "ok" when it ended
with 0, 503 with what it printed when it did not, and 503 too when the result is old. So a probe costs no process, and a
command that hangs is found out; it is killed then.
Source: kubernetes/contrib exec-healthz 1.2: flags, texts, codes. (It takes an unknown path for "/"; here that is 404.)
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

import click
from aiohttp import web

from podnet.daemons.children import Child
from podnet.dns.ending import Ending
from podnet.dns.flags import DURATION, Command
from podnet.errors import UserError

log = logging.getLogger(__name__)

LONGEST = 1 << 14
"""Bytes of a command's output that are kept."""

LINKS = {
    "/healthz": 'healthz probe. Returns "ok" if the command given through -cmd exits with 0.',
    "/quit": "Cause this container to exit.",
}


@click.command(cls=Command)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Where to serve.")
@click.option("--cmd", "cmds", multiple=True, help="A command for sh -c; 0 is healthy. May be repeated, as --url.")
@click.option("--url", "urls", multiple=True, help="The path of the command in the same place.  [default: /healthz]")
@click.option("--period", default="2s", show_default=True, type=DURATION, help="From one run to the next.")
@click.option("--latency", default="30s", show_default=True, type=DURATION, help="An older result is none.")
@click.option("--quiet", is_flag=True, help="Log errors only.")
@click.option("--lameduck", default="5s", show_default=True, type=DURATION, help="Serve on after SIGTERM.")
def command(
    port: int, cmds: tuple[str, ...], urls: tuple[str, ...], period: float, latency: float, quiet: bool, lameduck: float
) -> None:
    """Serve the results of commands as health checks.

    \b
    Example:
      podnet dns healthz --quiet --period 10s \\
        --url /healthz-dnsmasq --cmd 'podnet dns ask kubernetes.default.svc.cluster.local' \\
        --url /healthz-kubedns --cmd 'podnet dns ask kubernetes.default.svc.cluster.local @127.0.0.1:10053'
    """
    cmds, urls = cmds or ("echo healthz",), urls or ("/healthz",)
    if len(cmds) != len(urls):
        raise UserError(f"there are {len(cmds)} --cmd and {len(urls)} --url: give as many of one as of the other")
    if len(set(urls)) < len(urls) or not all(url.startswith("/") for url in urls) or {"/", "/quit"} & set(urls):
        raise UserError("each --url must be another path that begins with a slash, and neither / nor /quit")
    if not period or not latency:
        raise UserError("--period and --latency must be longer than 0")
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(asctime)s %(message)s")
    checks = [Check(cmd, url, period, latency) for cmd, url in zip(cmds, urls, strict=True)]
    asyncio.run(_main(checks, port, lameduck))


async def _main(checks: Sequence[Check], port: int, lameduck: float) -> None:
    ending = Ending(lameduck)
    runner = web.AppRunner(application(checks, ending.end), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port).start()
    except OSError as error:
        raise UserError(f"can't listen on port {port}: {error.strerror}; choose another --port") from None
    tasks = [asyncio.create_task(check.run()) for check in checks]
    await ending.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await runner.cleanup()


class Check:
    """One command: `run` it for ever, `answer` at any time. Times in seconds."""

    def __init__(self, cmd: str, url: str, period: float, latency: float) -> None:
        self.cmd = cmd
        self.url = url
        self._period = period
        self._latency = latency
        self._done("", "")  # as if it had just gone well: so it has `latency` for its first run

    def answer(self) -> tuple[int, str]:
        """An HTTP status, and what to say."""
        at = self._at.strftime("%Y-%m-%d %H:%M:%S.%f %z %Z")
        result = f"Result of last exec: {self._output}, at {at}, error {self._error or 'None'}"
        if self._error:
            return 503, f"Healthz probe error: {result}"
        if monotonic() - self._since > self._latency:
            return 503, f"Latest result too old to be useful: {result}."
        return 200, "ok"

    async def run(self) -> None:
        """For ever; when a run takes longer than the period, the next begins at once."""
        wait = self._period
        while True:
            await asyncio.sleep(wait)
            started = monotonic()
            log.info("Worker running %s to serve %s", self.cmd, self.url)
            self._done(*await self._once())
            wait = max(0.0, self._period - (monotonic() - started))

    def _done(self, output: str, error: str) -> None:
        self._output, self._error = output, error
        self._at, self._since = datetime.now().astimezone(), monotonic()

    async def _once(self) -> tuple[str, str]:
        """What it printed, and how it failed: "" when it did not."""
        output = bytearray()

        def heard(piece: bytes) -> None:
            output.extend(piece[: LONGEST - len(output)])

        try:
            child = Child(["sh", "-c", self.cmd], heard)
        except OSError as error:
            return "", str(error)
        try:
            async with asyncio.timeout(self._latency):
                failed = _error(await child.wait())
        except TimeoutError:
            failed = f"signal: killed (it took longer than {self._latency:g} s)"
        return output.decode(errors="replace"), failed


def _error(code: int) -> str:
    """As Go says it."""
    if code < 0:
        return f"signal: {signal.strsignal(-code) or -code}".lower()
    return f"exit status {code}" if code else ""


def application(checks: Sequence[Check], quit_: Callable[[], None]) -> web.Application:
    """The HTTP side; `quit_` is called for /quit."""
    app = web.Application()
    by_url = {check.url: check for check in checks}

    async def healthz(request: web.Request) -> web.Response:
        check = by_url[request.path]
        log.info("Client ip %s requesting %s probe servicing cmd %s", request.remote, check.url, check.cmd)
        code, said = check.answer()
        if code == 200:
            return web.Response(text=said)
        log.error("%s", said)
        return web.Response(status=code, text=f"{said}\n", headers={"X-Content-Type-Options": "nosniff"})

    async def index(_: web.Request) -> web.Response:
        links = "".join(f'<a href="{path}">{path}: {text}</a><br/>' for path, text in LINKS.items())
        return web.Response(
            text=f"<b> Kubernetes healthz sidecar container </b><br/><br/>{links}", content_type="text/html"
        )

    async def leave(request: web.Request) -> web.Response:
        log.warning("Shutdown requested via /quit by %s", request.remote)
        quit_()
        return web.Response()

    app.add_routes([web.get("/", index), web.get("/quit", leave), *(web.get(url, healthz) for url in by_url)])
    return app
