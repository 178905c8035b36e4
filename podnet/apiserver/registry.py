"""The verbs of the API over the store: the one interface of the HTTP server and of the controllers alike.

Each write is a pure edit from lifecycle.py run inside `Store.change`. Answers are records: bytes ready to be sent,
which an in-process caller decodes. All methods raise ApiError.
"""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from podnet.apiserver import lifecycle
from podnet.apiserver.allocation import Allocation
from podnet.apiserver.lifecycle import DeleteOptions, Settle, nothing_to_settle
from podnet.apiserver.records import Key, Record, Selection, Verdict
from podnet.apiserver.status import (
    ApiError,
    Cause,
    Document,
    already_exists,
    bad_request,
    expired,
    forbidden,
    not_found,
    resource,
    too_large_revision,
)
from podnet.apiserver.store import Store, Watcher
from podnet.objects.kinds import NAMESPACES, PODS, Kind

Patch = Callable[[Document], Document]
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words
_ATTEMPTS = 8
_CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You must start a new list without the continue parameter."
)


class Page(msgspec.Struct, frozen=True):
    """One answer to a list; `following` is the continue token ("": the end), `remaining` None when not known."""

    records: list[Record]
    revision: int
    following: str = ""
    remaining: int | None = None


class Registry:
    """See the module's story. `now` gives the time in UTC. Documents handed in are taken over: they get changed.

    `allocation` completes Services and others inside the write; without one they stay as they come.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        allocation: Allocation | None = None,
    ) -> None:
        self.store = store
        self.now = now
        self.allocation = allocation

    # Reading ---------------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Record:
        """The object as last committed."""
        record = self.store.get(Key(resource(kind), namespace, name))
        if record is None:
            raise not_found(kind, name)
        return record

    def list(self, selection: Selection, limit: int = 0, following: str = "", exactly: int | None = None) -> Page:
        """The selected objects of one moment, `limit` at a time (0: all); later pages are of the same moment."""
        start, revision = _parse_continue(following) if following else (None, exactly)
        try:
            records = self.store.records(selection, revision)
        except ApiError as error:
            raise expired(_CONTINUE_TOO_OLD) if following and error.code == 410 else error from None
        shown = self.store.revision if revision is None else revision
        if start is not None:
            records = [record for record in records if record.key[1:] > start]
        if not limit or len(records) <= limit:
            return Page(records, shown)
        remaining = len(records) - limit if selection.everything else None
        return Page(records[:limit], shown, _continue(records[limit - 1].key, shown), remaining)

    def watch(self, selection: Selection, revision: int | None = None) -> Watcher:
        """Changes after `revision`, or all objects and then changes. End it with `unwatch`."""
        return self.store.watch(selection, revision)

    def unwatch(self, watcher: Watcher) -> None:
        """No more changes, please."""
        self.store.unwatch(watcher)

    def not_older_than(self, revision: int) -> None:
        """Refuse when the client knows a newer revision than this server."""
        if revision > self.store.revision:
            raise too_large_revision(revision, self.store.revision)

    # Writing ---------------------------------------------------------------------------------------------------------

    async def create(self, kind: Kind, namespace: str, document: Document, dry_run: bool = False) -> Record:
        """A new object; its name is made up when only generateName is given."""
        metadata = lifecycle.identify(kind, namespace, document)
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        prefix = metadata.get("generateName")
        if metadata.get("name") or not isinstance(prefix, str) or not prefix:
            return await self._create(kind, namespace, document, dry_run)
        for _ in range(_ATTEMPTS):
            metadata["name"] = prefix[:58] + "".join(random.choices(_SUFFIX, k=5))
            try:
                return await self._create(kind, namespace, document, dry_run)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        raise already_exists(kind, metadata["name"])

    async def _create(self, kind: Kind, namespace: str, document: Document, dry_run: bool) -> Record:
        name = document["metadata"].get("name", "")

        def edit(old: Record | None) -> Document:
            self._admit(kind, namespace, name)
            if old is not None:
                raise already_exists(kind, name)
            return lifecycle.created(kind, document, _uid(), self.now(), self._settle(kind))

        return await self.store.change(Key(resource(kind), namespace, str(name)), edit, dry_run)

    def _settle(self, kind: Kind) -> Settle:
        return (self.allocation and self.allocation.settle_for(kind)) or nothing_to_settle

    def _admit(self, kind: Kind, namespace: str, name: str) -> None:
        """Objects need a namespace that exists and stays."""
        if not kind.namespaced:
            return
        space = self.store.newest(Key("namespaces", "", namespace))
        if space is None:
            raise not_found(NAMESPACES, namespace)
        if space.fields["status.phase"] == "Terminating":
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = Cause("NamespaceTerminating", "metadata.namespace", f"namespace {namespace} is being terminated")
            raise forbidden(kind, name, why, [cause])

    async def replace(
        self, kind: Kind, namespace: str, name: str, document: Document, subresource: str = "", dry_run: bool = False
    ) -> Record:
        """PUT: the object, or its status or finalizers, becomes `document`."""
        metadata = lifecycle.identify(kind, namespace, document)
        if metadata.setdefault("name", name) != name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        return await self._update(kind, namespace, name, lambda _: document, subresource, dry_run)

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Patch, subresource: str = "", dry_run: bool = False
    ) -> Record:
        """PATCH: the object becomes what `patch` makes of its newest state."""

        def apply(old: Document) -> Document:
            document = patch(old)
            metadata = lifecycle.identify(kind, namespace, document)
            if metadata.get("name") != name:
                raise bad_request("the name of the object may not be changed by a patch")
            return document

        return await self._update(kind, namespace, name, apply, subresource, dry_run)

    async def _update(
        self, kind: Kind, namespace: str, name: str, change: Patch, subresource: str, dry_run: bool
    ) -> Record:
        def edit(old: Record | None) -> Document | Verdict:
            if old is None:
                raise not_found(kind, name)
            return lifecycle.updated(kind, subresource, change(old.document()), old.document(), self._settle(kind))

        return await self.store.change(Key(resource(kind), namespace, name), edit, dry_run)

    async def bind(self, namespace: str, name: str, node: str, dry_run: bool = False) -> Record:
        """Give a Pod to a node, once."""

        def edit(old: Record | None) -> Document:
            if old is None:
                raise not_found(PODS, name)
            pod = lifecycle.bound(PODS, old.document(), node, self.now())
            self._settle(PODS)(pod, old.document())
            return pod

        return await self.store.change(Key("pods", namespace, name), edit, dry_run)

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: DeleteOptions | None = None, dry_run: bool = False
    ) -> tuple[Record, bool]:
        """(the last or present state, whether the object is gone already)."""
        gone = False

        def edit(old: Record | None) -> Document | Verdict:
            nonlocal gone
            if old is None:
                raise not_found(kind, name)
            result = lifecycle.deleted(kind, old.document(), options or DeleteOptions(), self.now())
            gone = result is Verdict.DELETE
            return result

        record = await self.store.change(Key(resource(kind), namespace, name), edit, dry_run)
        return record, gone

    async def delete_collection(
        self, kind: Kind, selection: Selection, options: DeleteOptions | None = None, dry_run: bool = False
    ) -> Page:
        """Delete each selected object; what vanishes meanwhile is fine."""
        page = self.list(selection)
        for record in page.records:
            try:
                await self.delete(kind, record.key.namespace, record.key.name, options, dry_run)
            except ApiError as error:
                if error.code != 404:
                    raise
        return page


def _uid() -> str:
    """A random UUID. It need not be secret, so it need not cost a system call."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def _continue(key: Key, revision: int) -> str:
    token = {"v": "meta.k8s.io/v1", "rv": revision, "start": [key.namespace, key.name]}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: tuple[str, str]


def _parse_continue(text: str) -> tuple[tuple[str, str], int]:
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise bad_request(f"continue key is not valid: {error}") from None
    return token.start, token.rv
