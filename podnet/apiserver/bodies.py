"""From the bytes of a request to a document, and from a patch's media type to what it does. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from podnet.apiserver import protobuf
from podnet.apiserver.discovery import MERGE_PATCHES, STRATEGIC
from podnet.apiserver.patch import json_patch, merge, without_nulls
from podnet.apiserver.status import Document, bad_request, unsupported_media_type
from podnet.apiserver.strategic import strategic_merge

JSON = "application/json"


def decode(body: bytes, content_type: str) -> Document:
    """One object of a POST, PUT or DELETE; nulls are absent. Raises ApiError 400, 415."""
    if content_type == protobuf.CONTENT_TYPE:
        return protobuf.decode(body)
    if content_type not in (JSON, "", "application/octet-stream"):
        raise unsupported_media_type((JSON, protobuf.CONTENT_TYPE))
    document = _json(body)
    if not isinstance(document, dict):
        raise bad_request("couldn't get version/kind; json parse error: the body must be a JSON object")
    return without_nulls(document) if b"null" in body else document


def _json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


def patcher(body: bytes, content_type: str, supported: Sequence[str]) -> Callable[[Document], Document]:
    """What a PATCH does to a document; raises ApiError 400, 415 now, and 400, 422 when it is applied."""
    if content_type not in supported:
        raise unsupported_media_type(supported)
    patch = _json(body)
    if content_type == MERGE_PATCHES[0]:
        return lambda document: without_nulls(json_patch(document, patch))
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a merge patch must be a JSON object")
    apply = strategic_merge if content_type == STRATEGIC else merge
    return lambda document: without_nulls(apply(document, patch))
