"""Refusals have upstream's shape and words."""

from __future__ import annotations

import pytest

from podnet.apiserver import status
from podnet.apiserver.status import Cause
from podnet.apiserver.validation import rules
from podnet.objects.kinds import LEASES, PODS

NOT_ALLOWED = "the server does not allow this method on the requested resource"


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"),
    [
        (status.not_found(PODS, "a"), 404, "NotFound", 'pods "a" not found'),
        (status.not_found(LEASES, "a"), 404, "NotFound", 'leases.coordination.k8s.io "a" not found'),
        (status.already_exists(PODS, "a"), 409, "AlreadyExists", 'pods "a" already exists'),
        (status.conflict(PODS, "a"), 409, "Conflict", f'Operation cannot be fulfilled on pods "a": {status.MODIFIED}'),
        (status.forbidden(PODS, "a", "no"), 403, "Forbidden", 'pods "a" is forbidden: no'),
        (status.bad_request("no"), 400, "BadRequest", "no"),
        (status.unprocessable("no"), 422, "Invalid", "no"),
        (status.expired("no"), 410, "Expired", "no"),
        (status.method_not_allowed(), 405, "MethodNotAllowed", NOT_ALLOWED),
        (status.too_large_revision(9, 3), 504, "Timeout", "Timeout: Too large resource version: 9, current: 3"),
        (
            status.unsupported_media_type(["a/b", "c/d"]),
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: a/b, c/d",
        ),
    ],
)
def test_errors(error: status.ApiError, code: int, reason: str, message: str) -> None:
    document = error.status()
    assert (document["kind"], document["apiVersion"], document["status"]) == ("Status", "v1", "Failure")
    assert (document["code"], document["reason"], document["message"]) == (code, reason, message)


def test_details_name_the_object() -> None:
    assert status.not_found(LEASES, "a").status()["details"] == {
        "name": "a",
        "group": "coordination.k8s.io",
        "kind": "leases",
    }
    assert status.success(PODS, "a", "u")["details"] == {"name": "a", "kind": "pods", "uid": "u"}


def test_one_cause_and_several() -> None:
    one, two = rules.required("spec.a"), rules.wrong("spec.b", 5, "no")
    assert status.invalid(PODS, "x", [one]).message == 'Pod "x" is invalid: spec.a: Required value'
    both = status.invalid(PODS, "x", [one, two]).status()
    assert both["message"] == 'Pod "x" is invalid: [spec.a: Required value, spec.b: Invalid value: 5: no]'
    assert both["details"] == {
        "name": "x",
        "kind": "Pod",
        "causes": [
            {"reason": "FieldValueRequired", "field": "spec.a", "message": "Required value"},
            {"reason": "FieldValueInvalid", "field": "spec.b", "message": "Invalid value: 5: no"},
        ],
    }


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (rules.required("a", "why"), "a: Required value: why"),
        (rules.wrong("a", "x", "why"), 'a: Invalid value: "x": why'),
        (rules.wrong("a", ["x"], "why"), 'a: Invalid value: ["x"]: why'),
        (rules.unsupported("a", "x", ["c", "b"]), 'a: Unsupported value: "x": supported values: "b", "c"'),
        (rules.forbidden("a", "why"), "a: Forbidden: why"),
        (rules.duplicate("a", "x"), 'a: Duplicate value: "x"'),
        (rules.too_long("a", 9), "a: Too long: may not be more than 9 bytes"),
        (Cause("FieldValueInvalid", "", "no"), "no"),
    ],
)
def test_the_words_of_causes(cause: Cause, text: str) -> None:
    assert str(cause) == text
