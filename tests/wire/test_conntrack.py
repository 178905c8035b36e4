"""Flows: decoded as asked about, filtered by what the kernel can be trusted with, deleted as the very entry."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import conntrack
from podnet.wire.conntrack import Flow, Pattern
from podnet.wire.netlink import BE16, DUMP, attribute, attributes, nest, number, u8
from podnet.wire.spelling import IPV4 as FOUR
from podnet.wire.spelling import IPV6 as SIX
from podnet.wire.spelling import family_of, pack_ip
from tests.wire.shapes import IPV4, IPV6

PORTS = st.integers(1, 65535)


def side(source: str, destination: str, protocol: int, from_port: int, to_port: int) -> bytes:
    first = 1 if family_of(source) == FOUR else 3
    ips = nest(1, attribute(first, pack_ip(source)), attribute(first + 1, pack_ip(destination)))
    ports = attribute(2, BE16.pack(from_port)), attribute(3, BE16.pack(to_port))
    return ips + nest(2, u8(1, protocol), *ports)


def entry(client: str, service: str, backend: str, protocol: int = 17, port: int = 53) -> bytes:
    """A flow from a client to a Service that was translated to a backend."""
    header = struct.pack("=BBH", family_of(client), 0, 0)
    original = nest(1, side(client, service, protocol, 40000, port))
    return header + original + nest(2, side(backend, client, protocol, 5353, 40000)) + attribute(12, b"\1\2\3\4")


@given(st.one_of(st.tuples(IPV4, IPV4, IPV4), st.tuples(IPV6, IPV6, IPV6)), st.integers(1, 255), PORTS)
def test_a_flow_is_decoded(ips: tuple[str, str, str], protocol: int, port: int) -> None:
    client, service, backend = ips
    flow = conntrack.decode(entry(client, service, backend, protocol, port))
    assert flow is not None
    assert (flow.family, flow.protocol) == (family_of(client), protocol)
    assert (flow.source, flow.destination, flow.to_port) == (client, service, port)
    assert (flow.answered_by, flow.reply_port) == (backend, 5353)


@pytest.mark.parametrize(("state", "lives"), [(1, True), (3, True), (6, True), (7, False), (8, False)])
def test_a_connection_that_ended_lives_no_more(state: int, lives: bool) -> None:
    body = entry("10.0.0.1", "10.0.0.2", "10.0.0.3", 6, 80)
    assert conntrack.lives(body + nest(4, nest(1, u8(1, state), u8(2, 7)))) is lives


def test_a_flow_without_a_state_lives() -> None:
    assert conntrack.lives(entry("10.0.0.1", "10.0.0.2", "10.0.0.3"))


def test_an_icmp_flow_has_no_port() -> None:
    ips = nest(1, attribute(1, bytes(4)), attribute(2, bytes(4)))
    body = struct.pack("=BBH", FOUR, 0, 0) + nest(1, ips + nest(2, u8(1, 1), attribute(4, bytes(2))))
    flow = conntrack.decode(body)
    assert flow is not None
    assert (flow.protocol, flow.to_port, flow.answered_by, flow.reply_port) == (1, 0, "", 0)


def test_what_is_not_ip_is_none() -> None:
    assert conntrack.decode(struct.pack("=BBH", 7, 0, 0)) is None


FLOW = Flow(FOUR, 17, "10.0.0.1", "10.96.0.10", 53, "10.244.0.9", 5353, b"", b"")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        (Pattern(FOUR), True),
        (Pattern(SIX), False),
        (Pattern(FOUR, protocol=17), True),
        (Pattern(FOUR, protocol=6), False),
        (Pattern(FOUR, to_port=53), True),
        (Pattern(FOUR, to_port=54), False),
        (Pattern(FOUR, source="10.0.0.1"), True),
        (Pattern(FOUR, source="10.0.0.2"), False),
        (Pattern(FOUR, destination="10.96.0.10"), True),
        (Pattern(FOUR, destination="10.96.0.11"), False),
        (Pattern(FOUR, answered_by="10.244.0.9"), True),
        (Pattern(FOUR, answered_by="10.244.0.8"), False),
        (Pattern(FOUR, reply_port=5353), True),
        (Pattern(FOUR, reply_port=5354), False),
        (Pattern(FOUR, 17, 53, "10.0.0.1", "10.96.0.10", "10.244.0.9", 5353), True),
        (Pattern(FOUR, 17, 53, "10.0.0.1", "10.96.0.10", "10.244.0.8"), False),
    ],
)
def test_every_field_that_is_set_must_match(pattern: Pattern, meant: bool) -> None:
    assert pattern.matches(FLOW) == meant


@given(st.data())
def test_many_patterns_at_once_mean_what_each_of_them_means(data: st.DataObject) -> None:
    ips, ports = st.sampled_from(["10.0.0.1", "10.96.0.10", "10.96.0.11"]), st.sampled_from([53, 54])
    flow = data.draw(
        st.builds(Flow, st.just(FOUR), st.sampled_from([6, 17]), ips, ips, ports, ips, ports, *[st.just(b"")] * 2)
    )
    some, none = ips | st.just(""), ports | st.just(0)
    ranges = st.sampled_from(["", "", "10.96.0.0/16", "10.0.0.1/32"])
    shapes = st.builds(
        Pattern, st.sampled_from([FOUR, SIX]), st.sampled_from([0, 17]), none, some, some, some, none, ranges
    )
    patterns = data.draw(st.lists(shapes, max_size=4))
    assert conntrack.Index(patterns).matches(flow) == any(pattern.matches(flow) for pattern in patterns)


def filters(pattern: Pattern) -> tuple[int, int] | None:
    """(original, reply) flags of the filter that is sent."""
    request = conntrack.dump(pattern)
    assert request[:2] == (conntrack.GET, DUMP)
    assert request.body[:4] == struct.pack("=BBH", pattern.family, 0, 0)
    found = attributes(request.body, 4).get(25)
    if found is None:
        return None
    flags = attributes(found)
    return number(flags[1]), number(flags[2])


@pytest.mark.parametrize(
    ("pattern", "flags"),
    [
        (Pattern(FOUR), None),
        (Pattern(FOUR, protocol=17), (0x8, 0)),
        (Pattern(FOUR, protocol=17, to_port=53), (0x28, 0)),
        (Pattern(FOUR, to_port=53), None),
        (Pattern(FOUR, source="10.0.0.1"), (0x1, 0)),
        (Pattern(FOUR, destination="10.0.0.1"), (0x2, 0)),
        (Pattern(FOUR, answered_by="10.0.0.1"), (0, 0x1)),
        (Pattern(SIX, answered_by="fd00::1", source="fd00::2", destination="fd00::3"), None),
        (Pattern(SIX, protocol=17, to_port=53, answered_by="fd00::1"), (0x28, 0)),
    ],
)
def test_the_kernel_filters_by_what_it_filters_rightly(pattern: Pattern, flags: tuple[int, int] | None) -> None:
    assert filters(pattern) == flags


def test_a_flow_is_deleted_by_its_tuple_and_its_id() -> None:
    flow = conntrack.decode(entry("10.0.0.1", "10.96.0.10", "10.244.0.9") + attribute(18, b"\0\7"))
    assert flow is not None
    request = conntrack.delete(flow)
    found = attributes(request.body, 4)
    assert request.kind == conntrack.DELETE
    assert found == {1: side("10.0.0.1", "10.96.0.10", 17, 40000, 53), 12: b"\1\2\3\4", 18: b"\0\7"}


@given(st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6)), st.sampled_from([6, 17]), PORTS, PORTS)
def test_a_flow_is_asked_for_by_its_answers(ips: tuple[str, str], protocol: int, port: int, peer: int) -> None:
    request = conntrack.original((ips[0], port), (ips[1], peer), protocol)
    assert (request.kind, request.flags) == (conntrack.GET, 0)
    assert request.body[0] == family_of(ips[0])
    assert attributes(request.body, 4) == {2: side(*ips, protocol, port, peer)}


@pytest.mark.parametrize(
    ("family", "local", "remote", "seen", "first"),
    [(FOUR, "10.0.0.1", "10.0.0.2", "192.0.2.9", 1), (SIX, "fd00::1", "fd00::2", "2001:db8::9", 4)],
)
def test_a_flow_is_made_whose_source_is_another(family: int, local: str, remote: str, seen: str, first: int) -> None:
    request = conntrack.translated(6, (local, 40000), (remote, 80), seen, 10)
    assert (request.kind, request.flags) == (conntrack.NEW, 0x600)
    assert request.body[0] == family
    parts = attributes(request.body, 4)
    assert parts[1] == side(local, remote, 6, 40000, 80)
    assert parts[2] == side(remote, local, 6, 80, 40000)
    assert attributes(parts[6]) == {first: pack_ip(seen), first + 1: pack_ip(seen)}
    assert parts[7] == struct.pack(">I", 10)
    asked = conntrack.named(6, (local, 40000), (remote, 80))
    assert attributes(asked.body, 4) == {1: parts[1]}
