"""What can go wrong with a request: the server's refusal, as its Status object says, or no answer at all.

Source: k8s.io/apimachinery/pkg/apis/meta/v1/types.go (Status, StatusReason, StatusDetails).
"""

from __future__ import annotations

import os
import ssl

import aiohttp
import msgspec


class Cause(msgspec.Struct, frozen=True):
    """One field that the server did not like."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """What a failed request was about."""

    name: str = ""
    kind: str = ""
    causes: tuple[Cause, ...] = ()
    retry_after_seconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """The body of a failed request, or the object of an ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


class ApiError(Exception):
    """The server refused or failed.

    code         HTTP status, 0 when there was no answer
    reason       Kubernetes' word, such as NotFound, AlreadyExists, Conflict, Expired, Invalid
    details      the object and the fields it is about
    retry_after  seconds the server asks to wait, 0 when it does not ask
    """

    def __init__(
        self, code: int, reason: str, message: str = "", details: Details | None = None, server: str = ""
    ) -> None:
        super().__init__(code, reason, message, details, server)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or Details()
        self.server = server
        self.retry_after = float(self.details.retry_after_seconds)

    def __str__(self) -> str:
        return f"{self.message or self.reason} ({self.code} {self.reason}, from {self.server})"

    @property
    def expired(self) -> bool:
        """The resourceVersion or continue token is older than what the server remembers."""
        return self.code == 410 or self.reason in ("Expired", "Gone")

    @property
    def too_new(self) -> bool:
        """The server has not (or no longer) seen the resourceVersion: a lagging replica, or a restored backup."""
        causes = [cause.reason for cause in self.details.causes]
        return "ResourceVersionTooLarge" in causes or "Too large resource version" in self.message


class Unreachable(ApiError):
    """No answer: the connection could not be made, was lost, or took too long."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(0, "Unreachable", message, server=server)

    def __str__(self) -> str:
        return f"no answer from {self.server}: {self.message}"


_STATUS = msgspec.json.Decoder(Status)


def error_from(body: bytes, code: int, server: str) -> ApiError:
    """The error that a Status body describes; a body that is none (a proxy's page) is quoted."""
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        status = Status(message=" ".join(body[:200].decode(errors="replace").split()))
    code = status.code or code
    return ApiError(code, status.reason or "Unknown", status.message, status.details, server)


def unreachable(error: Exception, server: str, timeout: float) -> Unreachable:
    """One sentence for what aiohttp, the socket or the clock said."""
    if isinstance(error, TimeoutError):
        return Unreachable(server, f"nothing came within {timeout:g} s")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        detail = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else str(cause)
        return Unreachable(server, f"its certificate is not accepted: {detail}")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return Unreachable(server, os.strerror(number) if number > 0 else error.os_error.strerror or str(error))
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return Unreachable(server, "it closed the connection in the middle of an answer")
    return Unreachable(server, str(error) or type(error).__name__)
