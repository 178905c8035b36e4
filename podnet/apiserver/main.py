"""`podnet apiserver`: the program around the API server. It opens what it needs, says one line, and closes in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address, ip_network
from itertools import product

import click
import msgspec
import uvloop
from aiohttp import web

from podnet.apiserver import kubernetes_service, pki
from podnet.apiserver.allocation import Allocation
from podnet.apiserver.controllers import LEASE_NAMESPACE, Controllers
from podnet.apiserver.database import DURABILITY, Database
from podnet.apiserver.logs import LogProxy
from podnet.apiserver.registry import Registry
from podnet.apiserver.server import Server, make_request
from podnet.apiserver.status import ApiError, Document
from podnet.apiserver.store import Store
from podnet.apiserver.validation.rules import cidrs
from podnet.errors import UserError
from podnet.network.controllers.load_balancers import Pool
from podnet.network.controllers.node_ports import PortRange
from podnet.network.controllers.service_ips import Range
from podnet.objects.kinds import NAMESPACES, Kind

NAMES = (
    "localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)  # fmt: skip
INITIAL_NAMESPACES = ("default", "kube-system", LEASE_NAMESPACE)
GRACE_SECONDS = 1.0  # for requests under way when the server ends
_BACKLOG = 1024


class Options(msgspec.Struct, frozen=True):
    """What the command line asked for."""

    data_dir: str
    listen: tuple[str, ...]
    listen_fd: tuple[int, ...]
    advertise_san: tuple[str, ...]
    pod_cidr: tuple[str, ...]
    public_url: str
    durability: str
    service_cluster_ip_range: tuple[str, ...] = ("10.96.0.0/16",)
    service_node_port_range: str = str(PortRange())
    load_balancer_pool: tuple[str, ...] = ()
    advertise_address: str = ""

    @property
    def ranges(self) -> list[Range]:
        """Those of --service-cluster-ip-range, at most one of each family. Raises ValueError."""
        found = [Range.parse(text) for words in self.service_cluster_ip_range for text in words.split(",")]
        if len({each.family for each in found}) < len(found):
            raise ValueError("there may be one range of each family")
        for each, pods in product(found, map(ip_network, self.pod_cidr)):
            if each.network.version == pods.version and each.network.overlaps(pods):
                raise ValueError(f"{each.network} overlaps --pod-cidr {pods}: give Services a range of their own")
        return found

    @property
    def pools(self) -> list[Pool]:
        """Those of --load-balancer-pool. Raises ValueError."""
        return [Pool.parse(text) for words in self.load_balancer_pool for text in words.split(",")]


@click.command(name="apiserver")
@click.option("--data-dir", required=True, help="Where objects and keys are kept; made if missing.")
@click.option("--listen", multiple=True, help="ADDRESS:PORT, [V6]:PORT; repeatable. [default: 127.0.0.1:6443]")
@click.option("--listen-fd", multiple=True, type=int, help="An inherited listening socket; repeatable.")
@click.option("--advertise-san", multiple=True, help="A further name or address clients use; repeatable.")
@click.option("--pod-cidr", multiple=True, help="Cluster range while no NetworkConfig names one; once per family.")
@click.option(
    "--service-cluster-ip-range",
    multiple=True,
    default=("10.96.0.0/16",),
    show_default=True,
    help="Addresses of Services; once per family, the first is the cluster's own family.",
)
@click.option(
    "--service-node-port-range", default=str(PortRange()), show_default=True, help="Ports that nodes serve Services on."
)
@click.option(
    "--load-balancer-pool",
    multiple=True,
    help="CIDR or A-B: addresses for Services of type LoadBalancer; repeatable. [default: none are given]",
)
@click.option(
    "--advertise-address",
    default="",
    help="The endpoint of the Service kubernetes. [default: the first --listen that is not the loopback]",
)
@click.option("--public-url", default="", help="The address written to admin.kubeconfig. [default: the first --listen]")
@click.option(
    "--durability", type=click.Choice(DURABILITY), default="normal", show_default=True,
    help="full: a power cut loses no acknowledged write; normal: at most the last second. A crash never loses one.",
)  # fmt: skip
def command(**options: object) -> None:
    """Serve the Kubernetes API from one process and one SQLite file.

    \b
    Example: podnet apiserver --data-dir /var/lib/podnet --listen 0.0.0.0:6443 --advertise-san api.example
    Then:    kubectl --kubeconfig /var/lib/podnet/admin.kubeconfig get nodes
    """
    chosen = msgspec.convert(options, Options)
    _, causes = cidrs("--pod-cidr", chosen.pod_cidr)
    if causes:
        raise UserError(f"{causes[0].field}: {causes[0].message}")
    _check(chosen)
    with contextlib.ExitStack() as stack:
        sockets = _sockets(chosen, stack)
        _open_data_dir(chosen.data_dir, stack)
        try:
            uvloop.run(_serve(chosen, sockets))
        except sqlite3.Error as error:
            raise UserError(f"{chosen.data_dir}/podnet.db cannot be used: {error}; restore a backup") from None


def _check(options: Options) -> None:
    """Refuse words that mean nothing before anything is opened."""
    checks: dict[str, Callable[[], object]] = {
        "service-cluster-ip-range": lambda: options.ranges,
        "service-node-port-range": lambda: PortRange.parse(options.service_node_port_range),
        "load-balancer-pool": lambda: options.pools,
        "advertise-address": lambda: ip_address(options.advertise_address or "0.0.0.0"),
    }
    for name, check in checks.items():
        try:
            check()
        except ValueError as error:
            raise UserError(f"--{name}: {error}") from None


def _sockets(options: Options, stack: contextlib.ExitStack) -> list[socket.socket]:
    sockets = []
    for number in options.listen_fd:
        try:
            sockets.append(stack.enter_context(socket.socket(fileno=number)))
        except OSError as error:
            raise UserError(f"--listen-fd {number} is no open socket: {error.strerror}") from None
    wanted = options.listen or (() if sockets else ("127.0.0.1:6443",))
    return sockets + [_bind(address, stack) for address in wanted]


def _bind(text: str, stack: contextlib.ExitStack) -> socket.socket:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--listen {text!r}: write ADDRESS:PORT, such as 127.0.0.1:6443 or [::1]:6443")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        sock = stack.enter_context(socket.socket(family, kind))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = "stop what uses it or choose another port" if taken else "give an address of this machine"
        raise UserError(f"cannot listen on {text}: {error.strerror}; {advice}") from None
    return sock


def _open_data_dir(path: str, stack: contextlib.ExitStack) -> None:
    """Make the folder and hold its lock: two servers on one file would not see each other's writes."""
    os.umask(0o077)  # Secrets are in there
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(path, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"--data-dir {path} is in use by another API server; stop that one first") from None
    except OSError as error:
        raise UserError(f"--data-dir {path} cannot be used: {error.strerror}") from None


