"""What holds for ConfigMaps, Secrets, Events and Leases. Source: k8s.io/kubernetes pkg/apis/core/validation."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from podnet.apiserver.validation import rules
from podnet.apiserver.validation.rules import Causes, forbidden, required, wrong
from podnet.objects.core import Event
from podnet.objects.meta import Object, Value

SIZE = 1 << 20  # bytes of all values together
REQUIRED_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


class ConfigMap(Object, frozen=True):
    """A ConfigMap as validated."""

    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool = False


class Secret(Object, frozen=True):
    """A Secret as validated."""

    type: str = "Opaque"
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}
    immutable: bool = False


class Reference(Value, frozen=True):
    """The object an event is about."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    field_path: str = ""


class Source(Value, frozen=True):
    """Who reports."""

    component: str = ""
    host: str = ""


class Series(Value, frozen=True):
    """An event that goes on."""

    count: int = 0
    last_observed_time: str | None = None


class EventForm(Event, frozen=True):
    """An Event as validated."""

    involved_object: Reference | None = None
    source: Source = Source()
    series: Series | None = None
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    count: int = 0


class LeaseSpec(Value, frozen=True):
    """A Lease's spec; durations in seconds."""

    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    renew_time: str | None = None
    acquire_time: str | None = None


class Lease(Object, frozen=True):
    """A Lease as validated."""

    spec: LeaseSpec = LeaseSpec()


def config_map(new: ConfigMap) -> Causes:
    """A whole ConfigMap."""
    for key in new.data:
        yield from rules.config_key(f"data[{key}]", key)
    for key in new.binary_data:
        yield from rules.config_key(f"binaryData[{key}]", key)
        if key in new.data:
            yield wrong("data", key, "duplicate of key present in binaryData")
    yield from _base64("binaryData", new.binary_data)
    if sum(map(len, (*new.data.values(), *new.binary_data.values()))) > SIZE:
        yield rules.too_long("", SIZE)


def config_map_update(new: ConfigMap, old: ConfigMap) -> Causes:
    """`immutable: true` is for ever, and freezes the data."""
    yield from _frozen(new, old)
    if old.immutable and (new.data, new.binary_data) != (old.data, old.binary_data):
        yield forbidden("data", "field is immutable when `immutable` is set")


def secret(new: Secret) -> Causes:
    """A whole Secret."""
    for key in new.data:
        yield from rules.config_key(f"data[{key}]", key)
    yield from _base64("data", new.data)
    for key in REQUIRED_KEYS.get(new.type, ()):
        if key not in new.data:
            yield required(f"data[{key}]")
    if sum(map(len, new.data.values())) > SIZE * 4 // 3:
        yield rules.too_long("data", SIZE)


def secret_update(new: Secret, old: Secret) -> Causes:
    """The type stays; `immutable: true` is for ever, and freezes the data."""
    yield from rules.immutable("type", new.type, old.type)
    yield from _frozen(new, old)
    if old.immutable and new.data != old.data:
        yield forbidden("data", "field is immutable when `immutable` is set")


def _frozen(new: ConfigMap | Secret, old: ConfigMap | Secret) -> Causes:
    if old.immutable and not new.immutable:
        yield forbidden("immutable", "field is immutable when `immutable` is set")


def _base64(field: str, values: Mapping[str, str]) -> Causes:
    for key, value in values.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            yield wrong(f"{field}[{key}]", value, "must be base64")


def event(new: EventForm) -> Causes:
    """An event lives in the namespace of the object it is about (cluster-wide objects: default)."""
    about = new.involved_object
    if about is None:
        yield required("involvedObject")
    elif about.namespace and about.namespace != new.metadata.namespace:
        yield wrong("involvedObject.namespace", about.namespace, "does not match event.namespace")


def lease(new: Lease) -> Causes:
    """A whole Lease."""
    if new.spec.lease_duration_seconds is not None and new.spec.lease_duration_seconds <= 0:
        yield wrong("spec.leaseDurationSeconds", new.spec.lease_duration_seconds, "must be greater than 0")
    if new.spec.lease_transitions is not None:
        yield from rules.not_negative("spec.leaseTransitions", new.spec.lease_transitions)
