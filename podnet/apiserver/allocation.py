"""Giving out cluster addresses and node ports, inside the very write that asks for them.

Who has what is a function of the stored Services and kept nowhere else. The ledger here is that function's value, told
by the store of every newest state, uncommitted writes included; since edits run one at a time on the loop, two Services
never get the same address, a refused or failed write leaves nothing behind, and after a kill -9 the ledger is what the
file says. What is chosen is decided in network/controllers (service_ips.py, node_ports.py, service_fields.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from itertools import chain

from podnet.apiserver.records import Key, Record, Selection
from podnet.apiserver.status import ApiError, Document, invalid, resource
from podnet.apiserver.store import Store
from podnet.apiserver.validation.rules import wrong
from podnet.apiserver.validation.service import cluster_ips
from podnet.network.controllers import node_ports, service_fields, service_ips
from podnet.network.controllers.bands import Dice
from podnet.network.controllers.node_ports import PortRange
from podnet.network.controllers.service_ips import Range, Refusal, Token
from podnet.objects.codec import convert
from podnet.objects.kinds import SERVICES
from podnet.objects.services import Service

Tokens = frozenset[Token]
REPAIRED_AT_ONCE = 100


class Ledger:
    """Which Service has which tokens. Two may have the same one: stored by hand, or before the ranges changed."""

    def __init__(self) -> None:
        self.holds: dict[Key, Tokens] = {}
        self._holders: dict[Token, set[Key]] = {}

    def note(self, key: Key, tokens: Tokens) -> None:
        """From now on the Service has these, and only these."""
        for token in self.holds.pop(key, Tokens()) - tokens:
            holders = self._holders[token]
            holders.discard(key)
            if not holders:
                del self._holders[token]
        for token in tokens:
            self._holders.setdefault(token, set()).add(key)
        if tokens:
            self.holds[key] = tokens

    def taken(self, token: Token, by_others_than: Key) -> bool:
        """Whether another Service has it."""
        return bool(self._holders.get(token, set()) - {by_others_than})


class Allocation:
    """The ranges and who has what of them. `dice` is where addresses and ports begin to be looked for."""

    def __init__(self, store: Store, ranges: Sequence[Range], ports: PortRange, dice: Dice = random.randrange) -> None:
        self.ranges = tuple(ranges)
        self.ports = ports
        self.ledger = Ledger()
        self._store = store
        self._dice = dice
        store.listen(resource(SERVICES), self._note)

    def _note(self, key: Key, record: Record | None) -> None:
        self.ledger.note(key, _tokens(record))

    def settle(self, document: Document, old: Document | None) -> None:
        """Complete a defaulted Service, or what becomes of `old`. Raises ApiError 422, and 500 when nothing is left."""
        spec, name = document["spec"], str(document["metadata"].get("name", ""))
        key = Key(resource(SERVICES), document["metadata"]["namespace"], name)
        before = old["spec"] if old is not None else None
        service_fields.keep(spec, before)
        if causes := list(cluster_ips(convert(document, Service).spec)):
            raise invalid(SERVICES, name, causes)

        def taken(token: Token) -> bool:
            return self.ledger.taken(token, by_others_than=key)

        refusals = (
            service_ips.families(spec, before, self.ranges)
            or service_ips.addresses(spec, before, self.ranges, taken, self._dice)
            or node_ports.allocate(spec, before, self.ports, taken, self._dice)
        )
        if refusals:
            raise _refused(name, refusals)
        if before is not None:
            service_fields.drop(document, before)

    async def repair(self) -> AsyncIterator[tuple[Key, Tokens]]:
        """Read every Service again: what the ledger did not know. Nothing, unless there is a mistake in here."""
        keys = {record.key for record in self._store.records(Selection(resource(SERVICES)))}
        for number, key in enumerate(keys | self.ledger.holds.keys()):
            if number % REPAIRED_AT_ONCE == 0:
                await asyncio.sleep(0)  # let requests pass
            tokens = _tokens(self._store.newest(key))
            unknown = tokens - self.ledger.holds.get(key, Tokens())
            self.ledger.note(key, tokens)
            if unknown:
                yield key, unknown


def _tokens(record: Record | None) -> Tokens:
    if record is None:
        return Tokens()
    spec = record.document()["spec"]
    return Tokens(chain(service_ips.tokens(spec), node_ports.tokens(spec)))


def _refused(name: str, refusals: Sequence[Refusal]) -> ApiError:
    for refusal in refusals:
        if not refusal.field:
            why = f"Internal error occurred: {refusal.why}"
            return ApiError(500, "InternalError", why, {"causes": [{"message": refusal.why}]})
    return invalid(SERVICES, name, [wrong(refusal.field, refusal.value, refusal.why) for refusal in refusals])
