"""What the store remembers of an object: the encoded document, and the few strings that selectors ask for.

The bytes are the truth. They are encoded once, when written, and then answer every get, list and watch; the document is
decoded again only where a request has to look inside. Labels and selectable fields are kept beside the bytes so that
fanning a change out to a thousand watchers decodes nothing.
Source of the selectable fields: upstream's per-resource field label conversions.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cached_property
from typing import NamedTuple

import msgspec

from podnet.apiserver.status import Document, bad_request
from podnet.objects import selectors
from podnet.objects.codec import InvalidObject

_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
FIELDS: Mapping[str, Mapping[str, str]] = {
    "pods": {
        "spec.nodeName": "", "spec.restartPolicy": "", "spec.schedulerName": "", "spec.serviceAccountName": "",
        "spec.hostNetwork": "false", "status.phase": "", "status.podIP": "", "status.nominatedNodeName": "",
    },
    "events": {
        **{f"involvedObject.{name}": "" for name in _INVOLVED},
        "reason": "", "reportingComponent": "", "source": "", "type": "",
    },
    "nodes": {"spec.unschedulable": "false"},
    "namespaces": {"status.phase": "", "name": ""},
    "secrets": {"type": ""},
    "services": {"spec.clusterIP": "", "spec.type": ""},
}  # fmt: skip
_EMPTY: Mapping[str, str] = {}
_encoder = msgspec.json.Encoder()


class Verdict(Enum):
    """What an edit of an object may answer instead of a document."""

    KEEP = "keep"
    DELETE = "delete"


class Key(NamedTuple):
    """Where an object lives; `resource` is `pods` or `leases.coordination.k8s.io`, `namespace` "" when cluster-wide."""

    resource: str
    namespace: str
    name: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """One object at one revision."""

    key: Key
    revision: int
    value: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    @classmethod
    def write(cls, key: Key, revision: int, document: Document) -> Record:
        """Stamp the document with its revision and encode it, once and for all readers."""
        document["metadata"]["resourceVersion"] = str(revision)
        return cls._of(key, revision, _encoder.encode(document), document)

    @classmethod
    def read(cls, key: Key, revision: int, value: bytes) -> Record:
        """The record of bytes that were stored earlier."""
        return cls._of(key, revision, value, msgspec.json.decode(value))

    @classmethod
    def _of(cls, key: Key, revision: int, value: bytes, document: Document) -> Record:
        labels = document["metadata"].get("labels") or _EMPTY
        paths = FIELDS.get(key.resource)
        fields = {path: _text(document, path, default) for path, default in paths.items()} if paths else _EMPTY
        return cls(key, revision, value, labels, fields)

    def document(self) -> Document:
        """A fresh copy, free to be changed."""
        return msgspec.json.decode(self.value)  # type: ignore[no-any-return]

    def field(self, path: str) -> str:
        """The value a field selector compares with."""
        if path == "metadata.name":
            return self.key.name
        return self.key.namespace if path == "metadata.namespace" else self.fields[path]

    def at(self, revision: int) -> Record:
        """The same object stamped with a later revision: what a watcher is told of an object that went."""
        return Record.write(self.key, revision, self.document())


def _text(document: Document, path: str, default: str) -> str:
    if path == "name":
        return str(document["metadata"]["name"])
    if path == "source":
        path = "source.component"
    value: object = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return default
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


class Event(NamedTuple):
    """One line of a watch; `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    record: Record


class Change(msgspec.Struct, dict=True, frozen=True):
    """One committed write: what the object was and what it became (None: it did not exist)."""

    revision: int
    key: Key
    before: Record | None
    after: Record | None

    @cached_property
    def gone(self) -> Record:
        """The last state, stamped with this revision; encoded once for all watchers."""
        assert self.before is not None
        return self.before.at(self.revision)

    @property
    def size(self) -> int:
        """Bytes of history this change keeps alive."""
        return len(self.before.value) if self.before else 64


class Selection(msgspec.Struct, frozen=True):
    """Which objects of a resource a list or watch asked for."""

    resource: str
    namespace: str = ""
    labels: selectors.Selector = ()
    fields: tuple[tuple[str, str, bool], ...] = ()

    @classmethod
    def parse(cls, resource: str, namespace: str, labels: str, fields: str) -> Selection:
        """From the query parameters labelSelector and fieldSelector; raises ApiError 400."""
        try:
            terms = selectors.parse_fields(fields)
            selection = cls(resource, namespace, selectors.parse(labels), terms)
        except InvalidObject as error:
            raise bad_request(f"unable to parse {error.field}: {error.message}") from None
        for path, _, _ in terms:
            if path not in ("metadata.name", "metadata.namespace") and path not in FIELDS.get(resource, _EMPTY):
                raise bad_request(f"field label not supported: {path}")
        return selection

    @property
    def everything(self) -> bool:
        """Whether neither kind of selector narrows the answer."""
        return not self.labels and not self.fields

    def matches(self, record: Record) -> bool:
        """Whether the record (of this resource) was asked for."""
        if self.namespace and record.key.namespace != self.namespace:
            return False
        if self.labels and not selectors.matches(self.labels, record.labels):
            return False
        return not self.fields or selectors.fields_match(self.fields, record.field)

    def event(self, change: Change) -> Event | None:
        """What a watcher sees of a change: objects appear and vanish as they begin and cease to match."""
        before, after = change.before, change.after
        was = before is not None and self.matches(before)
        if after is not None and self.matches(after):
            return Event("MODIFIED" if was else "ADDED", after)
        return Event("DELETED", change.gone) if was else None
