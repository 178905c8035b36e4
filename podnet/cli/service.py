"""`podnet service`: what a packet to a Service would meet on a node, and what the node's kernel knows about it.

The agent says how it sees the Service and what its kernel holds (GET /v1/services); what that means for one client is
worked out here, by the function that is tested against the rendered rules (network/proxy/explain.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlencode

import click
import msgspec

from podnet.cli.output import emit, output_option, table
from podnet.cli.target import AgentAway, Node, Target, endpoints, node_option, target_options
from podnet.errors import UserError
from podnet.network.proxy.algorithms import RANDOM
from podnet.network.proxy.explain import Meeting, client_at, explain
from podnet.network.proxy.live import Live, place, with_ejections
from podnet.network.proxy.manners import MANNERS, Client
from podnet.network.proxy.settled import settled
from podnet.network.proxy.shown import ServiceShown, ServicesShown, Shown
from podnet.network.reach import Endpoint
from podnet.network.view import is_v6

LIST = """\b
Examples:
  podnet service list                      every Service, as the first node sees it
  podnet service list -n demo --node node2
Exit codes: 0 done, 1 some Service can't be honoured in part, 2 wrong input.
"""
DESCRIBE = """\b
Examples:
  podnet service describe web -n demo                    for pods of the first node, and for clients outside
  podnet service describe web -n demo --from demo/client-1
  podnet service describe web -n demo --from 198.51.100.7 --node node2
  podnet service describe web -n demo --from node1 -o json
Exit codes: 0 all is in place, 1 the kernel lacks something of it or a part can't be honoured, 2 wrong input.
"""
LISTED = ("NAMESPACE", "NAME", "TYPE", "MODE", "FRONTENDS", "READY", "PROBLEMS")
MET = ("FRONTEND", "KIND", "FROM", "ENDPOINT", "SHARE", "SEES", "CONNECTIONS", "REMARK")
STAYS = ("CLIENT", "ENDPOINT", "PORT")
KINDS = {"cluster": "cluster", "external": "external IP", "balancer": "load balancer", "node": "node port"}
NOBODY = "spec.proxy.mode is {}, so whatever serves Services here is not podnet"
NODE_SEES = ("client", "node")


class From(NamedTuple):
    """A client with the name that people know it by."""

    name: str
    client: Client


@click.group(epilog="\b\nExamples:\n  podnet service list\n  podnet service describe web --from 198.51.100.7")
def command() -> None:
    """Show the Services, and what a packet to one would meet."""


@command.command(name="list", epilog=LIST)
@click.option("-n", "--namespace", default="", metavar="NAME", help="Only Services of this namespace.")
@node_option("As this node sees them.")
@output_option
@target_options
def list_all(target: Callable[[], Target], namespace: str, node: str | None, output: str) -> int:
    """Show one line for each Service: its frontends, how many of its endpoints are ready, what is wrong."""
    shown = _ask(target().only(node).nodes[0], namespace=namespace, brief="1")
    emit(shown, output, lambda: table(LISTED, (_line(each, shown.mode) for each in shown.services)))
    return 1 if any(each.problems for each in shown.services) else 0


@command.command(epilog=DESCRIBE)
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME", help="Of the Service.")
@click.option("--from", "source", default=None, metavar="SOURCE", help="An address, NAMESPACE/POD, or a node's name.")
@node_option("Where the packet enters; if not said, the node of SOURCE, or the first.")
@output_option
@target_options
def describe(
    target: Callable[[], Target], name: str, namespace: str, source: str | None, node: str | None, output: str
) -> int:
    """Show for each frontend of a Service what a packet would meet.

    SHARE is an endpoint's part of new connections (none while it is ejected, all if SOURCE stays with it), SEES whose
    address it takes for the client's, CONNECTIONS how many it has now through this node. KIND is the sort of address
    that the frontend is.
    """
    chosen, where = target(), _find(target(), source)
    at = chosen.only(node or (where.node if where else None)).nodes[0]
    shown = _ask(at, namespace=namespace, name=name)
    if not shown.services:
        raise UserError(f"there is no Service {name} in namespace {namespace}: podnet service list shows all there are")
    (service,) = shown.services
    clients = tuple(_clients(source, where, shown))
    found = [(each.name, meeting) for each in clients for meeting in met(each.client, service, shown)]
    value = {
        "node": shown.node,
        "mode": shown.mode,
        "service": service,
        "meetings": [{"from": name, **msgspec.to_builtins(meeting)} for name, meeting in found],
    }
    families = {is_v6(each.client.address) for each in clients if each.client.address} or {False, True}
    emit(value, output, lambda: "\n".join(_text(shown, service, found, families)))
    return 1 if service.problems or service.held is False else 0


def met(who: Client, service: ServiceShown, shown: ServicesShown) -> Iterator[Meeting]:
    """What a Service's frontends lead a client to now."""
    for each in service.ports:
        for meeting in explain((each.port,), who, shown.surroundings):
            yield settled(with_ejections(meeting, each.live), who, each.port, each.live, shown.surroundings.mode)


