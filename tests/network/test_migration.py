"""Words, waves and MTUs of a change of scheme, one decision at a time (tests/properties/test_migration.py runs all)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from podnet.network.migration import asked, pod_mtu, published, schemes, wanted
from podnet.network.view import NodeInfo
from podnet.objects.core import Node
from podnet.state.links import Bridge, Veth
from tests.worlds import attachment, cluster, config, node, seen, state_of

VXLAN, HOST_GW, VNI5 = {"type": "vxlan"}, {"type": "host-gw"}, {"type": "vxlan", "vni": 5}
Words = tuple[Iterable[str], Iterable[str]]


def nodes(*words: Words, dual: bool = False) -> list[Node]:
    """Node i has said words[i-1]."""
    return [node(i, dual, *said) for i, said in enumerate(words, 1)]


def word(backend: dict[str, Any], *words: Words) -> str:
    return wanted(seen(cluster(nodes(*words), config(backend)), 1))


SILENT: Words = ((), ())


@pytest.mark.parametrize(
    ("backend", "words", "expected"),
    [
        (VXLAN, [SILENT, SILENT], "vxlan"),  # a new cluster
        (VXLAN, [(["vxlan"], ["vxlan"]), SILENT], "vxlan"),  # nothing changed
        (HOST_GW, [(["vxlan"], ["vxlan"]), (["vxlan"], ["vxlan"])], "host-gw@1"),  # the first change
        (VXLAN, [(["host-gw@1"], ["host-gw@1"])], "vxlan@2"),  # and back: a new word, since the first may be remembered
        (HOST_GW, [(["vxlan"], []), (["host-gw@1", "vxlan"], [])], "host-gw@1"),  # a peer was quicker
        (HOST_GW, [(["host-gw@1"], []), (["host-gw@4"], [])], "host-gw@4"),  # a peer had more changes of mind
        (HOST_GW, [(["host-gw@4"], []), (["host-gw@1"], [])], "host-gw@4"),  # or fewer
        (HOST_GW, [(["vxlan@4"], []), (["host-gw@4"], [])], "host-gw@5"),  # never back to a number it had
        (HOST_GW, [(["vxlan@4"], []), (["vxlan"], ["host-gw@9"])], "host-gw@9"),  # what is being sent counts as well
        (HOST_GW, [SILENT, (["host-gw@3", "vxlan@7"], [])], "host-gw@3"),  # a new node takes the word in use
        (HOST_GW, [SILENT, (["vxlan@7"], [])], "host-gw@8"),
        (VNI5, [(["vxlan@2"], [])], "vxlan:vni=5@3"),
        (VXLAN, [(["vxlan@"], []), (["vxlan@x"], ["vxlan@-1", "@", "vxlan@" + "9" * 30])], "vxlan"),  # junk counts 0
    ],
)
def test_the_word_a_node_asks_for(backend: dict[str, Any], words: list[Words], expected: str) -> None:
    assert word(backend, *words) == expected


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        ((), "mine"),
        (("host-gw@3", "vxlan"), "host-gw@3"),
        (("geneve@4", "vxlan@2"), "vxlan@2"),  # from a newer podnet
        (("geneve", "vxlan:vni=0"), "mine"),
    ],
)
def test_the_receiver_chooses(accepts: tuple[str, ...], expected: str) -> None:
    assert asked(NodeInfo("n2", accepts=accepts), "mine") == expected


def waves(*words: Words, backend: dict[str, Any] = HOST_GW) -> tuple[dict[str, list[str]], Words]:
    """What node 1 accepts and to whom it sends with it; and what it says after that."""
    view = seen(cluster(nodes(*words), config(backend)), 1)
    return {name: [peer.name for peer in peers] for name, peers in schemes(view).items()}, published(view)


OLD: Words = (["vxlan"], ["vxlan"])
ASKING: Words = (["host-gw@1", "vxlan"], ["vxlan"])
SENDING: Words = (["host-gw@1", "vxlan"], ["host-gw@1"])
NEW: Words = (["host-gw@1"], ["host-gw@1"])


def test_wave_1_all_accept_the_new_and_send_the_old() -> None:
    used, said = waves(OLD, OLD, OLD)
    assert used == {"host-gw": [], "vxlan": ["n2", "n3"]}
    assert said == (("host-gw@1", "vxlan"), ("vxlan",))


def test_wave_2_who_asks_gets() -> None:
    used, said = waves(ASKING, ASKING, OLD)
    assert used == {"host-gw": ["n2"], "vxlan": ["n3"]}
    assert said == (("host-gw@1", "vxlan"), ("host-gw@1", "vxlan"))


def test_a_node_that_did_not_hear_of_the_change_sends_what_it_is_asked_for() -> None:
    used, said = waves(OLD, ASKING, OLD, backend=VXLAN)
    assert used == {"vxlan": ["n3"], "host-gw": ["n2"]}
    assert said == (("vxlan",), ("host-gw@1", "vxlan"))


def test_wave_3_the_old_goes_when_all_say_that_they_send_the_new() -> None:
    assert waves(SENDING, SENDING, SENDING) == ({"host-gw": ["n2", "n3"]}, (("host-gw@1",), ("host-gw@1",)))
    assert waves(SENDING, SENDING, ASKING)[0] == {"host-gw": ["n2", "n3"], "vxlan": []}


def test_a_node_that_never_said_anything_keeps_the_old_alive() -> None:
    used, said = waves(SENDING, SENDING, SILENT)
    assert used == {"host-gw": ["n2", "n3"], "vxlan": []}
    assert said == (("host-gw@1", "vxlan"), ("host-gw@1",))


def test_the_same_scheme_under_an_older_word_is_not_yet_the_end() -> None:
    """n2 may still act on what was asked between the two."""
    older: Words = (["host-gw@1"], ["host-gw@1"])
    used, said = waves((["host-gw@3", "vxlan@2"], ["host-gw@3"]), older)
    assert used == {"host-gw": ["n2"], "vxlan": []}
    assert said == (("host-gw@3", "vxlan@2"), ("host-gw@1",))


def test_what_peers_send_is_accepted_even_if_our_own_words_were_lost() -> None:
    used, said = waves(SILENT, OLD)
    assert used == {"host-gw": [], "vxlan": ["n2"]}
    assert said[0] == ("host-gw@1", "vxlan")


def test_nobody_else() -> None:
    assert waves(NEW) == ({"host-gw": []}, (("host-gw@1",), ("host-gw@1",)))
    assert waves(OLD) == ({"host-gw": []}, (("host-gw@1",), ("host-gw@1",)))


def test_junk_in_a_peer_s_words_is_not_accepted() -> None:
    assert waves(NEW, (["vxlan:type=host-gw", "%%"], ["geneve", "vxlan:vni=0", "@3"]))[0] == {"host-gw": ["n2"]}


def test_the_configured_options_stay_those_of_the_configuration() -> None:
    """directRouting is no part of the scheme's name, and is kept for the own one."""
    direct: dict[str, Any] = {"type": "vxlan", "directRouting": True}
    state = state_of(cluster(nodes(OLD, OLD), config(direct)), 1)
    assert ("FdbEntry", "", "podnet.1") not in [key[:3] for key in state]


