"""`podnet dns ask`: one question to a DNS server, for health checks and for people.

It is for images that hold podnet and neither nslookup nor dig: its exit code says whether the name is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

import click
import msgspec

from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.dns.flags import DURATION
from podnet.errors import UserError
from podnet.network.dns.settings import resolvers, server
from podnet.wire import dns

RESOLV_CONF = "/etc/resolv.conf"


class Asked(msgspec.Struct, frozen=True):
    """What is to be asked, and by which types: any of them will do."""

    name: str
    types: tuple[str, ...]
    server: str


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="NAME [TYPE] [@SERVER[:PORT]]")
@click.option("--timeout", default="2s", show_default=True, type=DURATION, help="For an answer; asked for twice.")
def command(words: tuple[str, ...], timeout: float) -> int:
    """Ask a DNS server for a name, as it stands: no search path is walked.

    Without TYPE: A, else AAAA; PTR for an address. Without SERVER: the first of /etc/resolv.conf. Exit codes: 0 there
    is such a record, 1 there is none, or no answer; 2 wrong input.

    \b
    Examples:
      podnet dns ask web.demo.svc.cluster.local
      podnet dns ask _http._tcp.web.demo.svc.cluster.local SRV @127.0.0.1:10053
    """
    asked = parse(words)
    try:
        found = server(asked.server or _first_server())
    except ValueError as error:
        raise UserError(str(error)) from None
    return asyncio.run(_ask(Asking(found.address, found.port, timeout), asked))


def parse(words: tuple[str, ...]) -> Asked:
    """The words, in any order. Raises UserError."""
    types = [word.upper() for word in words if word.upper() in dns.TYPES]
    servers = [word[1:] for word in words if word.startswith("@")]
    names = [word for word in words if word.upper() not in dns.TYPES and not word.startswith("@")]
    if len(names) != 1 or len(types) > 1 or len(servers) > 1:
        raise UserError("say one name, at most one type of record, and at most one @SERVER")
    text, usual = names[0], ["A", "AAAA"]
    with suppress(ValueError):
        text, usual = ip_address(text).reverse_pointer, ["PTR"]
    try:
        dns.name(text)
    except dns.Malformed as error:
        raise UserError(f"there is no such name: {error}") from None
    return Asked(text, tuple(types or usual), "".join(servers))


def _first_server() -> str:
    try:
        with open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:
            found = resolvers(file.read())
    except OSError as error:
        raise UserError(f"{RESOLV_CONF} can't be read ({error.strerror}): say @SERVER") from None
    if not found:
        raise UserError(f"{RESOLV_CONF} names no server: say @SERVER")
    return str(found[0])


async def _ask(asking: Asking, asked: Asked) -> int:
    said = ""
    for type_ in asked.types:
        try:
            answer = await asking.ask(asked.name, dns.TYPES[type_])
        except NoAnswer as error:
            said = str(error)
            continue
        for line in _lines(answer):
            click.echo(line)
        if answer.answers:
            return 0
        rcode = dns.RCODES.get(answer.rcode, f"RCODE {answer.rcode}")
        said = f"{asking} says {rcode}" if answer.rcode else f"{asking} has no {' or '.join(asked.types)} of that name"
    click.echo(f"{asked.name}: {said}", err=True)
    return 1


def _lines(answer: dns.Message) -> Iterator[str]:
    for record in answer.answers:
        type_ = dns.TYPE_NAMES.get(record.type, f"TYPE{record.type}")
        yield f"{dns.text(record.name)} {record.ttl} {type_} {dns.shown(record)}"
