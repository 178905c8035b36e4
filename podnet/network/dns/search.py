"""What a resolver makes of a name: the questions that it asks, in which order, and when it is content.

    www.example.com, ndots 5, search demo.svc.cluster.local svc.cluster.local cluster.local
      1 www.example.com.demo.svc.cluster.local   2 www.example.com.svc.cluster.local   3 www.example.com.cluster.local
      4 www.example.com

glibc and musl read the same file and differ in what they do with it. A name with `ndots` dots or more is asked as it
stands first, and then glibc goes through the search list, musl does not. After "there is such a name, but nothing of
that type" (NODATA) glibc goes on and musl ends; after SERVFAIL likewise. glibc asks one server after the other, musl
all at once and takes the first answer.
Source: resolv.conf(5), glibc resolv/res_{init,query,send}.c, musl src/network/{resolvconf,lookup_name,res_msend}.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from podnet.network.value import Value
from podnet.wire import dns
from podnet.wire.dns import Malformed

Libc = Literal["glibc", "musl"]

SERVERS = 3
"""Servers of a resolv.conf that count (MAXNS)."""

NOBODY = "127.0.0.1"
"""Who is asked when the file names no server."""

_MOST = {"glibc": {"ndots": 15, "timeout": 30, "attempts": 5}, "musl": {"ndots": 15, "timeout": 60, "attempts": 10}}


class Resolver(Value, frozen=True):
    """What a resolv.conf says.

    servers   addresses, in order
    search    domains, without a dot at the end
    ndots     dots from which on a name is asked as it stands first
    timeout   seconds that glibc waits for each server the first time; musl: for all of them and all attempts
    attempts  how often each server is asked
    others    options that change no question, as they stand
    """

    servers: tuple[str, ...] = (NOBODY,)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: int = 5
    attempts: int = 2
    others: tuple[str, ...] = ()


class Step(Value, frozen=True):
    """One name that is asked for; `added` is the search domain in it, "" as it stands; `name` ends in a dot."""

    name: str
    added: str = ""


def parse(text: str, libc: Libc = "glibc") -> Resolver:
    """What a resolver reads; lines and words that mean nothing are passed over. Of `search` the last line counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    numbers = {"ndots": 1, "timeout": 5, "attempts": 2}
    others: list[str] = []
    for keyword, *words in filter(None, (line.split() for line in text.splitlines() if line[:1] not in ("#", ";"))):
        if keyword == "nameserver":
            servers += words[:1]
        elif keyword in ("search", "domain"):
            search = tuple(word.rstrip(".") or "." for word in words)
        elif keyword == "options":
            for word in words:
                option, _, number = word.partition(":")
                if option in numbers and number.isdecimal():
                    numbers[option] = min(int(number), _MOST[libc][option])
                else:
                    others.append(word)
    return Resolver(tuple(servers[:SERVERS]) or (NOBODY,), search, **numbers, others=tuple(others))


def steps(name: str, resolver: Resolver, libc: Libc = "glibc") -> tuple[Step, ...]:
    """The names in order. One that would be too long is left out. Raises Malformed when there can be no such name."""
    dns.name(name)
    plain = Step(name.rstrip(".") + ".")
    if name.endswith("."):
        return (plain,)
    first = name.count(".") >= resolver.ndots
    if first and libc == "musl":
        return (plain,)
    searched = tuple(dict.fromkeys(_searched(name, resolver)))
    if first:
        return (plain, *(step for step in searched if step.name != plain.name))
    return searched if any(step.name == plain.name for step in searched) else (*searched, plain)


def _searched(name: str, resolver: Resolver) -> Iterator[Step]:
    for domain in resolver.search:
        made = Step(f"{name}." if domain == "." else f"{name}.{domain}.", domain)
        try:
            dns.name(made.name)
        except Malformed:
            continue
        yield made


def ends(rcode: int | None, found: bool, libc: Libc = "glibc") -> bool:
    """Whether the search ends with this step: `rcode` is the answer's (None: nobody answered), `found` whether there
    are records of any of the types asked for."""
    if found or rcode is None:
        return True
    goes_on = (dns.NXDOMAIN,) if libc == "musl" else (dns.NXDOMAIN, dns.NOERROR, dns.SERVFAIL)
    return rcode not in goes_on


def needless(taken: int, name: str, resolver: Resolver, types: int = 2) -> str:
    """What the search costs, and how not to pay it, when it took several steps to a name outside; "": nothing to say.

    `types`: questions of each step, as getaddrinfo asks for A and AAAA.
    """
    dots = name.count(".")
    if taken < 2 or name.endswith(".") or dots < 1 or dots >= resolver.ndots:
        return ""
    return (
        f"it took {taken * types} questions, since {name} has fewer than ndots:{resolver.ndots} dots: write {name}. "
        f"with a dot at the end, set ndots:{dots} in the pod's dnsConfig, or let the server complete the search "
        "(docs/dns-search.md)"
    )
