"""CNI errors: the one exception that becomes an error document on a runtime's side."""

from __future__ import annotations

from enum import IntEnum

import msgspec

NEWEST = "1.1.0"
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", NEWEST)


class Code(IntEnum):
    """Codes of the specification (below 100) and our own (from 100 on)."""

    VERSION = 1
    UNSUPPORTED = 2
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    CONFIG = 7
    NETNS = 8
    TRY_AGAIN = 11
    UNAVAILABLE = 50
    NOT_APPLIED = 100  # the kernel does not hold what the pod needs
    EXHAUSTED = 101  # no address is left
    TAKEN = 102  # an address, interface or host port that was asked for belongs to another attachment
    EXISTS = 103  # ADD of an attachment that exists


class CniError(Exception):
    """A CNI operation failed: `msg` is one sentence for people, `details` what else helps to find the cause."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg} ({details})" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def document(self, version: str = NEWEST) -> bytes:
        """The error as the specification's JSON (section 5)."""
        fields: dict[str, str | int] = {"cniVersion": version if version in VERSIONS else NEWEST}
        fields |= {"code": int(self.code), "msg": self.msg}
        if self.details:
            fields["details"] = self.details
        return msgspec.json.encode(fields) + b"\n"
