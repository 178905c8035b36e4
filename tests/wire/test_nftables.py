"""nftables text: listings as nft 1.0.6 prints them (numeric, stateless), and commands it understands."""

from __future__ import annotations

# ruff: noqa: E101
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.state.nft import Element, NftTable
from podnet.wire import nftables

LISTING = """\
table inet podnet-t {
	comment "of podnet"

	counter dropped {
	}

	map verdicts {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.2 . 17 . 53 : drop,
			     10.96.0.1 . 6 . 80 : goto c4 }
	}

	set nets {
		type ipv4_addr
		flags interval
		counter
		elements = { 1.2.3.4 counter, 10.0.0.0/8 counter,
			     192.168.1.1-192.168.1.7 counter }
	}

	set nets6 {
		type ipv6_addr
		flags interval
		elements = { ::ffff:1.2.3.4,
			     fd00::/8 }
	}

	map affinity {
		type ipv4_addr : mark
		size 65535
		flags dynamic,timeout
		timeout 10800s
		elements = { 1.2.3.4 : 0x00000007, 1.2.3.9 timeout 7200s : 0x00000009 }
	}

	set short {
		type ipv4_addr
		timeout 3600s
	}

	map names {
		type ifname : verdict
		elements = { "eth0" comment "a, b } : c" : accept,
			     "podnet : 1" : jump c4 }
	}

	set empty {
		type ifname
	}

	chain c4 {
	}

	chain enforce {
		type filter hook forward priority 0; policy accept;
		ct state 0x2,0x4 accept comment "hi; there { }"
		ip saddr { 10.0.0.1, 10.0.0.2 } ip daddr @nets counter drop
	}
}
"""

SKELETON = """\
table inet podnet-t {
	comment "of podnet"

	counter dropped {
	}

	map verdicts {
		type ipv4_addr . inet_proto . inet_service : verdict
	}

	set nets {
		type ipv4_addr
		flags interval
		counter
	}

	set nets6 {
		type ipv6_addr
		flags interval
	}

	map affinity {
		type ipv4_addr : mark
		size 65535
		flags dynamic,timeout
		timeout 10800s
	}

	set short {
		type ipv4_addr
		timeout 3600s
	}

	map names {
		type ifname : verdict
	}

	set empty {
		type ifname
	}

	chain c4 {
	}

	chain enforce {
		type filter hook forward priority 0; policy accept;
		ct state 0x2,0x4 accept comment "hi; there { }"
		ip saddr { 10.0.0.1, 10.0.0.2 } ip daddr @nets counter drop
	}
}
"""


def test_a_listing_is_a_skeleton_and_sets() -> None:
    skeleton, sets = nftables.parse(LISTING)
    assert skeleton == SKELETON
    assert [(found.name, found.transient, len(found.elements)) for found in sets] == [
        ("verdicts", False, 2),
        ("nets", False, 3),
        ("nets6", False, 2),
        ("affinity", True, 2),
        ("short", True, 0),
        ("names", False, 2),
        ("empty", False, 0),
    ]


def test_a_terse_listing_has_the_same_skeleton() -> None:
    assert nftables.parse(SKELETON).skeleton == SKELETON


def test_elements_are_spelt_as_they_are_written() -> None:
    sets = {found.name: found.elements for found in nftables.parse(LISTING).sets}
    found = [
        nftables.resource("inet", "podnet-t", name, each)
        for name in ("verdicts", "nets", "nets6", "names")
        for each in sets[name]
    ]
    assert [(element.set, element.element, element.value) for element in found] == [
        ("verdicts", "10.96.0.2 . 17 . 53", "drop"),
        ("verdicts", "10.96.0.1 . 6 . 80", "goto c4"),
        ("nets", "1.2.3.4", ""),
        ("nets", "10.0.0.0/8", ""),
        ("nets", "192.168.1.1-192.168.1.7", ""),
        ("nets6", "::ffff:1.2.3.4", ""),
        ("nets6", "fd00::/8", ""),
        ("names", '"eth0" comment "a, b } : c"', "accept"),
        ("names", '"podnet : 1"', "jump c4"),
    ]


@pytest.mark.parametrize(
    ("text", "element", "value"),
    [
        ("1.2.3.4 counter packets 7 bytes 900", "1.2.3.4", ""),
        ("1.2.3.4 counter packets 7 bytes 900 : drop", "1.2.3.4", "drop"),
        ('"counter"', '"counter"', ""),
        ("10.96.0.1 . 6 . 80 . 0 : 10.244.0.1 . 8080", "10.96.0.1 . 6 . 80 . 0", "10.244.0.1 . 8080"),
        ("fd96::1 . 6 . 80 : fd44::1 . 8080", "fd96::1 . 6 . 80", "fd44::1 . 8080"),
    ],
)
def test_a_counter_is_no_part_of_an_element(text: str, element: str, value: str) -> None:
    assert nftables.resource("inet", "t", "s", text) == Element("inet", "t", "s", element, value)


