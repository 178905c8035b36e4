"""Bad packets by the million: `python -m tests.fuzz_dns --count 10000000`.

Each is a good question, changed at random or cut, lengthened, filled with pointers that lead in circles, with another
opcode or type; or nothing but random bytes. The pure core must answer it as the RFCs have it, or be silent, and never
raise. `--live` throws the same at a real kubedns over UDP and TCP, and holds its memory against what it was at first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from podnet.daemons.dns_client import DnsClient
from podnet.dns.answering import Answers
from podnet.network.dns.answers import Elsewhere, answer, quick
from podnet.network.dns.zone import Options, Zone
from podnet.wire import dns
from podnet.wire.dns import FORMERR, NOTIMP, Malformed
from tests.network.dns.names import alias, endpoint, made, piece, pod, service

BLOCK = 20_000
NAMES = [
    "web.demo.svc.cluster.local", "WEB.Demo.svc.cluster.local", "_http._tcp.web.demo.svc.cluster.local",
    "_tcp.web.demo.svc.cluster.local", "db.demo.svc.cluster.local", "db-0.db.demo.svc.cluster.local",
    "many.demo.svc.cluster.local", "outside.demo.svc.cluster.local", "inside.demo.svc.cluster.local",
    "loop.demo.svc.cluster.local", "none.demo.svc.cluster.local", "svc.cluster.local", "cluster.local",
    "dns-version.cluster.local",
    "10-0-1-1.demo.pod.cluster.local", "1.0.96.10.in-addr.arpa", "7.0.96.10.in-addr.arpa", "www.example.com", "local",
    "www.example.com.demo.svc.cluster.local", ".", "x" * 63 + "." + "y" * 63 + "." + "z" * 63 + ".cluster.local",
]  # fmt: skip
TYPES = (
    [*dns.TYPES.values()] + [dns.A, dns.AAAA, dns.SRV, dns.PTR] * 8 + [0, 41, 46, 249, 250, 251, 253, 254, 256, 65535]
)
CLASSES = [1] * 40 + [3, 4, 254, 255, 0, 65535]


def world() -> Zone:
    """A zone with a name of each sort."""
    many = [endpoint(f"10.2.{n >> 8}.{n & 255}") for n in range(300)]
    return made(
        service("web", "10.96.0.1", "fd00::1"), service("db"), service("many"),
        piece("db", endpoint("10.0.0.1", "db-0"), endpoint("10.0.0.2")), piece("many", *many),
        alias("outside", "www.example.com"), alias("inside", "web.demo.svc.cluster.local"),
        alias("loop", "loop.demo.svc.cluster.local"),
        pod("web-1", "10.0.1.1"), options=Options(pods="verified"),
    )  # fmt: skip


# -- what is thrown


def packets(chance: random.Random) -> Iterator[bytes]:
    """Without end."""
    wires = [dns.name(text) for text in NAMES]
    while True:
        message = dns.question(
            chance.getrandbits(16), chance.choice(wires), chance.choice(TYPES), cls=chance.choice(CLASSES),
            flags=chance.choice((0x0100, 0x0100, 0x0100, 0, 0x0130, chance.getrandbits(16))),
            size=chance.choice((0, 0, 512, 1232, 4096, 65535)),
        )  # fmt: skip
        yield chance.choice(CHANGES)(message, chance)


def _flipped(message: bytes, chance: random.Random) -> bytes:
    made = bytearray(message)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        made[chance.randrange(len(made))] = chance.getrandbits(8)
    return bytes(made)


def _cut(message: bytes, chance: random.Random) -> bytes:
    return message[: chance.randrange(len(message) + 1)]


def _longer(message: bytes, chance: random.Random) -> bytes:
    return message + chance.randbytes(chance.choice((1, 2, 11, 100, 600, 5000)))


def _looping(message: bytes, chance: random.Random) -> bytes:
    """Its name has pointers: to itself, forwards, back and forth."""
    start = chance.choice((b"", b"\3www", b"\x3f" + bytes(63)))
    pointers = b"".join(
        struct.pack(">H", 0xC000 | chance.choice((0, 11, 12, 13, 14, 16, 30, 0x3FFF))) for _ in range(3)
    )
    return message[:12] + start + pointers + chance.choice((message[12:], b"\0\1\0\1"))


def _counted(message: bytes, chance: random.Random) -> bytes:
    """Its header counts other records than there are."""
    counts = [chance.choice((0, 1, 1, 2, 255, 65535)) for _ in range(4)]
    return message[:4] + struct.pack(">HHHH", *counts) + message[12:]


def _opcode(message: bytes, chance: random.Random) -> bytes:
    return message[:2] + bytes((message[2] & 0x87 | chance.getrandbits(4) << 3,)) + message[3:]


def _options(message: bytes, chance: random.Random) -> bytes:
    """With EDNS of any version, owner and options, perhaps twice."""
    data = chance.randbytes(chance.choice((0, 4, 12, 300)))
    opt = chance.choice((b"\0", b"\1x\0", b"\xc0\x0c")) + struct.pack(
        ">HHIH", 41, chance.choice((0, 100, 512, 4096)), chance.choice((0, 0x8000, 0x10000, chance.getrandbits(32))),
        chance.choice((len(data), len(data), chance.getrandbits(16))),
    ) + data  # fmt: skip
    plain = message[:10] + b"\0\1" + message[12 : _end(message)]
    return plain + opt * chance.choice((1, 1, 2))


def _random(message: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 11, 12, 13, 17, 40, 512, 1500)))


def _same(message: bytes, chance: random.Random) -> bytes:
    return message


Change = Callable[[bytes, random.Random], bytes]
CHANGES: list[Change] = [
    _flipped, _flipped, _flipped, _cut, _longer, _looping, _counted, _opcode, _options, _random, _same, _same,
]  # fmt: skip


def _end(message: bytes) -> int:
    at = 12
    while message[at]:
        at += 1 + message[at]
    return at + 5


# -- what is right


def check(zone: Zone, message: bytes, turn: int = 0) -> str:
    """Let the core answer a packet; the RCODE's name, "silence" or "elsewhere". Raises AssertionError."""
    short = quick(zone, message, turn)
    try:
        query = dns.read_query(message)
    except Malformed:
        assert short is None, "quick answers what is no question"
        return _refused(message)
    said = answer(zone, query, turn=turn, namespace="demo" if turn % 2 else "")
    if turn % 2 == 0:
        assert short in (None, said), "quick says something else"
    if isinstance(said, Elsewhere):
        assert len(said.name) <= dns.MAX_NAME
        return "elsewhere"
    assert len(said) <= max(512, min(query.size, 1232)), "longer than the client takes"
    heard = dns.read(said)
    assert heard.id == query.id == int.from_bytes(message[:2], "big")
    assert heard.question is not None
    assert heard.question.asked == query.asked == message[12 : 12 + len(query.asked)], "another question"
    assert heard.flags & 0x8000
    assert heard.flags & 0x7900 == query.flags & 0x7900, "another opcode, or RD"
    assert bool(query.edns) == any(each.type == dns.OPT for each in heard.additional)
    _right_rcode(query, heard)
    return dns.RCODES[heard.rcode]


