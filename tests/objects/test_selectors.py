"""Label and field selectors: upstream's grammar, upstream's meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.objects.codec import InvalidObject
from podnet.objects.selectors import Requirement, fields_match, matches, parse, parse_fields

NAMES = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,10}[A-Za-z0-9])?", fullmatch=True)
VALUES = st.one_of(st.just(""), NAMES)
LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y", "3", "7", ""]))
REQUIREMENTS = st.one_of(
    st.builds(Requirement, st.sampled_from("abcd"), st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement,
        st.sampled_from("abcd"),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(["x", "y", "3", "7"]), min_size=1, unique=True).map(
            lambda values: tuple(sorted(values))
        ),
    ),
    st.builds(
        Requirement,
        st.sampled_from("abcd"),
        st.sampled_from(["Gt", "Lt"]),
        st.integers(-9, 9).map(lambda number: (str(number),)),
    ),
)


def spell(term: Requirement) -> str:
    """A requirement as a client may write it."""
    match term.operator:
        case "Exists":
            return term.key
        case "DoesNotExist":
            return f"!{term.key}"
        case "In":
            return f"{term.key} in ({', '.join(term.values)})"
        case "NotIn":
            return f"{term.key} notin ({','.join(term.values)})"
    return f"{term.key} {'>' if term.operator == 'Gt' else '<'} {term.values[0]}"


def means(term: Requirement, labels: dict[str, str]) -> bool:
    """What upstream's documentation says a requirement means, spelt out."""
    value = labels.get(term.key)
    if term.operator == "Exists":
        return value is not None
    if term.operator == "DoesNotExist":
        return value is None
    if term.operator == "In":
        return value is not None and value in term.values
    if term.operator == "NotIn":
        return value is None or value not in term.values
    if value is None or not value.lstrip("-").isdigit():
        return False
    return int(value) > int(term.values[0]) if term.operator == "Gt" else int(value) < int(term.values[0])


@given(st.lists(REQUIREMENTS, max_size=4), LABELS)
def test_a_selector_reads_back_and_means_what_it_says(terms: list[Requirement], labels: dict[str, str]) -> None:
    selector = parse(" , ".join(map(spell, terms)))
    assert selector == tuple(terms)
    assert matches(selector, labels) is all(means(term, labels) for term in terms)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("a=b", (Requirement("a", "In", ("b",)),)),
        ("a==b", (Requirement("a", "In", ("b",)),)),
        ("a=", (Requirement("a", "In", ("",)),)),
        ("a!=b", (Requirement("a", "NotIn", ("b",)),)),
        ("app.kubernetes.io/name=web", (Requirement("app.kubernetes.io/name", "In", ("web",)),)),
        ("a in (x)", (Requirement("a", "In", ("x",)),)),
        ("a in(x,y)", (Requirement("a", "In", ("x", "y")),)),
        ("a in ()", (Requirement("a", "In", ("",)),)),
        (
            "a,!b , c notin (d)",
            (Requirement("a", "Exists"), Requirement("b", "DoesNotExist"), Requirement("c", "NotIn", ("d",))),
        ),
        ("in", (Requirement("in", "Exists"),)),
        ("a>5", (Requirement("a", "Gt", ("5",)),)),
        ("a < -5", (Requirement("a", "Lt", ("-5",)),)),
    ],
)
def test_spellings(text: str, expected: tuple[Requirement, ...]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a,",
        ",a",
        "a,,b",
        "=b",
        "a=b=c",
        "a b",
        "!a=b",
        "a in",
        "a in x",
        "a in (x",
        "a in (x))",
        "a notin",
        "-a",
        "a-=b",
        "a/b/c",
        "/a",
        "A/b=c",
        "a=b c",
        "a>x",
        "a<",
        "a=" + "x" * 64,
        "x" * 64,
        "a=ü",
    ],
)
def test_what_cannot_be_read_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse(text)
    assert caught.value.field == "labelSelector"


@given(NAMES, VALUES)
def test_not_equal_holds_for_an_absent_key(key: str, value: str) -> None:
    assert matches(parse(f"{key}!={value}"), {})
    assert not matches(parse(f"{key}={value}"), {})
    assert matches(parse(f"{key}={value}"), {key: value})


def test_numbers_compare_only_with_numbers() -> None:
    assert matches(parse("a>5"), {"a": "10"})
    assert not matches(parse("a>5"), {"a": "ten"})
    assert not matches(parse("a<5"), {})


FIELDS = {"status.phase": "Running", "spec.nodeName": "n1", "metadata.name": "web"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("status.phase=Running", True),
        ("status.phase==Running", True),
        ("status.phase!=Running", False),
        ("status.phase=Running,spec.nodeName=n1", True),
        ("status.phase=Running,spec.nodeName!=n1", False),
        (" status.phase = Running ", True),
        ("spec.nodeName=", False),
    ],
)
def test_field_selectors(text: str, expected: bool) -> None:
    assert fields_match(parse_fields(text), FIELDS.__getitem__) is expected


@pytest.mark.parametrize("text", ["status.phase", "=x", "!=x", "a=b,c"])
def test_wrong_field_selectors(text: str) -> None:
    with pytest.raises(InvalidObject, match="can't understand it"):
        parse_fields(text)