def test_tables_are_named_in_their_list() -> None:
    assert nftables.table_names("table ip nat\ntable inet podnet-t\ntable inet podnet-u # handle 3\n") == [
        ("ip", "nat"),
        ("inet", "podnet-t"),
        ("inet", "podnet-u"),
    ]
    assert nftables.table_names("") == []


def test_the_body_stands_between_the_braces() -> None:
    assert nftables.body("table inet t {\n\tchain c {\n\t}\n}\n") == "\tchain c {\n\t}\n"
    assert nftables.body("table inet t {\n}\n") == ""


def test_what_a_body_declares() -> None:
    sets = "set a { type ipv4_addr; }\nmap b{ type ipv4_addr : verdict; }\n"
    body = f"{sets}chain c {{ meta mark set 0x1; ip saddr @a drop; }}"
    assert nftables.declared(body) == {"a", "b"}
    assert nftables.declared(SKELETON) == {"verdicts", "nets", "nets6", "affinity", "short", "names", "empty"}


TABLE = NftTable("inet", "podnet-t", "chain c { }")


def element(key: str, value: str = "", name: str = "s") -> Element:
    return Element("inet", "podnet-t", name, key, value)


def test_a_table_is_replaced_whether_it_was_there_or_not() -> None:
    assert nftables.replace_table(TABLE) == (
        "add table inet podnet-t\ndelete table inet podnet-t\ntable inet podnet-t {\nchain c { }\n}\n"
    )


def test_elements_of_one_set_share_a_command() -> None:
    some = [element("10.0.0.1"), element("10.0.0.2", "drop", "m"), element("10.0.0.3")]
    assert nftables.add_elements(some) == (
        "add element inet podnet-t s { 10.0.0.1, 10.0.0.3 }\nadd element inet podnet-t m { 10.0.0.2 : drop }\n"
    )
    assert nftables.delete_elements(some) == (
        "delete element inet podnet-t s { 10.0.0.1, 10.0.0.3 }\ndelete element inet podnet-t m { 10.0.0.2 }\n"
    )
    assert nftables.add_elements([]) == ""


def test_held_elements_are_put_back_as_they_were_listed() -> None:
    held = {"affinity": ["1.2.3.4 expires 10s : 0x00000007"], "empty": []}
    assert nftables.restore_elements(TABLE, held) == (
        "add element inet podnet-t affinity { 1.2.3.4 expires 10s : 0x00000007 }\n"
    )


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "10.0.0.1, 10.0.0.2",
        "10.0.0.1 }; flush ruleset; #",
        "10.0.0.1\nflush ruleset",
        "10.0.0.1; flush ruleset",
        '"eth0',
        '"eth0\n"',
        '"a\\" } ; flush ruleset #"',
        "$x",
        "10.0.0.1 # 2",
    ],
)
def test_one_element_can_not_become_two_or_a_command(bad: str) -> None:
    with pytest.raises(ValueError):
        nftables.add_elements([element(bad)])
    with pytest.raises(ValueError):
        nftables.delete_elements([element(bad)])
    if bad:
        with pytest.raises(ValueError):
            nftables.add_elements([element("10.0.0.1", bad)])


@pytest.mark.parametrize("name", ["", "a b", "1a", "a;b", "a\nb", "a{"])
def test_names_are_names(name: str) -> None:
    with pytest.raises(ValueError):
        nftables.add_elements([element("10.0.0.1", name=name)])
    with pytest.raises(ValueError):
        nftables.replace_table(NftTable("inet", name, ""))


PIECES = st.sampled_from(
    ["10.0.0.1", "fd00::1", "10.0.0.0/8", "6", "80-90", '"a, b"', '"x : y"', '"} ;"', "0x00000001"]
)
KEYS = st.lists(PIECES, min_size=1, max_size=4).map(" . ".join)
VALUES = st.sampled_from(["", "drop", "goto web", "10.0.0.1 . 80", "0x00000001"])


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=6))
def test_what_is_written_is_read_when_listed(elements: dict[str, str]) -> None:
    wanted = [element(key, value) for key, value in elements.items()]
    command = nftables.add_elements(wanted)
    listed = command.removeprefix("add element inet podnet-t s ").strip().replace(", ", ",\n\t\t\t     ")
    listed = listed if '"' not in listed else command.removeprefix("add element inet podnet-t s ").strip()
    block = f"table inet podnet-t {{\n\tset s {{\n\t\ttype ipv4_addr\n\t\telements = {listed}\n\t}}\n}}\n"
    [found] = nftables.parse(block).sets
    assert [nftables.resource("inet", "podnet-t", found.name, each) for each in found.elements] == wanted
