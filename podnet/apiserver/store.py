"""Objects in memory, durable in SQLite, with one revision for everything and a stream of changes for those who watch.

A write is a function from what the object is to what it shall be. It runs on the event loop against the newest state,
uncommitted writes included, so two writers of one object never race; its result gets the next revision and goes to the
writer thread, which commits whatever has gathered meanwhile as one transaction. Only after the commit is the change
shown to readers and watchers, and only then is the writer told. Reads never touch the disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from enum import Enum

from podnet.apiserver.database import Database
from podnet.apiserver.records import Change, Event, Key, Record, Selection, Verdict
from podnet.apiserver.status import ApiError, Document, expired, too_large_revision

HISTORY_CHANGES = 32_768
HISTORY_BYTES = 48 << 20
SYNC_SECONDS = 0.5  # how long a commit may stay off the disk (durability normal)
GROUP = 512  # writes in one transaction
QUEUE = 16_384  # events a watcher may be behind before it is cut off


class Mark(Enum):
    """What the loop tells the writer thread between writes."""

    RESUME = "resume"
    STOP = "stop"


Edit = Callable[[Record | None], Document | Verdict]
Note = Callable[[Key, "Record | None"], None]
Job = tuple[Change, "asyncio.Future[None]"]


class Watcher:
    """One client's place in the stream.

    `closed` is set when it fell too far behind or the server ends; in the first case `give_up` is called too, for who
    sends the events may be waiting for a client that reads no more.
    """

    def __init__(self, selection: Selection, backlog: list[Event]) -> None:
        self.selection = selection
        self.closed = False
        self.give_up: Callable[[], None] = lambda: None
        self._events = backlog
        self._wake: asyncio.Future[None] | None = None

    def offer(self, change: Change) -> None:
        """Queue the change if it was asked for."""
        event = self.selection.event(change)
        if event is None:
            return
        self._events.append(event)
        if len(self._events) > QUEUE:
            self.closed = True
            self._events.clear()
            self.give_up()
        self.rouse()

    def close(self) -> None:
        """No more events after those already queued."""
        self.closed = True
        self.rouse()

    def rouse(self) -> None:
        """Let `events` return now."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def events(self, patience: float | None = None) -> list[Event]:
        """All queued events, waiting for the first one up to `patience` seconds; [] after that or once closed."""
        if not self._events and not self.closed:
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            timer = loop.call_later(patience, self.rouse) if patience is not None else None
            try:
                await self._wake
            finally:
                self._wake = None
                if timer is not None:
                    timer.cancel()
        events, self._events = self._events, []
        return events


