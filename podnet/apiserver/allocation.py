"""Giving out cluster addresses and node ports, inside the very write that asks for them.

Who has what is a function of the stored Services, Pods (ExternalPods) and DebugPorts and kept nowhere else. The ledger
here is that function's value, told by the store of every newest state, uncommitted writes included; since edits run one
at a time on the loop, no two ever get the same, a refused or failed write leaves nothing behind, and after a kill -9
the ledger is what the file says. What is chosen is decided in network/controllers (service_ips.py, node_ports.py,
service_fields.py, external_pods.py, debug_ports.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from podnet.apiserver.records import Key, Record, Selection
from podnet.apiserver.status import ApiError, Document, invalid, resource
from podnet.apiserver.store import Store
from podnet.apiserver.validation.rules import wrong
from podnet.apiserver.validation.service import cluster_ips
from podnet.network.controllers import debug_ports, external_pods, node_ports, pod_cidrs, service_fields, service_ips
from podnet.network.controllers.bands import Dice
from podnet.network.controllers.node_ports import Numbers, PortRange
from podnet.network.controllers.service_ips import Range, Refusal, Token
from podnet.objects.codec import InvalidObject, convert, decode
from podnet.objects.core import Node, Pod
from podnet.objects.kinds import DEBUGPORTS, EXTERNALPODS, NETWORKCONFIGS, NODES, PODS, SERVICES, Kind
from podnet.objects.leases import EXTERNAL_ANNOTATION, DebugPort, ExternalPods
from podnet.objects.meta import Object
from podnet.objects.services import Service

O = TypeVar("O", bound=Object)  # noqa: E741
Tokens = frozenset[Token]
REPAIRED_AT_ONCE = 100


class Ledger:
    """Which object has which tokens. Two may have the same one: stored by hand, or before the ranges changed."""

    def __init__(self) -> None:
        self.holds: dict[Key, Tokens] = {}
        self._holders: dict[Token, set[Key]] = {}

    def note(self, key: Key, tokens: Tokens) -> None:
        """From now on the object has these, and only these."""
        for token in self.holds.pop(key, Tokens()) - tokens:
            holders = self._holders[token]
            holders.discard(key)
            if not holders:
                del self._holders[token]
        for token in tokens:
            self._holders.setdefault(token, set()).add(key)
        if tokens:
            self.holds[key] = tokens

    def taken(self, token: Token, by_others_than: Key | None = None) -> bool:
        """Whether another object has it; None: whether any has."""
        return bool(self._holders.get(token, set()) - {by_others_than})


class Allocation:
    """The ranges and who has what of them. `dice` is where addresses and ports begin to be looked for."""

    def __init__(self, store: Store, ranges: Sequence[Range], ports: PortRange, dice: Dice = random.randrange) -> None:
        self.ranges = tuple(ranges)
        self.ports = ports
        self.ledger = Ledger()
        self._store = store
        self._dice = dice
        self._externals: dict[str, dict[Key, ExternalPods]] = {}
        for name in TOKENS:
            store.listen(name, self._note)
        store.listen(resource(EXTERNALPODS), self._note_external)

    def _note(self, key: Key, record: Record | None) -> None:
        self.ledger.note(key, _tokens(record))

    def _note_external(self, key: Key, record: Record | None) -> None:
        known = self._externals.setdefault(key.namespace, {})
        known.pop(key, None)
        if found := _decoded(record, ExternalPods):
            known[key] = found
        elif not known:
            del self._externals[key.namespace]

    def settle_for(self, kind: Kind) -> Callable[[Document, Document | None], None] | None:
        """What completes objects of this kind; None when they have nothing to be given."""
        found = {
            SERVICES.kind: self.settle,
            PODS.kind: self.settle_pod,
            DEBUGPORTS.kind: self.settle_debug_port,
            NETWORKCONFIGS.kind: self.settle_network,
        }
        return found.get(kind.kind)

    def settle_network(self, document: Document, old: Document | None) -> None:
        """See that nodes keep the ranges that they were given. Raises ApiError 422."""
        before, after = ((each or {}).get("spec", {}).get("podCIDRs") or () for each in (old, document))
        if before and before != after:
            records = self._store.records(Selection(resource(NODES)))
            nodes = filter(None, (_decoded(record, Node) for record in records))
            if why := pod_cidrs.stranded(nodes, before, after):
                raise invalid(NETWORKCONFIGS, document["metadata"]["name"], [wrong("spec.podCIDRs", after, why)])

    def settle_pod(self, document: Document, old: Document | None) -> None:
        """Give a pod its external ports."""
        metadata = document["metadata"]
        externals = self._externals.get(metadata["namespace"], {})
        if externals or EXTERNAL_ANNOTATION in (metadata.get("annotations") or {}):
            pod, before = convert(document, Pod), convert(old, Pod) if old is not None else None
            node = _decoded(self._store.newest(Key(resource(NODES), "", pod.spec.node_name)), Node)
            mine = external_pods.tokens(before) if before else iter(())
            free = self._numbers(Key(resource(PODS), *pod.key), mine)
            external_pods.settle(document, pod, before, tuple(externals.values()), node, free)

    def settle_debug_port(self, document: Document, old: Document | None) -> None:
        """Give a DebugPort its number. Raises ApiError 422, and 500 when nothing is left."""
        metadata = document["metadata"]
        namespace, name = metadata["namespace"], str(metadata.get("name", ""))
        pod = _decoded(self._store.newest(Key(resource(PODS), namespace, document["spec"].get("pod", ""))), Pod)
        free = self._numbers(Key(resource(DEBUGPORTS), namespace, name), iter(()))
        if refusals := debug_ports.settle(document, old, pod, free):
            raise _refused(DEBUGPORTS, name, refusals)

    def _numbers(self, key: Key, mine: Iterator[Token]) -> Numbers:
        """Numbers for leases, which yield to the hostPorts of any pod and so keep off them."""

        def taken(token: Token) -> bool:
            host = external_pods.host_token(token.number)
            return self.ledger.taken(token, by_others_than=key) or self.ledger.taken(host)

        return Numbers(self.ports, taken, self._dice, {token.number for token in mine})

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
            raise _refused(SERVICES, name, refusals)
        if before is not None:
            service_fields.drop(document, before)

    async def repair(self) -> AsyncIterator[tuple[Key, Tokens]]:
        """Read everything again: what the ledger did not know. Nothing, unless there is a mistake in here."""
        keys = {record.key for name in TOKENS for record in self._store.records(Selection(name))}
        for number, key in enumerate(keys | self.ledger.holds.keys()):
            if number % REPAIRED_AT_ONCE == 0:
                await asyncio.sleep(0)  # let requests pass
            tokens = _tokens(self._store.newest(key))
            unknown = tokens - self.ledger.holds.get(key, Tokens())
            self.ledger.note(key, tokens)
            if unknown:
                yield key, unknown


def _service(record: Record) -> Iterator[Token]:
    spec = record.document()["spec"]
    return chain(service_ips.tokens(spec), node_ports.tokens(spec))


def _pod(record: Record) -> Iterator[Token]:
    """Most pods have none, and need not be decoded to know that."""
    some = EXTERNAL_ANNOTATION.encode() in record.value or b'"hostPort"' in record.value
    pod = _decoded(record, Pod) if some else None
    return external_pods.tokens(pod) if pod else iter(())


def _debug_port(record: Record) -> Iterator[Token]:
    found = _decoded(record, DebugPort)
    return debug_ports.tokens(found) if found else iter(())


TOKENS: Mapping[str, Callable[[Record], Iterator[Token]]] = {
    resource(SERVICES): _service, resource(PODS): _pod, resource(DEBUGPORTS): _debug_port,
}  # fmt: skip
"""What has tokens, by resource."""


def _tokens(record: Record | None) -> Tokens:
    return Tokens(TOKENS[record.key.resource](record)) if record is not None else Tokens()


def _decoded(record: Record | None, type_: type[O]) -> O | None:
    """None when there is none, or it was stored by a version that judged otherwise."""
    try:
        return decode(record.value, type_) if record is not None else None
    except InvalidObject:
        return None


def _refused(kind: Kind, name: str, refusals: Sequence[Refusal]) -> ApiError:
    for refusal in refusals:
        if not refusal.field:
            why = f"Internal error occurred: {refusal.why}"
            return ApiError(500, "InternalError", why, {"causes": [{"message": refusal.why}]})
    return invalid(kind, name, [wrong(refusal.field, refusal.value, refusal.why) for refusal in refusals])
