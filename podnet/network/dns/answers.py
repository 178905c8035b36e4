"""What a question meets in a zone: the message that answers it, or whom else to ask.

`quick` is what nearly every packet needs and no more: one look into the zone, a few joins of bytes. Whatever is not as
usual it leaves to `answer`, which knows all cases and says the same where both know. Neither does any I/O: a name that
is not the cluster's comes back as `Elsewhere`.

Search completion (`namespace` given). With `ndots:5` a pod that wants www.example.com asks five questions, the first of
which is www.example.com.<namespace>.svc.<domain>. When the asking pod is known to be of that namespace, and there is no
such name, the other steps of its search are taken here, and the answer is a CNAME to the one that exists. When none
does, or nobody says so, the step is answered as ever, and the pod goes on by itself. Who asks for that name from
elsewhere hears, as ever, that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.dns import records
from podnet.network.dns.records import Node
from podnet.network.dns.zone import Zone
from podnet.network.value import Value
from podnet.wire import dns
from podnet.wire.dns import AA, IN, NOERROR, NXDOMAIN, RA, Query

FLAGS = AA | RA
CHAIN = 8
"""CNAMEs that are followed inside the zone."""

_META = range(128, 256)
_ROTATING = {dns.A: 16, dns.AAAA: 28}
"""Types whose order is a choice, and bytes of such a record."""

_ONE_QUESTION = b"\0\1\0\0\0\0"
_OPT = b"\0\0\x29"


class Elsewhere(Value, frozen=True):
    """Others know the rest.

    chain     the records so far; (): the query may be passed on as it is
    name      what to ask them, of the query's type
    missing   the message that stands when they say that there is no such name, or nothing; None: what they say stands
    """

    name: bytes
    chain: tuple[bytes, ...] = ()
    missing: bytes | None = None


def quick(zone: Zone, message: bytes, turn: int = 0) -> bytes | None:
    """The answer to a plain query of a name that has what is asked; None for anything else. `turn` says which of
    several addresses comes first."""
    end = message.find(0, 12) + 1
    after = end + 4
    node = zone.names.get(message[12:end].lower())
    if not node or message[2] & 0xF8 or message[4:10] != _ONE_QUESTION or message[end + 2 : after] != b"\0\1":
        return None
    type_ = message[end] << 8 | message[end + 1]
    piece = b""
    for each, made in node:
        if each == type_:
            piece = made
    if not piece:
        return None
    size = len(message)
    if size == after and message[10:12] == b"\0\0":
        limit, more, opt = dns.PLAIN_SIZE, piece[4:6], b""
    elif size == after + 11 and message[10:12] == b"\0\1" and message[after : after + 3] == _OPT:
        if message[after + 6] or message[after + 9 :] != b"\0\0":
            return None
        limit = min(max(dns.PLAIN_SIZE, message[after + 3] << 8 | message[after + 4]), dns.EDNS_SIZE)
        more, opt = (piece[5] + 1).to_bytes(2, "big"), dns.OWN_OPT
    else:
        return None
    if after + len(piece) + 5 > limit or piece[4]:
        return None
    if piece[1] > 1:
        piece = _turned(piece, type_, turn)
    flags = b"\x85\x80" if message[2] & 1 else b"\x84\x80"
    return b"".join((message[:2], flags, b"\0\1", piece[:4], more, message[12:after], piece[6:], opt))


def answer(zone: Zone, query: Query, size: int | None = None, turn: int = 0, namespace: str = "") -> bytes | Elsewhere:
    """What to say to any query; `size` as in dns.answer, `turn` as in `quick`, `namespace`: the asking pod's, when its
    searches are to be completed."""
    rcode = _unfit(query)
    if rcode is not NOERROR:
        return dns.answer(query, dns.NONE, rcode, RA, size)
    node = zone.names.get(query.name)
    if node is None and dns.below(query.name, zone.podns) and zone.pods == "insecure":
        node = _any_pod(query.name, zone)
    if node is not None:
        return _found(zone, query, query.name, node, (), size, turn)
    if not dns.below(query.name, zone.apex):
        return Elsewhere(query.name)
    missing = dns.answer(query, _negative(zone), NXDOMAIN, FLAGS, size)
    return _completed(zone, query, missing, size, turn, namespace) if namespace else missing


def _unfit(query: Query) -> int:
    """Why a query is not looked at, NOERROR when it is."""
    if query.flags >> 11 & 0xF:
        return dns.NOTIMP
    if query.type in _META and query.type != dns.ANY:
        return dns.REFUSED if query.type == dns.AXFR else dns.NOTIMP
    if query.edns and query.version:
        return dns.BADVERS
    return NOERROR if query.cls in (IN, dns.ANY) else dns.REFUSED


def _found(
    zone: Zone, query: Query, name: bytes, node: Node, chain: tuple[bytes, ...], size: int | None, turn: int
) -> bytes | Elsewhere:
    """There is such a name; `chain` leads from the one asked for to it."""
    pieces = dict(node)
    if query.type in pieces:
        piece = _turned(pieces[query.type], query.type, turn)
    elif dns.CNAME in pieces:
        return _followed(zone, query, name, pieces[dns.CNAME], chain, size, turn)
    elif query.type == dns.SOA and name == zone.apex:
        piece = dns.piece([zone.soa])
    elif query.type == dns.ANY:
        piece = dns.piece([dns.record(dns.HINFO, records.TTL, dns.txt("RFC8482", ""))])
    else:
        return dns.answer(query, _negative(zone, chain), NOERROR, FLAGS, size)
    return dns.answer(query, dns.piece([*chain, *dns.owned(piece, name)]) if chain else piece, NOERROR, FLAGS, size)


def _followed(
    zone: Zone, query: Query, name: bytes, piece: bytes, chain: tuple[bytes, ...], size: int | None, turn: int
) -> bytes | Elsewhere:
    """The name is another's alias."""
    chain = (*chain, *dns.owned(piece, name if chain else b""))
    target = piece[18:]
    if not dns.below(dns.lower(target), zone.apex):
        return Elsewhere(target, chain)
    node = zone.names.get(dns.lower(target))
    if node is None:
        return dns.answer(query, _negative(zone, chain), NXDOMAIN, FLAGS, size)
    if len(chain) > CHAIN:
        return dns.answer(query, dns.NONE, dns.SERVFAIL, RA, size)
    return _found(zone, query, target, node, chain, size, turn)