class Store:
    """See the module's story. Made and used on one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._objects: dict[str, dict[str, dict[str, Record]]] = {}
        self._pending: dict[Key, tuple[Record | None, asyncio.Future[None]]] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._notes: dict[str, Note] = {}
        self._outbox: list[Job] = []
        self._queue: queue.SimpleQueue[list[Job] | Mark | int] = queue.SimpleQueue()  # an int: compact up to it
        self._failing = ""
        self._loop = asyncio.get_running_loop()
        self.revision, objects, self._history = database.load()
        self._issued = self.revision
        self._floor = self._history[0].revision - 1 if self._history else self.revision
        self._bytes = sum(change.size for change in self._history)
        for record in objects.values():
            self._place(record.key, record)
        self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
        self._thread.start()

    # Reading ---------------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Record | None:
        """The committed object."""
        return self._objects.get(key.resource, {}).get(key.namespace, {}).get(key.name)

    def newest(self, key: Key) -> Record | None:
        """The object as it will be once everything submitted is committed."""
        pending = self._pending.get(key)
        return pending[0] if pending is not None else self.get(key)

    def records(self, selection: Selection, revision: int | None = None) -> list[Record]:
        """The selected objects ordered by namespace and name, now or at a revision; raises ApiError 410, 504."""
        spaces = self._objects.get(selection.resource, {})
        if revision is not None and revision != self.revision:
            spaces = self._past(selection.resource, revision)
        names = [selection.namespace] if selection.namespace else sorted(spaces)
        found = [space[name] for space in (spaces.get(namespace, {}) for namespace in names) for name in sorted(space)]
        return found if selection.everything else list(filter(selection.matches, found))

    def _past(self, resource: str, revision: int) -> dict[str, dict[str, Record]]:
        spaces = {namespace: dict(space) for namespace, space in self._objects.get(resource, {}).items()}
        for change in reversed(self._since(revision)):
            if change.key.resource != resource:
                continue
            space = spaces.setdefault(change.key.namespace, {})
            if change.before is None:
                space.pop(change.key.name, None)
            else:
                space[change.key.name] = change.before
        return spaces

    def _since(self, revision: int) -> list[Change]:
        if revision < self._floor:
            raise expired(f"too old resource version: {revision} ({self._floor + 1})")
        if revision > self.revision:
            raise too_large_revision(revision, self.revision)
        return self._history[bisect_right(self._history, revision, key=lambda change: change.revision) :]

    def listen(self, resource: str, note: Note) -> None:
        """Have `note` told of every object's newest state: now, and in the same breath as it changes.

        A watcher hears of what is committed; this one hears of what the next write will find. A write that fails is
        told again as the state that it goes back to.
        """
        self._notes[resource] = note
        for record in self.records(Selection(resource)):
            note(record.key, self.newest(record.key))

    def _tell(self, key: Key) -> None:
        note = self._notes.get(key.resource)
        if note is not None:
            note(key, self.newest(key))

    # Watching --------------------------------------------------------------------------------------------------------

    def watch(self, selection: Selection, revision: int | None = None) -> Watcher:
        """Everything after `revision`; None: every present object as ADDED first. Raises ApiError 410, 504."""
        if revision is None:
            backlog = [Event("ADDED", record) for record in self.records(selection)]
        else:
            changes = (change for change in self._since(revision) if change.key.resource == selection.resource)
            backlog = [event for change in changes if (event := selection.event(change)) is not None]
        watcher = Watcher(selection, backlog)
        self._watchers.setdefault(selection.resource, set()).add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """The client has gone."""
        self._watchers.get(watcher.selection.resource, set()).discard(watcher)

    def close_watchers(self) -> None:
        """End every watch: the server is going."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()

    # Writing ---------------------------------------------------------------------------------------------------------

    async def change(self, key: Key, edit: Edit, dry_run: bool = False) -> Record:
        """Apply `edit` and wait until it is durable: what was written, kept or deleted. Raises what edit raises."""
        before = self.newest(key)
        result = edit(before)
        if result is Verdict.KEEP or result is Verdict.DELETE:
            assert before is not None
            after, answer = (before, before) if result is Verdict.KEEP else (None, before)
        else:
            assert isinstance(result, dict)
            now = before.revision if before else self.revision
            after = answer = Record.write(key, now if dry_run else self._issued + 1, result)
        if not dry_run:
            await (self._settled(key) if result is Verdict.KEEP else self._submit(key, before, after))
        return answer

    async def _settled(self, key: Key) -> None:
        if key in self._pending:
            await asyncio.shield(self._pending[key][1])

    async def _submit(self, key: Key, before: Record | None, after: Record | None) -> None:
        if self._failing:
            raise _not_stored(self._failing)
        self._issued += 1
        done: asyncio.Future[None] = self._loop.create_future()
        self._pending[key] = (after, done)
        self._tell(key)
        self._outbox.append((Change(self._issued, key, before, after), done))
        if len(self._outbox) == 1:
            self._loop.call_soon(self._flush)
        await asyncio.shield(done)

    def _flush(self) -> None:
        """Hand over what this turn of the loop has written: the thread is woken once a turn, not once a write."""
        jobs, self._outbox = self._outbox, []
        self._queue.put(jobs)

    def _write(self) -> None:
        """The writer thread. After a failed commit it refuses all until the loop has forgotten what was built on it."""
        broken, due = "", None
        while True:
            jobs, mark = self._gather(None if due is None else max(due - time.monotonic(), 0.0))
            if jobs:
                broken = self._commit(jobs, broken)
                due = due or time.monotonic() + SYNC_SECONDS
            if due is not None and time.monotonic() >= due:
                broken, due = self._sync() or broken, None
            if mark is Mark.STOP:
                return
            if mark is Mark.RESUME:
                broken = ""
            if isinstance(mark, int):
                self._database.compact(mark)

    def _sync(self) -> str:
        try:
            self._database.sync()
        except OSError as error:
            return f"{error.strerror}: the disk does not keep what it is given"
        return ""

    def _gather(self, patience: float | None) -> tuple[list[Job], Mark | int | None]:
        """What is queued, up to the first mark; nothing only after `patience` seconds (None: for ever)."""
        jobs: list[Job] = []
        while not jobs or (len(jobs) < GROUP and not self._queue.empty()):
            try:
                item = self._queue.get(timeout=patience)
            except queue.Empty:
                return jobs, None
            if not isinstance(item, list):
                return jobs, item
            jobs += item
        return jobs, None

    def _commit(self, jobs: list[Job], broken: str) -> str:
        if not broken:
            try:
                self._database.commit([change for change, _ in jobs])
            except sqlite3.Error as error:
                broken = str(error)
        if broken:
            self._loop.call_soon_threadsafe(self._failed, jobs, broken)
        else:
            self._loop.call_soon_threadsafe(self._committed, jobs)
        return broken

    def _committed(self, jobs: list[Job]) -> None:
        for change, done in jobs:
            self._place(change.key, change.after)
            self.revision = change.revision
            self._history.append(change)
            self._bytes += change.size
            for watcher in self._watchers.get(change.key.resource, ()):
                watcher.offer(change)
            self._settle(change.key, done)
            done.set_result(None)
        if len(self._history) > HISTORY_CHANGES or self._bytes > HISTORY_BYTES:
            self._compact()

    def _failed(self, jobs: list[Job], why: str) -> None:
        self._failing = why
        for change, done in jobs:
            self._settle(change.key, done)
            self._tell(change.key)
            done.set_exception(_not_stored(why))
            done.exception()  # seen, even when the request that waits was cancelled meanwhile
        if not self._pending:
            self._failing = ""
            self._queue.put(Mark.RESUME)

    def _settle(self, key: Key, done: asyncio.Future[None]) -> None:
        if self._pending[key][1] is done:
            del self._pending[key]

    def _place(self, key: Key, record: Record | None) -> None:
        space = self._objects.setdefault(key.resource, {}).setdefault(key.namespace, {})
        if record is not None:
            space[key.name] = record
            return
        del space[key.name]
        if not space:
            del self._objects[key.resource][key.namespace]

    def _compact(self) -> None:
        """Drop the older half of the history, in memory now and on disk soon."""
        half = len(self._history) // 2
        self._floor = self._history[half - 1].revision
        self._bytes -= sum(change.size for change in self._history[:half])
        del self._history[:half]
        self._queue.put(self._floor)

    def close(self) -> None:
        """Commit what is queued, then close the file. The loop may not submit any more."""
        self._flush()
        self._queue.put(Mark.STOP)
        self._thread.join()
        self._database.close()


def _not_stored(why: str) -> ApiError:
    return ApiError(500, "InternalError", f"the write could not be stored: {why}")
