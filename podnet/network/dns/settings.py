"""What an administrator says about names outside of the cluster: the data of the ConfigMap kube-system/kube-dns.

    stubDomains: '{"acme.local": ["10.1.2.3", "10.1.2.4:5353"]}'     these domains are asked of these servers
    upstreamNameservers: '["8.8.8.8", "[2001:4860:4860::8888]:53"]'  everything else of these, not of the node's own

Each key counts for itself: one that can't be used leaves the last good value of that key in force, and is told by a
sentence that says what is wrong and what is right. A server is an address. Upstream takes a host name for a stub domain
too, and asks for its address once, when its dnsmasq starts: what that name means later is never seen. So we say no.
Source: kubernetes/dns, pkg/dns/config (names of the keys, at most three upstream servers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec

from podnet.network.value import Value

T = TypeVar("T")

STUB_DOMAINS, UPSTREAMS, FEDERATIONS = "stubDomains", "upstreamNameservers", "federations"
KEYS = (STUB_DOMAINS, UPSTREAMS, FEDERATIONS)
"""`federations` is read by nobody any more: it is tolerated and means nothing."""

MOST_UPSTREAMS = 3
LONGEST = 1 << 20
"""Characters of one key; the API takes no larger object."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


class Server(Value, frozen=True):
    """A DNS server: an IPv4 or IPv6 address, as the shortest text, and a port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Settings(Value, frozen=True):
    """Who is asked what. `stubs`: by domain, lower case, without a dot at the end; `upstreams` (): the node's own."""

    stubs: Mapping[str, tuple[Server, ...]] = {}
    upstreams: tuple[Server, ...] = ()


NOTHING = Settings()
"""What counts when nobody says anything."""


class Fault(Value, frozen=True):
    """A key that can't be used; `message` says what is wrong and what is right."""

    key: str
    message: str


class _Wrong(Exception):
    """The text is the fault's message."""


def read(
    data: Mapping[str, str], before: Settings = NOTHING, domain: str = "cluster.local"
) -> tuple[Settings, tuple[Fault, ...]]:
    """What a ConfigMap's `data` says; `before` is what was in force until now, `domain` the cluster's own."""
    faults: list[Fault] = []

    def usable(key: str, last: T, parse: Callable[[Any], T], default: T) -> T:
        try:
            return parse(_json(data[key])) if data.get(key, "").strip() else default
        except _Wrong as error:
            faults.append(Fault(key, str(error)))
            return last

    none: Mapping[str, tuple[Server, ...]] = {}
    settings = Settings(
        stubs=usable(STUB_DOMAINS, before.stubs, lambda value: _stubs(value, domain), none),
        upstreams=usable(UPSTREAMS, before.upstreams, _upstreams, ()),
    )
    known = ", ".join(KEYS[:2])
    faults += [Fault(key, f"is no key that is known: known are {known}") for key in sorted(data) if key not in KEYS]
    return settings, tuple(faults)


def server(text: str) -> Server:
    """Of `ip`, `ip:port`, `[v6]` or `[v6]:port`. Raises ValueError, whose text says what is right."""
    found = re.fullmatch(r"\[([^][]*)\](?::(\d+))?|([^:]*)(?::(\d+))?|(.*)", text, re.DOTALL | re.ASCII)
    assert found
    six, six_port, four, four_port, plain = found.groups()
    host = six if six is not None else four if four is not None else plain
    port = int((six_port or four_port or "53")[:6])
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{_quoted(text)} is no address: write ip, ip:port or [ipv6]:port, not a name") from None
    if "%" in host or address.is_unspecified or address.is_multicast or (six is not None and address.version == 4):
        raise ValueError(f"{_quoted(text)} is no server's address: write one as 10.0.0.10 or [2001:db8::10]:53")
    if not 0 < port < 65536:
        raise ValueError(f"{_quoted(text)} has no port between 1 and 65535")
    return Server(str(address), port)


def resolvers(resolv_conf: str) -> tuple[Server, ...]:
    """The servers of a resolv.conf; lines that can't be used are passed over, as resolvers do."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(Server(str(ip_address(words[1]))))
            except ValueError:
                continue
    return tuple(found)


def _json(text: str) -> Any:
    if len(text) > LONGEST:
        raise _Wrong(f"has more than {LONGEST} characters")
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _Wrong(f"is not JSON ({error}): write it as {_EXAMPLE}") from None


_EXAMPLE = """'{"acme.local": ["10.1.2.3"]}' for stubDomains, '["10.1.2.3"]' for upstreamNameservers"""


def _stubs(value: Any, cluster: str) -> dict[str, tuple[Server, ...]]:
    if not isinstance(value, dict):
        raise _Wrong("""is no map: write domains with their servers, as in {"acme.local": ["10.1.2.3"]}""")
    stubs: dict[str, tuple[Server, ...]] = {}
    for given, listed in value.items():
        domain = _domain(given)
        if domain == cluster.rstrip(".").lower():
            raise _Wrong(f"{_quoted(given)} is the cluster's own domain, which kubedns answers for: leave it out")
        if domain in stubs:
            raise _Wrong(f"{_quoted(given)} is there twice: write one list of servers for it")
        stubs[domain] = _servers(listed, f"{_quoted(given)}: ")
        if not stubs[domain]:
            raise _Wrong(f"{_quoted(given)} has no server: give it one, as 10.1.2.3 or 10.1.2.3:5353, or leave it out")
    return stubs


def _upstreams(value: Any) -> tuple[Server, ...]:
    servers = _servers(value, "")
    if len(servers) > MOST_UPSTREAMS:
        raise _Wrong(f"has {len(servers)} servers: {MOST_UPSTREAMS} at most")
    return servers


def _servers(value: Any, where: str) -> tuple[Server, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _Wrong(f"""{where or "is no list: "}write servers as a list of strings, as in ["10.1.2.3"]""")
    try:
        return tuple(dict.fromkeys(map(server, _strings(value))))
    except ValueError as error:
        raise _Wrong(f"{where}{error}") from None


def _strings(value: list[Any]) -> Iterable[str]:
    return (str(each).strip() for each in value)


def _domain(given: str) -> str:
    domain = given.removesuffix(".").lower()
    if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise _Wrong(f"{_quoted(given)} is no DNS name: write letters, digits and hyphens between dots, as acme.local")
    return domain


def _quoted(text: str) -> str:
    """For a message: short, and on one line."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
