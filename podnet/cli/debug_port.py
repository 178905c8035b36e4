"""`podnet debug-port`: a node port that leads to one pod, for a while.

Each lease is a DebugPort object, so it is listed and ends by itself whether this command runs or not. Its name follows
from pod, port and protocol: asking again for the same makes the lease last longer and keeps the node port.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podnet.cli.output import emit, output_option, table
from podnet.cli.target import Target, target_options
from podnet.errors import UserError
from podnet.network.controllers.debug_ports import expires

if TYPE_CHECKING:
    from podnet.client.api import Api
    from podnet.objects.leases import DebugPort

EXAMPLES = """\b
Examples:
  podnet debug-port web-7f9 5005                    a node port to port 5005 of the pod, for 30 minutes
  podnet debug-port dns 53 --protocol udp --for 2h
  podnet debug-port list -n prod
  podnet debug-port release web-7f9                 all of the pod's; add a port for one of them
Exit codes: 0 done, 2 wrong input.
"""
HEADERS = ("NAMESPACE", "POD", "PORT", "ADDRESS", "LEFT", "NODE")
UNITS = {"s": 1, "m": 60, "h": 3600}
SECONDS = 5.0
T = TypeVar("T")


class Leases(click.Group):
    """What is no subcommand is a pod."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Group."""
        known = (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if not args or args[0] in known else ["lease", *args])


def namespace_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -n."""
    return click.option("-n", "--namespace", default="", metavar="NS", help="The pod's, if not the kubeconfig's.")(
        command
    )


@click.group(cls=Leases, epilog=EXAMPLES)
def command() -> None:
    """Lease a free node port to a pod: POD PORT; see and end leases."""


@command.command()
@click.argument("pod")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--for", "duration", default="30m", show_default=True, metavar="TIME", help="As 90s, 30m or 2h.")
@click.option("--protocol", type=click.Choice(["tcp", "udp", "sctp"]), default="tcp", show_default=True)
@namespace_option
@output_option
@target_options
def lease(
    target: Callable[[], Target], pod: str, port: int, duration: str, protocol: str, namespace: str, output: str
) -> None:
    """Lease a node port to PORT of POD; `podnet debug-port POD PORT` is the same."""
    seconds = length(duration)
    found = _ask(target(), lambda api: _lease(api, namespace, pod, port, protocol.upper(), seconds))
    emit(_shown(found), output, lambda: f"{_place(found)} leads to {pod}:{port} until {expires(found)}")


def length(text: str) -> int:
    """Seconds of 90s, 30m, 2h or 1h30m; raises UserError."""
    parts = re.findall(r"(\d+)([smh])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UserError(f"--for {text} is no time: write one such as 90s, 30m or 2h")
    return sum(int(number) * UNITS[unit] for number, unit in parts)


async def _lease(api: Api, namespace: str, pod: str, port: int, protocol: str, seconds: int) -> DebugPort:
    from podnet.client.api import ApiError
    from podnet.objects.kinds import DEBUGPORTS
    from podnet.objects.leases import DebugPort

    name = f"{pod}-{port}-{protocol.lower()}"
    spec = {"pod": pod, "port": port, "protocol": protocol, "seconds": seconds}
    try:
        await api.create(DEBUGPORTS, {"metadata": {"name": name}, "spec": spec}, namespace, into=DebugPort)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        old = await api.get(DEBUGPORTS, name, namespace, into=DebugPort)
        longer = seconds + round((datetime.now(UTC) - _moment(old.metadata.creation_timestamp)).total_seconds())
        await api.patch(DEBUGPORTS, name, {"spec": {"seconds": longer}}, namespace, into=DebugPort)
    return await _with_address(api, namespace, name)


async def _with_address(api: Api, namespace: str, name: str) -> DebugPort:
    """The lease, once the API has written where it is; as it is when that takes too long."""
    from podnet.objects.kinds import DEBUGPORTS
    from podnet.objects.leases import DebugPort

    end = asyncio.get_running_loop().time() + SECONDS
    while True:
        found = await api.get(DEBUGPORTS, name, namespace, into=DebugPort)
        if found.status.address or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(0.05)


@command.command("list")
@namespace_option
@output_option
@target_options
def list_(target: Callable[[], Target], namespace: str, output: str) -> None:
    """Show all leases; of one namespace with -n."""
    from podnet.objects.kinds import DEBUGPORTS
    from podnet.objects.leases import DebugPort

    found = _ask(target(), lambda api: api.list(DEBUGPORTS, namespace, into=DebugPort))
    emit({"leases": list(map(_shown, found))}, output, lambda: _table(found))


@command.command()
@click.argument("pod")
@click.argument("port", type=click.IntRange(1, 65535), required=False)
@namespace_option
@target_options
def release(target: Callable[[], Target], pod: str, port: int | None, namespace: str) -> None:
    """End the leases of POD, or the one of its PORT."""
    ended = _ask(target(), lambda api: _release(api, namespace or api.namespace, pod, port))
    if not ended:
        raise UserError(f"{pod} has no such lease: podnet debug-port list shows all")
    for each in ended:
        click.echo(f"{_place(each)} no longer leads to {pod}:{each.spec.port}")


async def _release(api: Api, namespace: str, pod: str, port: int | None) -> Sequence[DebugPort]:
    from podnet.objects.kinds import DEBUGPORTS
    from podnet.objects.leases import DebugPort

    all_ = await api.list(DEBUGPORTS, namespace, into=DebugPort)
    meant = [each for each in all_ if each.spec.pod == pod and port in (None, each.spec.port)]
    for each in meant:
        await api.delete(DEBUGPORTS, each.metadata.name, namespace)
    return meant


def _ask(target: Target, work: Callable[[Api], Awaitable[T]]) -> T:
    """Do something with the API; what it refuses is a sentence for the user."""
    from podnet.client.api import Api, ApiError
    from podnet.client.config import ConfigError, load

    async def connected() -> T:
        async with Api(load(target.kubeconfig), timeout=SECONDS) as api:
            return await work(api)

    try:
        return asyncio.run(connected())
    except (ApiError, ConfigError) as error:
        raise UserError(str(error)) from None


def _moment(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)


def _place(found: DebugPort) -> str:
    address = found.status.address or "<pending>"
    return f"[{address}]:{found.spec.node_port}" if ":" in address else f"{address}:{found.spec.node_port}"


def _left(found: DebugPort) -> int | None:
    end = expires(found)
    return max(0, round((_moment(end) - datetime.now(UTC)).total_seconds())) if end else None


def _shown(found: DebugPort) -> dict[str, Any]:
    spec = found.spec
    return {
        "namespace": found.metadata.namespace, "pod": spec.pod, "port": spec.port, "protocol": spec.protocol,
        "address": found.status.address, "nodePort": spec.node_port, "node": found.status.node,
        "expires": expires(found), "left": _left(found),
    }  # fmt: skip


def _table(found: Sequence[DebugPort]) -> str:
    rows = [
        (each.metadata.namespace, each.spec.pod, f"{each.spec.port}/{each.spec.protocol}", _place(each),
         None if (left := _left(each)) is None else f"{left // 60}m{left % 60:02}s", each.status.node)
        for each in found
    ]  # fmt: skip
    return table(HEADERS, rows) if rows else "no debug ports are leased"
