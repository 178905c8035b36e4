"""Label and field selectors: the two little query languages of the Kubernetes API.

Label selectors follow k8s.io/apimachinery/pkg/labels (`a=b,c!=d,e in (x,y),!f`), field selectors
k8s.io/apimachinery/pkg/fields (`status.phase=Running,metadata.name!=x`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from podnet.objects.codec import InvalidObject

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"\s*(?:(?P<not>!)\s*(?P<absent>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<op>==|=|!=|>|<)\s*(?P<value>-?{_VALUE})"
    rf"|(?P<set>\bin\b|\bnotin\b)\s*\((?P<values>[^()]*)\))?)\s*(?:,(?=.)|$)"
)


class Requirement(msgspec.Struct, frozen=True, gc=False):
    """One term: `key operator values`; operators are In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy this term; as upstream, NotIn holds for an absent key."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case _:
                return value is not None and _compare(value, self.values[0], self.operator)


def _compare(value: str, bound: str, operator: str) -> bool:
    try:
        return int(value) > int(bound) if operator == "Gt" else int(value) < int(bound)
    except ValueError:
        return False


Selector = tuple[Requirement, ...]


def parse(text: str) -> Selector:
    """Parse a label selector; "" selects everything. Raises InvalidObject."""
    text = text.strip()
    terms: list[Requirement] = []
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise InvalidObject(f"unable to parse requirement at {text[position:]!r}", "labelSelector")
        terms.append(_requirement(term))
        position = term.end()
    return tuple(terms)


def _requirement(term: re.Match[str]) -> Requirement:
    if term["not"]:
        return Requirement(term["absent"], "DoesNotExist")
    if term["set"]:
        values = tuple(sorted(value.strip() for value in term["values"].split(",")))
        return Requirement(term["key"], "In" if term["set"] == "in" else "NotIn", values)
    if term["op"] is None:
        return Requirement(term["key"], "Exists")
    operator = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}[term["op"]]
    if operator in ("Gt", "Lt") and not re.fullmatch(r"-?\d+", term["value"]):
        raise InvalidObject("for 'Gt', 'Lt' operators, the value must be an integer", "labelSelector")
    return Requirement(term["key"], operator, (term["value"],))


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether every term holds."""
    return all(requirement.matches(labels) for requirement in selector)


def parse_fields(text: str) -> tuple[tuple[str, str, bool], ...]:
    """Parse a field selector into (path, value, equal) terms; raises InvalidObject."""
    terms = []
    for part in filter(None, text.split(",")):
        path, operator, value = re.split(r"(!=|==|=)", part, maxsplit=1) if re.search("!?=", part) else (part, "", "")
        if not operator or not path:
            raise InvalidObject(f"invalid selector {part!r}; can't understand it", "fieldSelector")
        terms.append((path.strip(), value.strip(), operator != "!="))
    return tuple(terms)


def fields_match(terms: tuple[tuple[str, str, bool], ...], field: Callable[[str], str]) -> bool:
    """Whether an object whose `field(path)` gives its values satisfies every term."""
    return all((field(path) == value) is equal for path, value, equal in terms)
