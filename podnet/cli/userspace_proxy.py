"""`podnet userspace-proxy`: the proxy of userspace mode, one process a node, in the node's network namespace.

It starts with nothing to do and does what the node's agent tells it; it outlives the agent. When the mode is another
it stays, so that the connections it carries end by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import click
import uvloop

from podnet.daemons.proxy_feed import FeedServer
from podnet.daemons.userspace_proxy import Proxy
from podnet.errors import UserError

SOCKET = "userspace.sock"


@click.command("userspace-proxy")
@click.option("--run-dir", default="/run/podnet", show_default=True, help=f"Where {SOCKET} is made, for the agent.")
def command(run_dir: str) -> None:
    """Run the userspace proxy (spec.proxy.mode: userspace), in the node's network namespace.

    \b
    Example:
      podnet userspace-proxy --run-dir /run/podnet
    """
    if os.geteuid() != 0:
        raise UserError("the userspace proxy reads the kernel's connection tracking: run it as root or with sudo")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    Path(run_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    uvloop.run(_main(f"{run_dir}/{SOCKET}"))


async def _main(path: str) -> None:
    proxy = Proxy()
    server = FeedServer(path, proxy)
    try:
        await server.start()
    except OSError as error:
        raise UserError(f"can't listen on {path}: {error.strerror}; choose another --run-dir") from None
    running = asyncio.create_task(proxy.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    click.echo("podnet userspace-proxy runs", err=True)
    await asyncio.wait([running])
    server.close()
    proxy.close()
    if not running.cancelled():
        running.result()
