"""A tiny machine that walks kube-proxy's chains, as mode iptables renders them, with the first packet of a connection.

It knows the matches that those chains use and stops at any other. Chance is taken by an endpoint's number, so that
walking with every number gives the whole distribution.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from itertools import count

from podnet.network.proxy.nftables import PROTOCOLS
from podnet.state.iptables import IptablesChain
from podnet.state.resource import Resource
from tests.network.proxy.nft_machine import Packet, Seen

IGNORED = {"-m": 1, "--comment": 1, "--mode": 1, "--name": 1, "--seconds": 1, "--reap": 0, "--set": 0}
VERDICTS = {"REJECT": "refused", "DROP": "dropped"}
CHAINS = {
    "OUTPUT": ("KUBE-PROXY-FIREWALL", "KUBE-SERVICES"),
    "INPUT": ("KUBE-PROXY-FIREWALL", "KUBE-EXTERNAL-SERVICES"),
    "FORWARD": ("KUBE-PROXY-FIREWALL", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"),
}
"""Of the table `filter`, by hook."""


class Ends(Exception):
    """A verdict."""


class Machine:
    """The chains of one family; `host`: the node's own addresses. Nobody was here before, as far as affinity goes."""

    def __init__(self, resources: Iterable[Resource], host: Iterable[str]) -> None:
        self.chains = {
            (each.table, each.name): [shlex.split(rule) for rule in each.rules or ()]
            for each in resources
            if isinstance(each, IptablesChain)
        }
        self.host = frozenset(host)

    def all(self, packet: Packet) -> dict[Seen, float]:
        """Everything it may meet, with its chance."""
        found: Counter[Seen] = Counter()
        for number in count():
            walk = Walk(self, packet, number)
            found[walk.run()] += walk.chance  # type: ignore[assignment]
            if not walk.more:
                return dict(found)
        raise AssertionError


class Walk:
    """One packet on its way."""

    def __init__(self, machine: Machine, packet: Packet, number: int) -> None:
        self.machine, self.packet, self.number = machine, packet, number
        self.chance, self.more, self.marked, self.target = 1.0, False, False, ""

    def run(self) -> Seen:
        """nat, and where that has no answer the table filter."""
        try:
            self.chain("nat", "KUBE-SERVICES")
            for hook in self.hooks():
                for name in CHAINS[hook]:
                    self.chain("filter", name)
        except Ends as verdict:
            if str(verdict) == "DNAT":
                return Seen("to", self.target, self.marked)
            return Seen(VERDICTS[str(verdict)])
        return Seen("through")

    def hooks(self) -> Iterator[str]:
        """What the node sends to itself comes in again."""
        local = self.packet.destination in self.machine.host
        if self.packet.host:
            yield "OUTPUT"
        if local or not self.packet.host:
            yield "INPUT" if local else "FORWARD"

    def chain(self, table: str, name: str) -> None:
        """Raises Ends."""
        for rule in self.machine.chains[table, name]:
            words = iter(rule)
            if (verdict := self.matched(words)) is None:
                continue
            if verdict == "MARK":
                self.marked = True
            elif verdict == "DNAT":
                address, _, port = [*words][-1].rpartition(":")
                self.target = f"{address.strip('[]')} . {port}"
                raise Ends(verdict)
            elif verdict in VERDICTS:
                raise Ends(verdict)
            else:
                self.chain(table, verdict)

    def matched(self, words: Iterator[str]) -> str | None:
        """Where the rule leads, None when it does not match."""
        negated = False
        for word in words:
            if word == "-j":
                return next(words)
            if word == "!":
                negated = True
            elif word in IGNORED:
                for _ in range(IGNORED[word]):
                    next(words)
            elif self.holds(word, words) == negated:
                return None
            else:
                negated = False
        return None

    def holds(self, word: str, words: Iterator[str]) -> bool:
        """One match."""
        packet = self.packet
        match word:
            case "-p":
                return str(PROTOCOLS[next(words)]) == str(packet.protocol)
            case "-s":
                return ip_address(packet.source) in ip_network(next(words))
            case "-d":
                return ip_address(packet.destination) in ip_network(next(words))
            case "--dport":
                return int(next(words)) == packet.port
            case "--src-type" | "--dst-type":
                assert next(words) == "LOCAL"
                return (packet.source if word == "--src-type" else packet.destination) in self.machine.host
            case "--rcheck":
                return False
            case "--ctstate":
                assert next(words) == "DNAT"
                return False
            case "--probability":
                return self.taken(float(next(words)))
        raise AssertionError(f"unknown word {word}")

    def taken(self, chance: float) -> bool:
        """Whether it is this endpoint's turn."""
        self.number -= 1
        if self.number < 0:
            self.chance *= chance
            self.more = True
            return True
        self.chance *= 1 - chance
        return False
