"""A cluster's DNS servers on loopback: the embedded API with its Services, kubedns, and dnsmasq in front or alone.

Whoever answers is on one CPU, and whoever asks on the other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterable, Sequence

from podnet.bench import dns_objects
from podnet.bench.programs import BIN, Programs, on_cpu
from podnet.bench.writing import create
from podnet.client.api import Api
from podnet.client.config import load
from podnet.network.dns import dnsmasq, settings
from podnet.objects.kinds import SERVICES, Kind
from podnet.objects.meta import Object
from podnet.objects.services import Service
from podnet.wire import dns

API, KUBEDNS, CACHE, BARE = 6443, 10053, 10153, 10253
SERVERS_CPU = 0
FOLDER = "/run/dns"
_PATIENCE = 120.0


class World:
    """An API server with so many Services; see dns_objects.steady."""

    def __init__(self, services: int) -> None:
        os.makedirs(FOLDER)
        self.services = services
        self._programs = Programs(FOLDER)
        words = ["apiserver", "--data-dir", f"{FOLDER}/api", "--listen", f"127.0.0.1:{API}"]
        self._programs.start("api", [f"{BIN}/podnet", *words])
        self._programs.until(lambda: b"is ready" in self._programs.said("api"), "api")
        self.write(dns_objects.steady(range(services)))
        self.write(dns_objects.backed(each for each in self._listed() if each.metadata.name[1:].isdecimal()))

    def _listed(self) -> tuple[Service, ...]:
        async def listed() -> tuple[Service, ...]:
            async with self.api() as api:
                return await api.list(SERVICES, into=Service)

        return asyncio.run(listed())

    def api(self) -> Api:
        """A client."""
        return Api(load(f"{FOLDER}/api/admin.kubeconfig"))

    def write(self, objects: Iterable[tuple[Kind, Object]]) -> None:
        """Create objects."""

        async def write() -> None:
            async with self.api() as api:
                await create(api, objects, "objects")

        asyncio.run(write())

    def kubedns(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it knows the cluster."""
        words = ["dns", "kubedns", "--dns-port", str(KUBEDNS), "--dns-bind-address", "127.0.0.1"]
        words += ["--kubeconfig", f"{FOLDER}/api/admin.kubeconfig", "--initial-sync-timeout", f"{_PATIENCE:g}s"]
        return self._answering("kubedns", [f"{BIN}/podnet", *words], KUBEDNS)

    def cache(self) -> subprocess.Popen[bytes]:
        """Start dnsmasq as podnet keeps it in front of kubedns."""
        classic = dnsmasq.defaults(dns_objects.DOMAIN, settings.Server("127.0.0.1", KUBEDNS))
        keeper = [f"{BIN}/podnet", "dns", "dnsmasq", "--lameduck", "0", "--", *classic, "--no-resolv"]
        return self._answering("cache", [*keeper, *_place(CACHE)], CACHE)

    def bare(self) -> subprocess.Popen[bytes]:
        """Start dnsmasq with the cluster's names in a file."""
        with open(f"{FOLDER}/hosts", "w", encoding="ascii") as file:
            file.writelines(f"{dns_objects.cluster_ip(n)} {self.name(n)}\n" for n in range(self.services))
        words = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
        return self._answering("bare", ["dnsmasq", *words, f"--addn-hosts={FOLDER}/hosts", *_place(BARE)], BARE)

    def name(self, number: int) -> str:
        """Of a Service."""
        return dns_objects.name(f"s{number}")

    def _answering(self, name: str, words: Sequence[str], port: int) -> subprocess.Popen[bytes]:
        started = self._programs.start(name, words, cpu=on_cpu(SERVERS_CPU))
        last = self.name(self.services - 1)
        self._programs.until(lambda: _answers(port, last), name, _PATIENCE)
        return started


def _place(port: int) -> tuple[str, ...]:
    return (f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root")


def _answers(port: int, name: str) -> bool:
    """Whether a server knows the A record of a name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.2)
        asking.connect(("127.0.0.1", port))
        try:
            asking.send(dns.question(1, dns.name(name), dns.A))
            return bool(dns.read(asking.recv(4096)).answers)
        except OSError:
            return False
