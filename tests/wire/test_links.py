"""Links: what is sent is what is received."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from podnet.wire import links
from podnet.wire.links import LinkMessage, VxlanData
from podnet.wire.netlink import CREATE, DUMP, EXCLUSIVE, attribute, attributes, nest, string, u8, u32
from tests.wire.shapes import ADDRESSES, INDEXES, MACS, NAMES

VXLANS = st.builds(
    VxlanData,
    vni=st.integers(1, 0xFFFFFF),
    port=st.integers(1, 65535),
    local=ADDRESSES | st.just(""),
    link=INDEXES | st.just(0),
    learning=st.booleans(),
)
COMMON = {
    "index": INDEXES | st.just(0),
    "name": NAMES,
    "up": st.booleans(),
    "mtu": st.integers(68, 65535),
    "mac": MACS | st.none(),
    "alias": st.text("abc /-", min_size=1, max_size=255).map(str.strip).filter(bool) | st.none(),
    "master": INDEXES | st.just(0),
    "hairpin": st.booleans() | st.none(),
}
PEERS = st.builds(LinkMessage, name=NAMES, mtu=st.integers(68, 65535), mac=MACS, up=st.booleans(), master=st.just(0))
LINKS = st.one_of(
    st.builds(LinkMessage, **COMMON, kind=st.sampled_from(["bridge", "ifb"])),
    st.builds(LinkMessage, **COMMON, kind=st.just("vxlan"), vxlan=VXLANS),
    st.builds(LinkMessage, **COMMON, kind=st.just("veth"), peer=PEERS),
)


@given(LINKS)
def test_a_link_comes_back(link: LinkMessage) -> None:
    request = links.create(link)
    assert (request.kind, request.flags) == (links.NEW, CREATE | EXCLUSIVE)
    assert links.decode(request.body) == link


@given(LINKS)
def test_a_change_says_nothing_of_what_can_not_change(link: LinkMessage) -> None:
    request = links.change(link)
    assert (request.kind, request.flags) == (links.NEW, 0)
    assert links.decode(request.body) == msgspec.structs.replace(link, kind="", vxlan=None, peer=None)


def test_what_is_not_said_is_not_sent() -> None:
    body = links.change(LinkMessage(name="podnet0")).body
    assert body[:16] == bytes(16)  # neither up nor down
    assert {kind: string(value) for kind, value in attributes(body, 16).items()} == {3: "podnet0"}
    assert links.change(LinkMessage(name="podnet0", up=False)).body[8:16] == b"\0\0\0\0\1\0\0\0"


def test_a_peer_is_born_in_an_open_namespace() -> None:
    body = links.create(LinkMessage(name="a", kind="veth", peer=LinkMessage(name="b", netns_fd=9))).body
    info = attributes(attributes(body, 16)[18])
    assert string(info[1]) == "veth"
    peer = attributes(attributes(info[2])[1], 16)
    assert (string(peer[3]), int.from_bytes(peer[28], "little")) == ("b", 9)


@given(NAMES)
def test_a_link_is_named(name: str) -> None:
    for request in (links.get(name), links.delete(name), links.enlist(name, 7)):
        assert string(attributes(request.body, 16)[3]) == name
    assert links.delete(name).kind == links.DELETE
    assert links.delete_group(7) == (links.DELETE, 0, bytes(16) + u32(27, 7))
    assert links.dump().flags == DUMP


def test_a_tunnel_interface_has_no_mac() -> None:
    body = links.create(LinkMessage(name="tun0", mtu=1500)).body + attribute(1, b"\1\2\3\4")
    assert links.decode(body).mac is None


def test_a_bridge_describes_its_port() -> None:
    header = bytes([7]) + bytes(3) + (12).to_bytes(4, "little") + bytes(8)
    port = nest(12, u8(4, 1))
    assert links.decode_port(header + port) == (12, True)
    assert links.decode_port(header + nest(12, u8(4, 0))) == (12, False)
    assert links.decode_port(header) == (12, None)
