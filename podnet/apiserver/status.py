"""Every refusal of the API is a Status object; this module holds the error and upstream's words for each case.

Source: k8s.io/apimachinery pkg/api/errors/errors.go and pkg/util/validation/field/errors.go. Clients match on `reason`
and `details`, people read `message`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from podnet.objects.kinds import Kind

Document = dict[str, Any]

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class Cause(msgspec.Struct, frozen=True):
    """One wrong field: `field` is a path such as spec.ports[0].port, `reason` one of metav1's CauseType values."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Exception):
    """A request that cannot be served: an HTTP code, metav1's StatusReason and, for people, a message."""

    def __init__(self, code: int, reason: str, message: str, details: Document | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Document:
        """The Status document that a client gets."""
        status: Document = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        }  # fmt: skip
        if self.details:
            status["details"] = self.details
        return status | {"code": self.code}


def success(kind: Kind, name: str, uid: str = "") -> Document:
    """What DELETE answers once an object is gone."""
    details = _details(kind, name) | ({"uid": uid} if uid else {})
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _details(kind: Kind, name: str) -> Document:
    return {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.plural}


def resource(kind: Kind) -> str:
    """`pods`, or `leases.coordination.k8s.io` outside the core group."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: Kind, name: str) -> ApiError:
    """404."""
    return ApiError(404, "NotFound", f'{resource(kind)} "{name}" not found', _details(kind, name))


def already_exists(kind: Kind, name: str) -> ApiError:
    """409 on create."""
    return ApiError(409, "AlreadyExists", f'{resource(kind)} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = MODIFIED) -> ApiError:
    """409 on update: the client acted on something that is no longer so."""
    message = f'Operation cannot be fulfilled on {resource(kind)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(kind, name))


def forbidden(kind: Kind, name: str, why: str, causes: Iterable[Cause] = ()) -> ApiError:
    """403: understood, and refused."""
    listed = [msgspec.to_builtins(cause) for cause in causes]
    details = _details(kind, name) | ({"causes": listed} if listed else {})
    return ApiError(403, "Forbidden", f'{resource(kind)} "{name}" is forbidden: {why}', details)


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> ApiError:
    """422 that names every wrong field."""
    listed = ", ".join(map(str, causes))
    message = f'{kind.kind} "{name}" is invalid: {listed if len(causes) == 1 else f"[{listed}]"}'
    details: Document = {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.kind}
    return ApiError(422, "Invalid", message, details | {"causes": [msgspec.to_builtins(cause) for cause in causes]})


def unprocessable(message: str) -> ApiError:
    """422 for a patch that is well formed and cannot be applied."""
    return ApiError(422, "Invalid", message)


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    """410: the client has to list again."""
    return ApiError(410, "Expired", message)


def too_large_revision(asked: int, current: int) -> ApiError:
    """504: the client knows a revision that this server does not (yet)."""
    message = f"Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", f"Timeout: {message}", {"causes": [cause], "retryAfterSeconds": 1})


def method_not_allowed() -> ApiError:
    """405."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media_type(supported: Sequence[str]) -> ApiError:
    """415."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    return ApiError(415, "UnsupportedMediaType", message)
