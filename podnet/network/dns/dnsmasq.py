"""What dnsmasq is started with, what it reads while it runs, and what its log means.

Its own servers stand on its command line, as upstream's manifests write them. Servers that may change, those of stub
domains and for everything else, stand in a file that it reads again on SIGHUP: a change costs a cleared cache and no
restart. Only a question that a server has at that moment, which is then listed no more for its domain, must be asked
again: dnsmasq drops what such a server says. It never reads resolv.conf itself, since a file can't make it stop; when
nobody names other servers, those of resolv.conf are written into the same file.
Source: dnsmasq(8); the defaults are those of kubernetes/dns' last manifest, but for --no-negcache: here an
answer is purged when it becomes wrong (daemons/purging.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from podnet.network.dns.settings import Server, Settings
from podnet.network.value import Value

FOREGROUND, NO_RESOLV = ("-k", "--keep-in-foreground"), ("-R", "--no-resolv")
DEBUG, LOG, RESOLV = ("-d", "--no-daemon"), ("-8", "--log-facility"), ("-r", "--resolv-file")
PORT, LISTEN, PID = ("-p", "--port"), ("-a", "--listen-address"), ("-x", "--pid-file")
SERVERS_FILE = ("", "--servers-file")

_LOOP = re.compile(r"NOT using nameserver (\S+)#(\d+) - query loop detected")
_ROUTINE = re.compile(r"\]: (cleared cache|using (local addresses|nameserver|only)|more servers|read |reading )|^$")


class Plan(Value, frozen=True):
    """How dnsmasq is run.

    args           its command line, without the program
    address, port  where it can be asked
    resolv_conf    the file whose servers it uses when nobody names others; "": none
    """

    args: tuple[str, ...]
    address: str
    port: int
    resolv_conf: str


class Misfit(ValueError):
    """Arguments that can't be supervised; the text says what to do."""


def defaults(domain: str, kubedns: Server) -> tuple[str, ...]:
    """The classic arguments: a cache in front of kubedns."""
    zones = (domain.strip("."), "in-addr.arpa", "ip6.arpa")
    return (
        "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--cache-size=1000", "--dns-loop-detect",
        *(f"--server=/{zone}/{_written(kubedns)}" for zone in zones),
    )  # fmt: skip


def plan(given: Sequence[str], servers_file: str) -> Plan:
    """For the arguments given, with what supervising it needs. Raises Misfit."""
    if _values(given, SERVERS_FILE):
        raise Misfit("--servers-file is written by podnet: name servers with --server, or in the ConfigMap")
    if _has(given, DEBUG):
        raise Misfit("--no-daemon can't be supervised: use --keep-in-foreground, and --log-queries to see more")
    added = [] if _has(given, FOREGROUND) else [FOREGROUND[1]]
    added += [] if _values(given, LOG) else [f"{LOG[1]}=-"]
    added += [] if _values(given, PID) else [f"{PID[1]}="]  # it is known by us, and another dnsmasq's is left alone
    resolv_conf = "" if _has(given, NO_RESOLV) else (_values(given, RESOLV) or ["/etc/resolv.conf"])[-1]
    added += [NO_RESOLV[1]] if resolv_conf else []
    ports = _values(given, PORT) or ["53"]
    if not ports[-1].isdecimal() or not 0 < int(ports[-1]) < 65536:
        raise Misfit(f"--port={ports[-1]} is no port between 1 and 65535")
    args = (*given, *added, f"{SERVERS_FILE[1]}={servers_file}")
    return Plan(args, _asked_at(_values(given, LISTEN)), int(ports[-1]), resolv_conf)


def servers(settings: Settings, others: Iterable[Server]) -> str:
    """The file of servers; `others` are asked when the settings name none for other names."""
    lines = [
        f"server=/{domain}/{_written(server)}" for domain, listed in sorted(settings.stubs.items()) for server in listed
    ]
    lines += [f"server={_written(server)}" for server in settings.upstreams or others]
    return "".join(f"{line}\n" for line in lines)


def looping(line: str) -> str | None:
    """The server that leads back to dnsmasq, when a line of its log says so."""
    found = _LOOP.search(line)
    return str(Server(found[1], int(found[2]))) if found else None


def routine(line: str) -> bool:
    """Whether a line only says that the files were read again."""
    return bool(_ROUTINE.search(line))


def _written(server: Server) -> str:
    return f"{server.address}#{server.port}"


def _asked_at(listed: Iterable[str]) -> str:
    """An address that it listens at; 127.0.0.1 if it listens at all of them."""
    for address in (each for value in listed for each in value.split(",")):
        try:
            if not ip_address(address).is_unspecified:
                return address
        except ValueError:
            continue
    return "127.0.0.1"


def _has(args: Sequence[str], option: tuple[str, str]) -> bool:
    return any(arg in option for arg in args)


def _values(args: Sequence[str], option: tuple[str, str]) -> list[str]:
    """Each value of an option, in whichever way it is written."""
    return list(_each_value(args, *option))


def _each_value(args: Sequence[str], short: str, long: str) -> Iterator[str]:
    for number, arg in enumerate(args):
        if arg.startswith(f"{long}="):
            yield arg[len(long) + 1 :]
        elif arg in (short, long):
            yield from args[number + 1 : number + 2]
        elif short and arg.startswith(short) and not arg.startswith("--"):
            yield arg[len(short) :]
