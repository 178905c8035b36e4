"""The small rules that every kind's validation is made of, each a generator of `Cause` with upstream's words.

Source: k8s.io/apimachinery pkg/util/validation/validation.go and pkg/util/validation/field/errors.go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from podnet.apiserver.status import Cause

Causes = Iterator[Cause]
T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_ENV_NAME = "[-._a-zA-Z][-._a-zA-Z0-9]*"
_LABEL_WORDS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SUBDOMAIN_WORDS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_1035_WORDS = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', "
    f"regex used for validation is '{_LABEL_1035}')"
)
_QUALIFIED_WORDS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_LABEL_VALUE_WORDS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', "
    f"regex used for validation is '{_LABEL_VALUE}')"
)
_CONFIG_KEY_WORDS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    f"or 'key-name', regex used for validation is '{_CONFIG_KEY}')"
)
_ENV_WORDS = (
    "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not "
    "start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', "
    f"regex used for validation is '{_ENV_NAME}')"
)


def required(field: str, detail: str = "") -> Cause:
    """The field is missing or empty."""
    return Cause("FieldValueRequired", field, f"Required value: {detail}" if detail else "Required value")


def wrong(field: str, value: object, detail: str) -> Cause:
    """The field has a value that cannot be."""
    return Cause("FieldValueInvalid", field, f"Invalid value: {_show(value)}: {detail}")


def mistyped(field: str, detail: str) -> Cause:
    """The field has a JSON type that it cannot have."""
    return Cause("FieldValueTypeInvalid", field, f"Invalid value: {detail}")


def unsupported(field: str, value: object, known: Iterable[str]) -> Cause:
    """The field is an enumeration that lacks this value."""
    listed = ", ".join(map(_show, sorted(known)))
    return Cause("FieldValueNotSupported", field, f"Unsupported value: {_show(value)}: supported values: {listed}")


def forbidden(field: str, detail: str) -> Cause:
    """The field may not be set (or changed) here."""
    return Cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def duplicate(field: str, value: object) -> Cause:
    """The value was given before, where each may be given once."""
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {_show(value)}")


def too_many(field: str, count: int, limit: int) -> Cause:
    """More items than allowed."""
    return Cause("FieldValueTooMany", field, f"Too many: {count}: must have at most {limit} items")


def too_long(field: str, limit: int) -> Cause:
    """More bytes than allowed."""
    return Cause("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes")


def _show(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _pattern(pattern: str, words: str, limit: int, field: str, value: str) -> Causes:
    if len(value) > limit:
        yield wrong(field, value, f"must be no more than {limit} characters")
    if not re.fullmatch(pattern, value):
        yield wrong(field, value, words)


def dns_label(field: str, value: str) -> Causes:
    """RFC 1123 label: a namespace, a container, a host name."""
    return _pattern(_LABEL, _LABEL_WORDS, 63, field, value)


def dns_subdomain(field: str, value: str) -> Causes:
    """RFC 1123 subdomain: most object names."""
    return _pattern(_SUBDOMAIN, _SUBDOMAIN_WORDS, 253, field, value)


def dns_1035_label(field: str, value: str) -> Causes:
    """RFC 1035 label: a Service's name."""
    return _pattern(_LABEL_1035, _LABEL_1035_WORDS, 63, field, value)


def config_key(field: str, value: str) -> Causes:
    """A key of a ConfigMap or Secret, which may become a file name."""
    yield from _pattern(_CONFIG_KEY, _CONFIG_KEY_WORDS, 253, field, value)
    if value in (".", "..") or value.startswith(".."):
        yield wrong(field, value, "must not be '.' and must not start with '..'")


def env_name(field: str, value: str) -> Causes:
    """An environment variable's name."""
    if not re.fullmatch(_ENV_NAME, value):
        yield wrong(field, value, _ENV_WORDS)


def qualified_name(field: str, value: str) -> Causes:
    """A label or annotation key: `[prefix/]name`."""
    prefix, slash, name = value.rpartition("/")
    if slash and not prefix:
        yield wrong(field, value, "prefix part must be non-empty")
    elif slash:
        for cause in dns_subdomain(field, prefix):
            yield wrong(field, value, f"prefix part {cause.message.split(': ', 2)[-1]}")
    if not name:
        yield wrong(field, value, "name part must be non-empty")
    elif len(name) > 63:
        yield wrong(field, value, "name part must be no more than 63 characters")
    if not re.fullmatch(_QUALIFIED, name):
        yield wrong(field, value, _QUALIFIED_WORDS)


