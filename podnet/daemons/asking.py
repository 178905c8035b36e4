"""One question to one DNS server, by the names of names and types, and its answer read.

For whoever asks on somebody's behalf: probes, the purging of a cache, `podnet dns ask`.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from podnet.daemons.dns_client import TIMEOUT, DnsClient, NoAnswer
from podnet.network.dns.records import Expected, as_expected
from podnet.wire.dns import EDNS_SIZE, IN, TYPES, Malformed, Message, name, question, read


class Asking(msgspec.Struct, frozen=True):
    """Whom to ask, how long (seconds, each time), and how often when nothing comes back."""

    address: str
    port: int = 53
    seconds: float = TIMEOUT
    tries: int = 2

    async def ask(self, text: str, type_: int, cls: int = IN) -> Message:
        """The answer, whatever it says. Raises NoAnswer, and Malformed when there can be no such name."""
        sent = question(0, name(text), type_, cls=cls, size=EDNS_SIZE if cls == IN else 0)
        try:
            said = await DnsClient(self.seconds).ask(sent, [(self.address, self.port)] * self.tries, whole=True)
        except NoAnswer:
            raise NoAnswer(f"{self} did not answer") from None
        try:
            return read(said)
        except Malformed as error:
            raise NoAnswer(f"{self} answered what can't be read: {error}") from None

    async def has(self, text: str, type_: str, expected: Expected = None) -> bool | None:
        """Whether there are just the records that are expected; None when the server doesn't say."""
        with suppress(NoAnswer):
            return as_expected(await self.ask(text, TYPES[type_]), expected)
        return None

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