class Running(msgspec.Struct, frozen=True):
    """A server that answers: where, its objects, and the task whose end is a bug."""

    url: str
    registry: Registry
    controllers: asyncio.Task[None]


async def _serve(options: Options, sockets: Sequence[socket.socket]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(options, sockets) as server:
        click.echo(f"podnet apiserver is ready at {server.url}")
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({stopping, server.controllers}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            server.controllers.result()  # raises what ended it


@contextlib.asynccontextmanager
async def running(options: Options, sockets: Sequence[socket.socket]) -> AsyncIterator[Running]:
    """A server that answers on `sockets` while the context lasts."""
    authority = pki.load_authority(options.data_dir)
    hosts = [sock.getsockname()[0] for sock in sockets]
    server_cert = pki.issue(authority, "kube-apiserver", sans=(*NAMES, *hosts, *_more_names(options)))
    client_cert = pki.issue(authority, "kube-apiserver-kubelet-client", ("system:masters",))
    host, port = sockets[0].getsockname()[:2]
    url = options.public_url or f"https://{f'[{host}]' if ':' in host else host}:{port}"
    admin = pki.issue(authority, "admin", ("system:masters",))
    pki.write_kubeconfig(os.path.join(options.data_dir, "admin.kubeconfig"), url, authority, "admin", admin)
    async with _registry(options) as registry:
        logs = LogProxy(registry, pki.client_context(authority, client_cert, check_hostname=False))
        server = Server(registry, logs)
        runner = web.ServerRunner(
            web.Server(server.handle, request_factory=make_request, handler_cancellation=True, access_log=None),
            shutdown_timeout=GRACE_SECONDS,
        )
        await runner.setup()
        addresses = [sock.getsockname()[:2] for sock in sockets]
        first = options.ranges[0]
        place = kubernetes_service.advertised(options.advertise_address, addresses, first.network.version)
        itself = kubernetes_service.wanted(first, place)
        await _introduce(registry, itself)
        controllers = asyncio.create_task(_decide(options, registry, itself))
        try:
            context = pki.server_context(authority, server_cert)
            for sock in sockets:
                await web.SockSite(runner, sock, ssl_context=context, backlog=_BACKLOG).start()
            yield Running(url, registry, controllers)
        finally:
            server.ready = False
            registry.store.close_watchers()
            await runner.cleanup()
            await logs.close()
            controllers.cancel()
            await asyncio.gather(controllers, return_exceptions=True)


def _more_names(options: Options) -> list[str]:
    """What else clients may call this server: the Service kubernetes is one of them."""
    own = [options.advertise_address] if options.advertise_address else []
    return [*(each.first for each in options.ranges), *own, *options.advertise_san]


async def _decide(options: Options, registry: Registry, itself: Sequence[tuple[Kind, Document]]) -> None:
    """Everything that this server does by itself, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Controllers(registry, options.pod_cidr, click.echo, options.pools).run())
        tasks.create_task(_keep(registry, itself))


async def _keep(registry: Registry, itself: Sequence[tuple[Kind, Document]]) -> None:
    while True:
        await asyncio.sleep(kubernetes_service.KEEP_SECONDS)
        await _introduce(registry, itself)


async def _introduce(registry: Registry, itself: Sequence[tuple[Kind, Document]]) -> None:
    """See to the Service kubernetes; the cluster works without, so a server that can't goes on."""
    try:
        await kubernetes_service.ensure(registry, itself)
    except ApiError as error:
        click.echo(f"the Service kubernetes is not as it should be: {error}")


@contextlib.asynccontextmanager
async def _registry(options: Options) -> AsyncIterator[Registry]:
    store = Store(Database(os.path.join(options.data_dir, "podnet.db"), options.durability, _boot_id()))
    try:
        allocation = Allocation(store, options.ranges, PortRange.parse(options.service_node_port_range))
        registry = Registry(store, allocation=allocation)
        await asyncio.gather(*(_ensure_namespace(registry, name) for name in INITIAL_NAMESPACES))
        yield registry
    finally:
        store.close()


async def _ensure_namespace(registry: Registry, name: str) -> None:
    with contextlib.suppress(ApiError):  # it is there already
        await registry.create(NAMESPACES, "", {"metadata": {"name": name}})


def _boot_id() -> str:
    """Which boot of the kernel this is: another one than last time may mean that the power went."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
