"""Of news about one link only the last is decoded, and the first of a new one; but down and up must both be seen."""

from __future__ import annotations

import struct

from podnet.kernel.monitor import _newest
from podnet.wire import links
from podnet.wire.netlink import Message

KNOWN = {3, 4}


def news(index: int, flags: int, text: bytes = b"", kind: int = links.NEW, family: int = 0) -> Message:
    return Message(kind, 0, 0, 0, struct.pack("=BxHiII", family, 1, index, flags, 0) + text)


def test_the_last_of_equal_news_stays() -> None:
    first, second, third = news(3, 1, b"a"), news(4, 1, b"b"), news(3, 1, b"c")
    assert list(_newest([first, second, third], KNOWN)) == [second, third]


def test_a_new_link_is_named_before_others_speak_of_it() -> None:
    heard = [news(5, 1, b"first"), news(3, 1, b"its port"), news(5, 1), news(5, 1, b"last")]
    assert list(_newest(heard, KNOWN)) == [heard[0], heard[1], heard[3]]


def test_down_and_up_are_both_seen() -> None:
    heard = [news(3, 0x11043), news(3, 0x1002), news(3, 0x11043, b"again")]
    assert list(_newest(heard, KNOWN)) == heard[1:]


def test_a_bridges_word_about_its_port_is_another_matter() -> None:
    heard = [news(3, 1), news(3, 1, family=7)]
    assert list(_newest(heard, KNOWN)) == heard


def test_other_messages_all_stay() -> None:
    heard = [news(3, 1, kind=links.DELETE), news(3, 1, kind=24), news(3, 1, kind=24)]
    assert list(_newest(heard, KNOWN)) == heard
