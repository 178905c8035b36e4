"""What a request is about: its path, its query and what its Accept header can take. Pure parsing, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from podnet.apiserver.status import ApiError, Cause, bad_request
from podnet.objects.kinds import KINDS, NAMESPACES, Kind

_BY_PLURAL: Mapping[tuple[str, str], Kind] = {(kind.api_version, kind.plural): kind for kind in KINDS}
TABLE_VERSIONS = ("v1", "v1beta1")
JSON_TYPES = ("application/json", "application/*", "*/*", "")


class Target(msgspec.Struct, frozen=True):
    """A collection (`name` ""), an object or a subresource."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@lru_cache(maxsize=4096)
def parse_path(path: str) -> Target | None:
    """The resource a path names; None when there is none."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        version, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        version, rest = f"{parts[1]}/{parts[2]}", parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in NAMESPACES.subresources:
        namespace, rest = rest[1], rest[2:]
    kind = _BY_PLURAL.get((version, rest[0]))
    if kind is None or len(rest) > 3 or not all(parts) or (namespace and not kind.namespaced):
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource and subresource not in kind.subresources:
        return None
    return Target(kind, namespace, name, subresource) if namespace or not name or not kind.namespaced else None


@lru_cache(maxsize=256)
def wants_table(accept: str) -> bool:
    """Whether the first representation we can give is a Table; raises ApiError 406 when we can give none."""
    for choice in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in choice.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        if kind not in JSON_TYPES:
            continue
        if options.get("as") == "table" and options.get("g") == "meta.k8s.io" and options.get("v") in TABLE_VERSIONS:
            return True
        if "as" not in options:
            return False
    message = "only the following media types are accepted: application/json"
    raise ApiError(406, "NotAcceptable", message)


class Query:
    """The query parameters of a request, with upstream's reading of numbers and booleans."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """The parameter, or ""."""
        return self._values.get(name, "")

    def flag(self, name: str) -> bool:
        """true unless absent, false or 0."""
        return self._values.get(name, "false").lower() not in ("false", "0", "")

    def number(self, name: str, default: int = 0) -> int:
        """A whole number that is not negative; raises ApiError 400."""
        text = self._values.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise bad_request(f"strconv: parsing {name}={text!r}: must be a whole number")
        return int(text)

    @property
    def dry_run(self) -> bool:
        """dryRun=All; raises ApiError 400 for anything else."""
        value = self.text("dryRun")
        if value not in ("", "All"):
            raise bad_request(f'dryRun: Unsupported value: "{value}": supported values: "All"')
        return value == "All"

    def check(self) -> None:
        """Refuse parameters that contradict each other, as ValidateListOptions does; raises ApiError 400, 422."""
        match, version = self.text("resourceVersionMatch"), self.text("resourceVersion")
        if match not in ("", "Exact", "NotOlderThan"):
            raise _options(
                "resourceVersionMatch", f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
            )
        if match and not version and not self.flag("watch"):
            raise _options(
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            )
        if match == "Exact" and version == "0":
            raise _options(
                "resourceVersionMatch", 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            )
        if self.flag("sendInitialEvents") and (match != "NotOlderThan" or not self.flag("watch")):
            why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise _options("resourceVersionMatch", why)


def _options(field: str, message: str) -> ApiError:
    cause = msgspec.to_builtins(Cause("FieldValueInvalid", field, message))
    return ApiError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {field}: {message}', {"causes": [cause]})