def labels(field: str, values: Mapping[str, str]) -> Causes:
    """A map of labels; also a node selector."""
    for key, value in values.items():
        yield from qualified_name(field, key)
        yield from label_value(field, value)


def label_value(field: str, value: str) -> Causes:
    """The value of a label."""
    return _pattern(_LABEL_VALUE, _LABEL_VALUE_WORDS, 63, field, value)


def port_name(field: str, value: str) -> Causes:
    """RFC 6335 service name, as container ports have."""
    if len(value) > 15:
        yield wrong(field, value, "must be no more than 15 characters")
    if not re.fullmatch("[-a-z0-9]+", value):
        yield wrong(field, value, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        yield wrong(field, value, "must contain at least one letter (a-z)")
    if "--" in value:
        yield wrong(field, value, "must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        yield wrong(field, value, "must not begin or end with a hyphen")


def within(field: str, value: int, low: int, high: int) -> Causes:
    """A number from low to high, both included."""
    if not low <= value <= high:
        yield wrong(field, value, f"must be between {low} and {high}, inclusive")


def port(field: str, value: int) -> Causes:
    """A port number, 1..65535."""
    return within(field, value, 1, 65535)


def not_negative(field: str, value: int) -> Causes:
    """Zero or more."""
    if value < 0:
        yield wrong(field, value, "must be greater than or equal to 0")


def one_of(field: str, value: str, known: Sequence[str]) -> Causes:
    """A value of an enumeration; "" is missing."""
    if not value:
        yield required(field)
    elif value not in known:
        yield unsupported(field, value, known)


def address(field: str, value: str) -> Causes:
    """An IPv4 or IPv6 address without prefix or zone."""
    try:
        ok = "%" not in value and bool(ipaddress.ip_address(value))
    except ValueError:
        ok = False
    if not ok:
        yield wrong(field, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def plain_address(field: str, value: str) -> Causes:
    """An address that traffic may be sent to from anywhere: not unspecified, loopback or link-local."""
    wrongs = list(address(field, value))
    yield from wrongs
    if wrongs:
        return
    given = ipaddress.ip_address(value)
    parsed = getattr(given, "ipv4_mapped", None) or given
    if parsed.is_unspecified:
        yield wrong(field, value, f"may not be unspecified ({value})")
    if parsed.is_loopback:
        yield wrong(field, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if parsed.is_link_local:
        yield wrong(field, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if any(parsed in network for network in _LINK_LOCAL_MULTICAST if network.version == parsed.version):
        yield wrong(field, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


_LINK_LOCAL_MULTICAST = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))
_CIDR_WORDS = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def cidr(field: str, value: str) -> Causes:
    """A range; bits behind the prefix are allowed, as upstream allows them."""
    host, _, prefix = value.partition("/")
    try:
        ok = prefix.isdecimal() and "%" not in host and bool(ipaddress.ip_network(value, strict=False))
    except ValueError:
        ok = False
    if not ok:
        yield wrong(field, value, _CIDR_WORDS)


def unique(field: str, values: Iterable[str]) -> Causes:
    """Each non-empty value once; `field` has `{}` where the index belongs."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value and value in seen:
            yield duplicate(field.format(index), value)
        seen.add(value)


def immutable(field: str, new: object, old: object) -> Causes:
    """The field keeps the value it was created with."""
    if new != old:
        yield wrong(field, new, "field is immutable")


def cidrs(field: str, values: Sequence[str]) -> tuple[list[Network], list[Cause]]:
    """Ranges, at most one per family: those that are right, and what is wrong with the others."""
    networks: list[Network] = []
    causes: list[Cause] = []
    for index, value in enumerate(values):
        where = f"{field}[{index}]"
        if wrongs := list(cidr(where, value)):
            causes += wrongs
            continue
        network = ipaddress.ip_network(value, strict=False)
        if str(network) != value:
            causes.append(wrong(where, value, f"must be the range's own address in its canonical form: {network}"))
        elif any(network.version == other.version for other in networks):
            causes.append(wrong(where, value, f"is a second IPv{network.version} range: there may be one per family"))
        else:
            networks.append(network)
    return networks, causes