def _refused(message: bytes) -> str:
    said = dns.refusal(message)
    if len(message) < 12 or message[2] & 0x80:
        assert said is None, "an answer to what is no query"
        return "silence"
    assert said is not None
    assert len(said) == 12
    assert said[:2] == message[:2]
    opcode = message[2] >> 3 & 0xF
    assert said[2] == 0x80 | message[2] & 0x79
    assert said[3] & 0xF == (NOTIMP if opcode else FORMERR)
    return dns.RCODES[said[3] & 0xF]


def _right_rcode(query: dns.Query, heard: dns.Message) -> None:
    if query.flags >> 11 & 0xF:
        assert heard.rcode == NOTIMP
    elif query.type == dns.AXFR:
        assert heard.rcode == dns.REFUSED
    elif 128 <= query.type < 255:
        assert heard.rcode == NOTIMP
    elif query.edns and query.version:
        assert any(each.type == dns.OPT and each.ttl >> 24 == 1 for each in heard.additional), "BADVERS"
    elif query.cls not in (1, 255):
        assert heard.rcode == dns.REFUSED
    else:
        assert heard.rcode in (dns.NOERROR, dns.NXDOMAIN, dns.SERVFAIL)
        assert heard.rcode != dns.SERVFAIL or b"\4loop\4demo" in query.name
    assert not heard.answers or heard.rcode in (dns.NOERROR, dns.NXDOMAIN)


# -- doing it


def block(seed: int, count: int = BLOCK) -> Counter[str]:
    """So many packets, the same for the same seed. Raises AssertionError with the packet."""
    zone, chance, found = world(), random.Random(seed), Counter[str]()
    answers = Answers(DnsClient())
    answers.zone = zone
    for turn, message in zip(range(count), packets(chance), strict=False):
        try:
            found[check(zone, message, turn)] += 1
            _shell(answers, message)
        except Exception as error:
            raise AssertionError(f"seed {seed}, packet {turn}, {message.hex()}: {error!r}") from error
    return found


def _shell(answers: Answers, message: bytes) -> None:
    """What the server makes of it, without sockets."""
    said = answers.datagram(message, "10.0.1.1")
    if said is not None and not isinstance(said, bytes):
        said.close()
    answers.busy(message)


def pure(count: int, processes: int) -> Counter[str]:
    """All blocks, over so many processes, with progress on stderr."""
    start, found, blocks = time.monotonic(), Counter[str](), -(-count // BLOCK)
    with multiprocessing.Pool(processes) as pool:
        for number, each in enumerate(pool.imap_unordered(block, range(blocks)), 1):
            found += each
            if number % 10 == 0 or number == blocks:
                seconds = time.monotonic() - start
                print(f"{number * BLOCK:,} packets in {seconds:.0f} s: {dict(found)}", file=sys.stderr)
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--live", action="store_true")
    given = parser.parse_args()
    if given.live:
        from tests.fuzz_dns_live import live

        print(live(given.count))
    else:
        print(dict(pure(given.count, given.processes)))


if __name__ == "__main__":
    main()
