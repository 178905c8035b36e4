"""The netlink socket with a scripted kernel behind it: errors find their request, broken dumps are asked for again."""

from __future__ import annotations

import errno

import pytest

from podnet.kernel.netlink import BATCH, Netlink, NetlinkError
from podnet.wire import netlink as wire
from podnet.wire.netlink import Failure, Request

ASK = Request(18, wire.DUMP, b"ask!")


class ScriptedSocket:
    """Answers each send with what `answer` makes of its messages: a list of datagrams."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.sent: list[list[wire.Message]] = []
        self.queue: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        asked = list(wire.messages(data))
        self.sent.append(asked)
        self.queue += self.answer(asked)

    def recv(self, _size: int) -> bytes:
        return self.queue.pop(0)

    def close(self) -> None:
        self.closed = True


def scripted(answer) -> tuple[Netlink, ScriptedSocket]:
    link = Netlink.__new__(Netlink)
    socket = ScriptedSocket(answer)
    link.socket = socket  # type: ignore[assignment]
    link._sequence = 0
    return link, socket


def verdict(message: wire.Message, code: int, words: str = "") -> bytes:
    body = (-code).to_bytes(4, "little", signed=True) + bytes(16) + (wire.text(1, words) if words else b"")
    flags = wire.CAPPED | (wire.EXTENDED if words else 0)
    return wire.HEADER.pack(16 + len(body), wire.ERROR, flags, message.sequence, 0) + body


def piece(message: wire.Message, kind: int, body: bytes, flags: int = wire.MULTI) -> bytes:
    return wire.HEADER.pack(16 + len(body), kind, flags, message.sequence, 0) + body + bytes(-len(body) % 4)


def done(message: wire.Message, code: int = 0, flags: int = wire.MULTI) -> bytes:
    return piece(message, wire.DONE, (-code).to_bytes(4, "little", signed=True), flags)


def test_many_requests_are_one_send_and_only_the_last_wants_an_answer() -> None:
    link, socket = scripted(lambda asked: [verdict(asked[-1], 0)])
    assert link.write([Request(24, wire.CREATE, b"....")] * 5) == {}
    [sent] = socket.sent
    assert [bool(message.flags & wire.ACK) for message in sent] == [False] * 4 + [True]
    assert all(message.flags & wire.CREATE for message in sent)


def test_an_error_is_that_of_its_request() -> None:
    def answer(asked: list[wire.Message]) -> list[bytes]:
        return [
            verdict(asked[1], errno.EEXIST),
            verdict(asked[3], errno.ENODEV, "gone") + verdict(asked[4], errno.EPERM),
        ]

    link, _ = scripted(answer)
    assert link.write([Request(24, 0, b"....")] * 5) == {
        1: Failure(errno.EEXIST),
        3: Failure(errno.ENODEV, "gone"),
        4: Failure(errno.EPERM),
    }


def test_errors_are_counted_across_sends() -> None:
    link, socket = scripted(lambda asked: [verdict(asked[0], errno.EEXIST), verdict(asked[-1], 0)])
    failures = link.write([Request(24, 0, b"....")] * (2 * BATCH + 3))
    assert [len(sent) for sent in socket.sent] == [BATCH, BATCH, 3]
    assert list(failures) == [0, BATCH, 2 * BATCH]


def test_nothing_to_write_is_not_sent() -> None:
    link, socket = scripted(lambda asked: [])
    assert link.write([]) == {}
    assert socket.sent == []


def test_answers_to_earlier_requests_are_passed_over() -> None:
    link, socket = scripted(lambda asked: [verdict(asked[-1], 0)])
    link.write([ASK])
    late = verdict(socket.sent[0][0], errno.EPERM)
    link, socket = scripted(lambda asked: [late, verdict(asked[-1], 0)])
    link._sequence = 5
    assert link.write([ASK]) == {}


def test_a_dump_is_all_of_its_parts() -> None:
    def answer(asked: list[wire.Message]) -> list[bytes]:
        [ask] = asked
        return [piece(ask, 16, b"one!") + piece(ask, 16, b"two!"), piece(ask, 16, b"three"), done(ask)]

    link, _ = scripted(answer)
    assert link.dump(ASK) == [b"one!", b"two!", b"three"]


def test_a_disturbed_dump_is_asked_for_again() -> None:
    tries = iter([wire.DUMP_INTERRUPTED, wire.DUMP_INTERRUPTED, 0])

    def answer(asked: list[wire.Message]) -> list[bytes]:
        [ask] = asked
        flags = next(tries)
        return [piece(ask, 16, b"part", wire.MULTI | flags), done(ask)]

    link, socket = scripted(answer)
    assert link.dump(ASK) == [b"part"]
    assert len(socket.sent) == 3


def test_a_dump_that_is_always_disturbed_is_taken_in_the_end() -> None:
    link, socket = scripted(lambda asked: [piece(asked[0], 16, b"part"), done(asked[0], 0, wire.DUMP_INTERRUPTED)])
    assert link.dump(ASK) == [b"part"]
    assert 2 < len(socket.sent) < 20


def test_a_missing_routing_table_is_empty() -> None:
    link, _ = scripted(lambda asked: [done(asked[0], errno.ENOENT)])
    assert link.dump(ASK) == []


@pytest.mark.parametrize("end", [done, verdict])
def test_a_refused_dump_is_an_error(end) -> None:
    link, _ = scripted(lambda asked: [end(asked[0], errno.EOPNOTSUPP)])
    with pytest.raises(NetlinkError) as caught:
        link.dump(ASK)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_one_object_is_got() -> None:
    link, _ = scripted(lambda asked: [piece(asked[0], 16, b"link", 0)])
    assert link.get(Request(18, 0, b"name")) == b"link"


def test_one_object_that_is_not_there() -> None:
    link, _ = scripted(lambda asked: [verdict(asked[0], errno.ENODEV, "no such link")])
    with pytest.raises(NetlinkError, match="no such link") as caught:
        link.get(Request(18, 0, b"name"))
    assert caught.value.errno == errno.ENODEV


def test_it_is_a_context() -> None:
    link, socket = scripted(lambda asked: [])
    with link as same:
        assert same is link
    assert socket.closed