@pytest.mark.parametrize(
    ("backend", "words", "dual", "mtu"),
    [
        (VXLAN, [OLD, OLD], False, 1450),
        (VXLAN, [OLD, OLD], True, 1430),
        (HOST_GW, [NEW, NEW], True, 1500),
        (HOST_GW, [OLD, OLD], False, 1450),  # what leaves in the tunnel still has to fit
        (HOST_GW, [SENDING, ASKING], False, 1450),
        (HOST_GW, [SENDING, SENDING], False, 1500),
        (VXLAN, [NEW, NEW], False, 1450),  # and fits before the first packet goes there
    ],
)
def test_a_pod_s_packet_fits_every_scheme_in_use(
    backend: dict[str, Any], words: list[Words], dual: bool, mtu: int
) -> None:
    world = cluster(nodes(*words, dual=dual), config(backend, dual))
    assert pod_mtu(seen(world, 1)) == mtu
    state = state_of(world, 1, [attachment(1, 1)])
    assert {each.mtu for each in state.values() if isinstance(each, Veth | Bridge)} == {mtu}
    assert pod_mtu(seen(world, 1, mtu=9000)) == mtu + 7500


def test_a_fixed_mtu_is_taken_as_it_is() -> None:
    assert pod_mtu(seen(cluster(nodes(OLD), config(VXLAN, mtu=1234)), 1)) == 1234


def test_a_node_without_ranges_pays_nothing() -> None:
    world = cluster([Node(metadata=node(1).metadata)], config(VXLAN))
    assert pod_mtu(seen(world, 1)) == 1500