def _completed(
    zone: Zone, query: Query, missing: bytes, size: int | None, turn: int, namespace: str
) -> bytes | Elsewhere:
    """The rest of a pod's search, when this was its first step."""
    wanted = _unsearched(zone, query.name, namespace)
    if wanted is None:
        return missing
    for candidate in _steps(zone, wanted):
        node = zone.names.get(dns.lower(candidate))
        if node is not None:
            alias = dns.record(dns.CNAME, records.TTL, candidate)
            return _found(zone, query, candidate, node, (alias,), size, turn)
    if dns.below(wanted, zone.apex) or not wanted[0]:
        return missing
    return Elsewhere(wanted, (dns.record(dns.CNAME, records.TTL, wanted),), missing)


def _unsearched(zone: Zone, name: bytes, namespace: str) -> bytes | None:
    """What a pod of a namespace wanted when it asked for this first; None when it was no such question."""
    suffix = dns.lower(dns.name(f"{namespace}.svc"))[:-1] + zone.apex
    rest = name.removesuffix(suffix)
    if len(rest) == len(name) or not dns.below(name, suffix):
        return None
    return rest + b"\0"


def _steps(zone: Zone, wanted: bytes) -> Iterator[bytes]:
    """The other steps of a pod's search inside the zone, then the name itself."""
    for suffix in (b"\3svc" + zone.apex, zone.apex, b"\0"):
        made = wanted[:-1] + suffix
        if len(made) <= dns.MAX_NAME:
            yield made


def _any_pod(name: bytes, zone: Zone) -> Node | None:
    """What an address in a name stands for, whether there is such a pod or not."""
    first = next(dns.labels(name), b"").decode("ascii", "replace")
    if dns.parent(dns.parent(name)) != zone.podns:
        return None
    for text in (first.replace("-", "."), first.replace("-", ":")):
        try:
            return records.pod_node(text)
        except ValueError:
            continue
    return None


def _negative(zone: Zone, chain: tuple[bytes, ...] = ()) -> bytes:
    return dns.piece(chain, [zone.soa])


def _turned(piece: bytes, type_: int, turn: int) -> bytes:
    """With another of several addresses as the first."""
    length = _ROTATING.get(type_)
    count = piece[0] << 8 | piece[1]
    if length is None or count < 2:
        return piece
    cut = 6 + turn % count * length
    return b"".join((piece[:6], piece[cut:], piece[6:cut]))
