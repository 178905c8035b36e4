"""The attachments of this node: which pod holds which address. The record of an attachment is its allocation.

Decisions are made in memory on the event loop, without awaiting in between, so no two pods get one address; then the
record is written, and only a written record is acknowledged. One worker thread owns the SQLite file. Everything that
arrives while it writes becomes its next transaction, so a hundred ADDs at once cost a few fsyncs and not a hundred.

The file is in WAL mode with synchronous=FULL: what was acknowledged survives a kill and a power cut. `UNIQUE` in the
schema says once more what the memory already guarantees.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from podnet.agent import attachments_file as file
from podnet.agent.attachments_file import Statement
from podnet.network.ipam import ranges
from podnet.network.pods import pod_mac
from podnet.network.view import Attachment, base_address

log = logging.getLogger(__name__)

Id = tuple[str, str]
Claim = tuple[str, ...]


class StoreFailed(Exception):
    """The record could not be written (disk full, I/O error): nothing has changed."""


class Taken(Exception):
    """What an attachment needs for itself alone belongs to another: its interface or a host port."""

    def __init__(self, claim: Claim, holder: Attachment) -> None:
        super().__init__(f"{' '.join(filter(None, claim))} belongs to {holder.pod or '/'.join(holder.id)}")
        self.claim = claim
        self.holder = holder


def claims(attachment: Attachment) -> Iterator[Claim]:
    """What only one attachment of the node can have; an ended one keeps its addresses for a moment."""
    yield from (("address", base_address(address)) for address in attachment.addresses)
    if attachment.ended:
        return
    yield ("attachment", *attachment.id)
    yield ("interface", attachment.netns, attachment.ifname)
    yield from (("host port", port.protocol, str(port.host_port), port.host_ip) for port in attachment.ports)


class _Addresses(Container[str]):
    """The addresses among the claims, as ranges.allocate wants them."""

    def __init__(self, held: dict[Claim, Attachment]) -> None:
        self._held = held

    def __contains__(self, address: object) -> bool:
        return ("address", address) in self._held


class Attachments:
    """All attachments of the node, durable. Use it from one event loop."""

    def __init__(self, opened: file.Opened, boot_id: str) -> None:
        """Take over an opened file; see `open`."""
        self.report = opened.report
        self.boot_id = boot_id
        self._db = opened.db
        self._lock = opened.lock
        self._last = dict(opened.last)
        self._records = {record.id: record for record in opened.records if not record.ended}
        self._held = {claim: record for record in opened.records for claim in claims(record)}
        self._all = tuple(self._records.values())
        self.ended = tuple(record for record in opened.records if record.ended)
        """Those whose end an earlier agent did not finish: forget their flows, then `remove` them."""
        self._thread = ThreadPoolExecutor(1, "attachments")
        self._pending: list[tuple[Sequence[Statement], Callable[[bool], None], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, state_dir: str, boot_id: str, alive: Callable[[str], bool] = file.is_namespace) -> Attachments:
        """Open or create `<state_dir>/attachments.db`; raises UserError when it can't be used at all.

        A damaged file is moved aside and what was readable of it is kept. Records of an earlier boot (another
        `boot_id`) whose namespace is not `alive` are dropped. `report` and the log then say so.
        """
        opened = await asyncio.to_thread(file.open_, state_dir, boot_id, alive)
        for sentence in opened.report:
            log.warning("%s", sentence)
        return cls(opened, boot_id)

    def all(self) -> tuple[Attachment, ...]:
        """Every written record; the identical tuple until one changes."""
        return self._all

    def get(self, identity: Id) -> Attachment | None:
        """The written record of (container id, ifname)."""
        return self._records.get(identity)

    def holder(self, netns: str, ifname: str) -> Attachment | None:
        """Who has this interface, or is about to."""
        return self._held.get(("interface", netns, ifname))

    def has_room(self, sets: Sequence[ranges.RangeSet]) -> None:
        """Raises ranges.Exhausted when a set has no address left."""
        ranges.allocate(sets, _Addresses(self._held), self._last)

    async def add(
        self, draft: Attachment, sets: Sequence[ranges.RangeSet], requested: Sequence[str] = ()
    ) -> Attachment:
        """Give `draft` its addresses and MAC and record it; returns when that is durable.

        Raises ranges.RangeError (Exhausted, AddressTaken), Taken, StoreFailed; nothing has changed then.
        """
        given = ranges.allocate(sets, _Addresses(self._held), self._last, requested)
        attachment = msgspec.structs.replace(
            draft, addresses=given, mac=draft.mac or pod_mac(given, draft.id), boot_id=self.boot_id
        )
        self._claim(attachment)
        moved = [(each, base_address(address)) for each, address in zip(sets, given, strict=True) if not requested]
        self._last |= {ranges.label(each): address for each, address in moved}

        def settle(written: bool) -> None:
            if written:
                self._set(attachment.id, attachment)
            else:
                self._release(attachment)

        await self._write(file.insert(attachment, sets, moved), settle)
        return attachment

    async def end(self, attachment: Attachment) -> Attachment:
        """Record that an attachment is over, except for its addresses, which nobody gets before `remove`.

        Raises StoreFailed.
        """
        ended = msgspec.structs.replace(attachment, ended=True)

        def settle(written: bool) -> None:
            if written:
                self._set(attachment.id, None)
                self._release(attachment)
                self._held |= dict.fromkeys(claims(ended), ended)

        await self._write(file.update(ended), settle)
        return ended

    async def remove(self, attachment: Attachment) -> None:
        """Forget a record, whose addresses may be given again as soon as that is durable; raises StoreFailed."""

        def settle(written: bool) -> None:
            if written:
                if not attachment.ended:
                    self._set(attachment.id, None)
                self._release(attachment)

        if attachment.ended or self._records.get(attachment.id) is attachment:
            await self._write(file.delete(attachment), settle)

    async def close(self) -> None:
        """Finish what is being written and close the file."""
        if self._writer:
            await self._writer
        self._thread.shutdown()
        self._db.close()
        os.close(self._lock)

    def _claim(self, attachment: Attachment) -> None:
        wanted = list(claims(attachment))
        for claim in wanted:
            if claim in self._held:
                raise Taken(claim, self._held[claim])
        self._held |= dict.fromkeys(wanted, attachment)

    def _release(self, attachment: Attachment) -> None:
        for claim in claims(attachment):
            if self._held.get(claim) is attachment:
                del self._held[claim]

    def _set(self, identity: Id, attachment: Attachment | None) -> None:
        if attachment:
            self._records[identity] = attachment
        else:
            del self._records[identity]
        self._all = tuple(self._records.values())

    async def _write(self, statements: Sequence[Statement], settle: Callable[[bool], None]) -> None:
        """Wait for a write; `settle` hears of its outcome even when the waiting is cancelled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((statements, settle, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        await done

    async def _drain(self) -> None:
        """Write what is pending, all of it in one transaction, until nothing is."""
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            failures = await loop.run_in_executor(self._thread, self._commit, [statements for statements, *_ in batch])
            for (_, settle, done), failure in zip(batch, failures, strict=True):
                settle(failure is None)
                if not done.done():
                    done.set_exception(failure) if failure else done.set_result(None)
        self._writer = None

    def _commit(self, batch: Sequence[Sequence[Statement]]) -> list[StoreFailed | None]:
        """One transaction for all; when that fails, one for each, so that nobody fails for another's sake."""
        try:
            file.transact(self._db, [statement for statements in batch for statement in statements])
        except sqlite3.Error as error:
            if len(batch) > 1:
                return [self._commit([statements])[0] for statements in batch]
            return [StoreFailed(f"the record could not be written to {file.NAME}: {error}")]
        return [None] * len(batch)
