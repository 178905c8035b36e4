"""What one kind's informer knows: the objects, up to which version, and what was wrong with the documents.

This is the informer without its I/O: bytes of pages and events go in, a mapping comes out. Three rules make it safe.

Identity. An object whose new value equals the old one stays the old object, so that "is it the same object?" tells
whether anything podnet looks at has changed; a node's heartbeat then costs one decode and nothing downstream. The
resourceVersion is not part of the comparison, hence an object in the snapshot carries the version at which its *value*
last changed, which may be older than the server's; it serves no optimistic write (read again for that).

Bad documents. One that does not decode is reported as a `Problem` and the last good version stays; if there never was
one, the object is absent.

Doubt. A list that lost more than half of what was held (nothing at all included), or that is older than what was seen,
may come from a broken or restored server. `doubt` says so and the informer asks again before it believes.
Versions are compared as integers, as Kubernetes defines them since KEP-5504; others are never called older.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from podnet.client.errors import error_from
from podnet.objects.cluster import Key
from podnet.objects.codec import InvalidObject, decode
from podnet.objects.kinds import Kind
from podnet.objects.meta import Object
from podnet.state.difference import changes, replaced

Keep = Callable[[Any], bool]
"""Whether an object is needed; one that is not, counts as absent and takes no memory."""


class Problem(msgspec.Struct, frozen=True):
    """A document of the API that podnet cannot use; `message` names the field."""

    kind: str
    key: Key
    message: str

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(filter(None, self.key))}: {self.message}"


class Disorder(Exception):
    """The watch said what cannot be: an older version, or something that is no event. Only a new list helps."""


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct, frozen=True, gc=False):
    """As little of an object as is needed to say which one it is."""

    metadata: _Meta = _Meta()


_EVENT = msgspec.json.Decoder(_Event)
_IDENTITY = msgspec.json.Decoder(_Identity)


def older(version: str, than: str) -> bool:
    """Whether a resourceVersion lies before another one; False when they have no order."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def same(old: Object, new: Object) -> bool:
    """Whether two objects differ in nothing but their resourceVersion."""
    metadata = replace(new.metadata, resource_version=old.metadata.resource_version)
    return replace(new, metadata=metadata) == old


class Listing:
    """A list in the making: what its pages held so far. `version` is that of the first page."""

    def __init__(self) -> None:
        self.version = ""
        self.objects: dict[Key, Object] = {}
        self.problems: dict[Key, Problem] = {}


class Store:
    """The objects of one kind. `objects` is changed in place; whoever wants to keep it copies it.

    version   the resourceVersion up to which events are included, "" before the first list
    problems  the documents that cannot be used at present
    """

    def __init__(
        self,
        kind: Kind,
        server: str = "",
        report: Callable[[Problem], None] = lambda problem: None,
        keep: Keep = lambda new: True,
    ) -> None:
        self.kind = kind
        self._keep = keep
        self.server = server
        self.objects: dict[Key, Object] = {}
        self.problems: dict[Key, Problem] = {}
        self.version = ""
        self._report = report
        self._last: Mapping[Key, Object] = {}
        self._touched: dict[Key, None] | None = {}

    def snapshot(self) -> Mapping[Key, Object]:
        """The objects as they are now, in a mapping that stays so and shares what it can with the last one."""
        touched = changes(self.objects, self._last) if self._touched is None else self._touched
        fresh = {key: self.objects[key] for key in touched if key in self.objects}
        gone = [key for key in touched if key not in self.objects and key in self._last]
        self._touched = {}
        if fresh or gone:
            self._last = replaced(self._last, fresh, gone)
        return self._last

    def _touch(self, key: Key) -> None:
        if self._touched is not None:
            self._touched[key] = None

    def add_page(self, listing: Listing, version: str, items: Iterable[bytes]) -> None:
        """Decode one page into a listing; the bytes are not kept."""
        listing.version = listing.version or version
        for item in items:
            try:
                new = self._decode(item)
            except InvalidObject as error:
                self._keep_old(listing, self._problem(item, error))
            else:
                old = self.objects.get(new.key)
                if self._keep(new):
                    listing.objects[new.key] = old if old is not None and same(old, new) else new

    def _keep_old(self, listing: Listing, problem: Problem) -> None:
        listing.problems[problem.key] = problem
        if problem.key in self.objects:
            listing.objects[problem.key] = self.objects[problem.key]

    def doubt(self, listing: Listing) -> str:
        """Why a finished listing should be confirmed by another one before it counts; "" if it need not be."""
        if older(listing.version, self.version):
            return "it is older than what was seen before"
        if 2 * len(listing.objects) < len(self.objects):
            return "it lost more than half of the objects"
        return ""

    def take(self, listing: Listing) -> bool:
        """Make a finished listing the truth; True when an object changed."""
        for key, problem in listing.problems.items():
            if self.problems.get(key) != problem:
                self._report(problem)
        old, self.objects = self.objects, listing.objects
        self._touched = None
        self.problems = listing.problems
        self.version = listing.version
        return len(old) != len(self.objects) or any(old.get(key) is not new for key, new in self.objects.items())

    def apply(self, line: bytes) -> bool:
        """Take one watch event; True when an object changed. Raises Disorder, and ApiError for an ERROR event."""
        try:
            event = _EVENT.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Disorder(f"the watch sent something that is no event: {error}") from None
        match event.type:
            case "ADDED" | "MODIFIED":
                return self._put(event.object)
            case "DELETED":
                identity = self._identity(event.object)
                self._advance(identity.resource_version)
                key = (identity.namespace, identity.name)
                self.problems.pop(key, None)
                return self._drop(key)
            case "BOOKMARK":
                self._advance(self._identity(event.object).resource_version)
                return False
            case "ERROR":
                raise error_from(bytes(event.object), 500, self.server)
        raise Disorder(f"the watch sent an event of the unknown type {event.type!r}")

    def _put(self, document: bytes) -> bool:
        try:
            new = self._decode(document)
        except InvalidObject as error:
            return self._reject(document, error)
        self._advance(new.metadata.resource_version)
        key = new.key
        if self.problems:
            self.problems.pop(key, None)
        old = self.objects.get(key)
        if not self._keep(new):
            return self._drop(key)
        if old is not None and same(old, new):
            return False
        self.objects[key] = new
        self._touch(key)
        return True

    def _drop(self, key: Key) -> bool:
        self._touch(key)
        return self.objects.pop(key, None) is not None

    def _reject(self, document: bytes, error: InvalidObject) -> bool:
        problem = self._problem(document, error)
        self._advance(self._identity(document).resource_version)
        if self.problems.get(problem.key) != problem:
            self.problems[problem.key] = problem
            self._report(problem)
        return False

    def _decode(self, document: bytes) -> Object:
        new = decode(document, self.kind.type)
        if not new.metadata.name:
            raise InvalidObject("missing", "metadata.name")
        return new

    def _problem(self, document: bytes, error: InvalidObject) -> Problem:
        identity = self._identity(document)
        return Problem(self.kind.kind, (identity.namespace, identity.name), str(error))

    def _identity(self, document: bytes) -> _Meta:
        try:
            return _IDENTITY.decode(document).metadata
        except msgspec.MsgspecError:
            return _Meta()

    def _advance(self, version: str) -> None:
        if older(version, self.version):
            raise Disorder(f"the watch went back in time, from version {self.version} to {version}")
        self.version = version or self.version
