"""A real etcd of one's own, on loopback: started, killed, started again on the same ports, ended by its pid."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

from podnet.client.etcd import EtcdError
from podnet.client.etcd_dialects import Etcd2, Etcd3


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses, for UDP neither."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        port: int = tcp.getsockname()[1]
        return port


class EtcdProcess:
    """One etcd; both APIs are served, unless it is to be as Debian starts it."""

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        self._plain = plain
        self.url = f"http://127.0.0.1:{free_port()}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, data: str = "data") -> None:
        """Returns when it answers; with another name for its data it is an empty one."""
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "etcd", *([] if self._plain else ["--enable-v2"]), "--data-dir", str(self._folder / data),
                "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                "--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer,
                "--initial-cluster", f"default={self._peer}", stdout=log, stderr=log,
            )  # fmt: skip
        async with asyncio.timeout(60), Etcd3([self.url], timeout=2) as three, Etcd2([self.url], timeout=2) as two:
            while True:
                try:
                    await three.read("/ready")
                    if not self._plain:
                        await two.read("/ready")
                except EtcdError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()
