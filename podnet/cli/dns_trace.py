"""`podnet dns trace`: every question that a pod's resolver asks for a name, who answered it, and why so.

The questions are really sent (dns_walk.py); here is how they are asked for, and what is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import click

from podnet.cli.dns_walk import Asked, Taken, Trace, Walk
from podnet.cli.output import emit, output_option, table
from podnet.cli.target import Target, need_root, target_options
from podnet.errors import UserError
from podnet.network.dns.search import Libc
from podnet.network.dns.tracing import Heard
from podnet.wire import dns

EXAMPLES = """\b
Examples:
  podnet dns trace web --from demo/web-1                  as getaddrinfo asks: A and AAAA, through the search list
  podnet dns trace _http._tcp.web.demo.svc.cluster.local. --type SRV --from demo/web-1
  podnet dns trace 10.96.0.10 --from demo/web-1           the name of an address
  podnet dns trace www.example.com --from demo/web-1 --libc musl -o json
Exit codes: 0 found and all layers agree, 1 not found or some layer says something else, 2 wrong input.
"""
TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "NS", "SOA", "MX", "ANY")
STEPS = ("STEP", "NAME", "TYPE", "SAYS", "TTL", "MS", "ASKED", "ANSWERED BY", "FROM")


@click.command(epilog=EXAMPLES)
@click.argument("name")
@click.option("--from", "source", required=True, metavar="POD", help="NAMESPACE/POD, or the name alone when it is one.")
@click.option("--type", "type_", type=click.Choice(TYPES, case_sensitive=False), default=None, help="[A and AAAA]")
@click.option("--libc", type=click.Choice(["glibc", "musl"]), default="glibc", show_default=True, help="Whose search.")
@output_option
@target_options
def command(target: Callable[[], Target], name: str, source: str, type_: str | None, libc: Libc, output: str) -> int:
    """Show each question that a pod's resolver asks for NAME, who answered, from which cache, and why so.

    SAYS is what the answer holds, or its RCODE; ANSWERED BY the program and pod; FROM its cache, or whom it asked.
    """
    need_root("asking from inside a pod's network namespace")
    found = Walk(target(), source, libc).trace(*_wanted(name, type_))
    emit(_document(found), output, lambda: "\n".join(_text(found)))
    return 0 if found.steps[-1].found and not found.faults else 1


def _wanted(name: str, type_: str | None) -> tuple[str, tuple[str, ...]]:
    """Name and types; an address means its PTR."""
    with suppress(ValueError):
        return ip_address(name).reverse_pointer + ".", (type_ or "PTR",)
    try:
        dns.name(name)
    except dns.Malformed as error:
        raise UserError(f"there is no such name: {error}") from None
    return name, (type_.upper(),) if type_ else ("A", "AAAA")


# -- what is printed


def _document(found: Trace) -> dict[str, Any]:
    steps = [
        {
            "name": taken.step.name,
            "added": taken.step.added,
            "asked": [
                {
                    "type": each.type,
                    "server": each.server,
                    "by": each.by,
                    "from": each.origin,
                    **_heard(each.heard),
                    "outcome": each.explained.outcome,
                    "why": each.explained.why,
                    "instead": each.explained.instead,
                    "layers": [
                        {"pod": layer.pod, "program": layer.program, **_heard(layer.heard)} for layer in each.layers
                    ],
                }
                for each in taken.asked
            ],
        }
        for taken in found.steps
    ]
    return {
        "pod": found.pod, "name": found.name, "libc": found.libc, "resolver": found.resolver, "steps": steps,
        "found": found.steps[-1].found, "faults": found.faults, "endpoints": found.endpoints, "advice": found.advice,
    }  # fmt: skip


def _heard(said: Heard) -> dict[str, Any]:
    return {
        "rcode": said.code, "answers": said.answers, "ttl": said.ttl, "aa": said.aa,
        "milliseconds": round(said.seconds * 1000, 2),
    }  # fmt: skip


def _text(found: Trace) -> Iterator[str]:
    resolver = found.resolver
    searched = f"search {' '.join(resolver.search)}" if resolver.search else "no search list"
    yield (
        f"{found.pod} asks for {found.name} as {found.libc} does: servers {' '.join(resolver.servers)}, {searched}, "
        f"ndots {resolver.ndots}, {resolver.timeout} s, {resolver.attempts} attempts\n"
    )
    yield table(STEPS, (row for number, taken in enumerate(found.steps, 1) for row in _rows(number, taken)))
    yield ""
    for number, taken in enumerate(found.steps, 1):
        for why in dict.fromkeys(_why(each) for each in taken.asked if each.explained.why and not each.heard.answers):
            yield f"step {number}: {why}"
    yield from (f"NOTE {each}" for each in found.faults)
    yield from found.endpoints
    if found.advice:
        yield found.advice
    if not found.steps[-1].found:
        yield f"{found.name} was not found"


def _why(asked: Asked) -> str:
    instead = asked.explained.instead
    also = "" if all(each in asked.explained.why for each in instead) else f" (there is {', '.join(instead)})"
    return f"{asked.explained.why}{also}"


def _rows(number: int, taken: Taken) -> Iterator[tuple[object, ...]]:
    for each in taken.asked:
        said = ", ".join(answer.text for answer in each.heard.answers) or each.heard.code
        milliseconds = f"{each.heard.seconds * 1000:.1f}"
        yield (
            number, taken.step.name, each.type, said, each.heard.ttl, milliseconds, each.server, each.by, each.origin
        )  # fmt: skip