def _ask(node: Node, **query: str) -> ServicesShown:
    """Raises UserError."""
    try:
        answer = node.ask(f"services?{urlencode({key: text for key, text in query.items() if text})}")
        shown = msgspec.convert(answer, ServicesShown)
    except AgentAway as away:
        raise UserError(f"{away}: start it, or bring up a lab with podnet lab up") from None
    except msgspec.ValidationError as error:
        raise UserError(
            f"the agent of {node.name or 'this node'} is of another version ({error}): restart it"
        ) from None
    if shown.reason:
        raise UserError(f"{shown.node} knows of no Services yet: {shown.reason}")
    return shown


def _find(target: Target, source: str | None) -> Endpoint | None:
    """The pod or node that is meant, or has the address. Raises UserError for a name that nobody has."""
    if source is None:
        return None
    known = []
    for node in target.nodes:
        try:
            known += endpoints(node)
        except AgentAway as away:
            click.echo(f"podnet: left out: {away}", err=True)
    found = next((each for each in known if source == each.name or source in each.addresses), None)
    if found is None and not _is_address(source):
        example = next((each.name for each in known if each.kind == "pod"), "demo/web-1")
        raise UserError(
            f"--from {source} is no address and no pod or node here: write it as 10.0.0.1, {example} or node1"
        )
    return found


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _clients(source: str | None, where: Endpoint | None, shown: ServicesShown) -> Iterator[From]:
    if source is None:
        yield From("pod", Client("pod"))
        yield From("outside", Client("outside"))
        return
    for address in [source] if _is_address(source) else where.addresses if where else ():
        yield From(source, client_at(str(ip_address(address)), shown.surroundings))


def _line(service: ServiceShown, mode: str) -> tuple[object, ...]:
    fronts = dict.fromkeys(
        f"{place(each.address or '*', each.port)}/{shown.port.protocol}"
        for shown in service.ports
        for each in shown.port.frontends
    )
    ready = f"{service.ready}/{service.total}"
    said = "; ".join(dict.fromkeys(problem.message for problem in service.problems))
    return service.namespace, service.name, service.type, mode, " ".join(fronts) or None, ready, said or None


def _text(
    shown: ServicesShown, service: ServiceShown, found: list[tuple[str, Meeting]], families: set[bool]
) -> Iterator[str]:
    held = {True: "the kernel holds all of it", False: "the kernel LACKS something of it", None: "not in the kernel"}
    yield f"Service {service.namespace}/{service.name}, type {service.type}, on {shown.node} in mode {shown.mode}"
    yield f"{service.ready} of {service.total} endpoints are ready; {held[service.held]}"
    yield from (f"{problem.object}: {problem.message}" for problem in service.problems)
    if not found:
        yield f"no frontend leads here: {_why_none(service) if shown.mode in MANNERS else NOBODY.format(shown.mode)}"
        return
    yield "\n" + table(MET, (row for name, meeting in found for row in _rows(name, meeting, service)))
    if stays := [row for each in service.ports if each.port.v6 in families for row in _stays(each)]:
        yield "\n" + table(STAYS, stays)


def _stays(shown: Shown) -> Iterator[tuple[str, str, str]]:
    """Who stays where, in mode ipvs at which of its frontends."""
    label, live = shown.port.label, shown.live or Live()
    yield from ((*stay, label) for stay in live.affinity.items())
    for at, kept in live.affinity_at.items():
        yield from ((*stay, f"{label} at {at}") for stay in kept.items())


def _why_none(service: ServiceShown) -> str:
    if service.type == "ExternalName":
        return "it is only another name"
    if "None" in service.addresses:
        return "it is headless, its name leads to the pods themselves"
    return "none is of the client's IP family" if service.ports else "it has no cluster address that could be served"


def _rows(name: str, meeting: Meeting, service: ServiceShown) -> Iterator[tuple[object, ...]]:
    front = f"{place(meeting.address, meeting.number)}/{meeting.protocol}"
    if meeting.segment:
        name = f"{name} in {', '.join(meeting.segment)}"
    start = (front, KINDS[meeting.scope], name)
    if meeting.outcome != "to":
        yield (*start, meeting.outcome, None, None, None, meeting.why)
    live = _live(meeting, service)
    for share in meeting.shares:
        address = share.endpoint.address
        remarks = [
            *(["ejected"] if live and meeting.retry and address in live.ejected else []),
            *([f"affinity {meeting.affinity} s"] if meeting.affinity else []),
            *(["retry"] if meeting.retry else []),
            *([f"next after {', '.join(f'{each:g}' for each in meeting.timeouts)} s"] if meeting.timeouts else []),
            *([f"{live.inactive[address]} inactive"] if live and address in live.inactive else []),
            *([meeting.algorithm] if meeting.algorithm != RANDOM else []),
            *([f"only from {', '.join(meeting.source_ranges)}"] if meeting.source_ranges else []),
        ]
        connections = live.connections.get(address, 0) if live else None
        at = place(address, share.endpoint.port)
        yield (*start, at, f"{share.percent:.1f}%", NODE_SEES[share.hidden], connections, ", ".join(remarks))


def _live(meeting: Meeting, service: ServiceShown) -> Live | None:
    """What the kernel knows of the port that the frontend belongs to."""
    wanted = (meeting.port, meeting.protocol, is_v6(meeting.address))
    return next(
        (each.live for each in service.ports if (each.port.label, each.port.protocol, each.port.v6) == wanted), None
    )
