"""nftables in a real kernel: loading, listing, transactions that fail, and what is heard of it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.nft import Library, NftError
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Plan, Step, plan
from podnet.state.resource import state
from tests.kernel.contract import TABLE, adding, element, rules, settle
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


class TestNft:
    def test_a_table_is_known_again_by_the_next_process(self, node: KernelNode) -> None:
        desired = state(rules())
        settle(node.plane, desired)
        again = KernelDataplane(str(node.folder), node.netns)
        try:
            assert plan(desired, again.read(desired)).steps == ()
        finally:
            again.close()

    def test_a_table_that_nobody_remembers_is_read_as_it_is_listed(self, node: KernelNode) -> None:
        desired = state(rules())
        settle(node.plane, desired)
        (node.folder / "nft.json").unlink()
        again = KernelDataplane(str(node.folder), node.netns)
        try:
            found = again.read(desired)[TABLE.key]
            assert isinstance(found, NftTable)
            assert "policy accept" in found.body
            assert found != TABLE
            settle(again, desired)
        finally:
            again.close()

    def test_the_parser_is_not_fooled_by_comments(self, node: KernelNode) -> None:
        body = 'set s { type ipv4_addr; comment "}, { : \'"; }\nchain c { counter comment "elements = { 1 }"; }'
        desired = state(iter([NftTable("inet", "podnet-odd", body), Element("inet", "podnet-odd", "s", "10.0.0.1")]))
        settle(node.plane, desired)

    def test_what_comes_and_goes_by_itself_is_not_ours_but_survives_a_new_table(self, node: KernelNode) -> None:
        body = "map affinity { type ipv4_addr : mark; flags dynamic,timeout; timeout 3h; size 65535; }"
        table = NftTable("inet", "podnet-aff", body)
        settle(node.plane, {table.key: table})
        node.nft("add element inet podnet-aff affinity { 10.0.0.1 timeout 2h expires 1h : 7 }")
        assert node.plane.read({}).keys() == {table.key}
        more = msgspec.structs.replace(table, body=f"{body}\nchain c {{ }}")
        settle(node.plane, {more.key: more})
        listed = node.run("nft list map inet podnet-aff affinity")
        assert "10.0.0.1 timeout 2h expires 59m" in listed
        assert ": 0x00000007" in listed

    def test_there_is_no_moment_without_rules(self, node: KernelNode) -> None:
        """Whoever lists while the table is replaced finds it, whole."""
        settle(node.plane, state(rules()))
        seen: set[tuple[bool, bool]] = set()
        stop = threading.Event()

        def watch() -> None:
            library = Library(node.netns)
            while not stop.is_set():
                text = library.run("list table inet podnet-test")
                seen.add(("chain enforce" in text, "10.96.0.2" in text))
            library.close()

        watcher = threading.Thread(target=watch)
        watcher.start()
        for number in range(20):
            body = TABLE.body.replace("{ 80, 443 }", f"{{ 80, 443, {1000 + number} }}")
            changed = msgspec.structs.replace(TABLE, body=body)
            assert node.plane.apply(Plan((Step("change", changed, TABLE, ("body",)),))).failed == ()
        stop.set()
        watcher.join()
        assert seen == {(True, True)}

    def test_bad_elements_do_not_keep_good_ones_out(self, node: KernelNode) -> None:
        settle(node.plane, state(rules()))
        good = [element("verdicts", f"10.97.0.{n} . 6 . 80", "drop") for n in range(40)]
        bad = [
            element("verdicts", "10.98.0.1 . 6 . 80", "goto nowhere"),
            element("verdicts", "10.98.0.1 . 6 . 80 }; flush ruleset; #", "drop"),
            element("verdicts", "10.98.0.300 . 6 . 80", "drop"),
            element("none", "10.98.0.1"),
        ]
        outcome = node.plane.apply(adding(*good[:20], *bad, *good[20:]))
        assert {error.resource for error in outcome.failed} == set(bad)
        assert {step.resource for step in outcome.done} == set(good)
        assert node.plane.read({}).keys() == state(iter([*rules(), *good])).keys()

    def test_a_table_that_does_not_fit_what_it_held_is_made_all_the_same(self, node: KernelNode) -> None:
        settle(node.plane, state(rules()))
        other = NftTable("inet", "podnet-test", "set nets { type ipv6_addr; flags interval; }")
        outcome = node.plane.apply(Plan((Step("change", other, TABLE, ("body",)),)))
        assert outcome.failed == ()
        settle(node.plane, state(iter([other, element("nets", "fd00::/8")])))

    def test_a_bad_table_leaves_the_old_one(self, node: KernelNode) -> None:
        settle(node.plane, state(rules()))
        broken = msgspec.structs.replace(TABLE, body=f"{TABLE.body}\nchain x {{ nonsense }}")
        [error] = node.plane.apply(Plan((Step("change", broken, TABLE, ("body",)),))).failed
        assert error.errno == errno.EINVAL
        assert "syntax error, unexpected" in str(error)
        assert plan(state(rules()), node.plane.read({})).steps == ()

    def test_the_library_says_what_it_does_not_like(self, node: KernelNode) -> None:
        library = Library(node.netns)
        try:
            with pytest.raises(NftError, match="No such file or directory") as caught:
                library.run("list table inet nothing")
            assert caught.value.failure.errno == errno.ENOENT
            library.run("add table inet something")
            assert library.port() in {int(p) for p in _netlink_ports(node, 12)}
        finally:
            library.close()

    def test_what_the_kernel_remembers_by_itself(self, node: KernelNode) -> None:
        flags = "flags dynamic,timeout; timeout 60s; size 100"
        ejected = f"set ejected {{ typeof meta priority; {flags}; }}"
        body = f"{ejected}\nmap affinity {{ typeof meta mark . ip6 saddr : meta priority; {flags}; }}"
        settle(node.plane, state(iter([NftTable("ip6", "podnet-test", body)])))
        node.run("nft add element ip6 podnet-test ejected { 1:2, a:ffff }")
        node.run("nft add element ip6 podnet-test affinity { 0x11 . fd00::1 : 1:2, 0xf0000000 . fd00::2 : 1:3 }")
        assert node.plane.remembered("ip6", "podnet-test", "set ejected") == ("1:2", "a:ffff")
        assert set(node.plane.remembered("ip6", "podnet-test", "map affinity")) == {
            "0x00000011 . fd00::1 : 1:2",
            "0xf0000000 . fd00::2 : 1:3",
        }
        assert node.plane.remembered("ip6", "podnet-test", "set nothing") == ()
        assert node.plane.remembered("ip", "podnet-test", "set ejected") == ()
        node.plane.forget("ip6", "podnet-test", "set ejected", ("1:2", "9:9"))
        assert node.plane.remembered("ip6", "podnet-test", "set ejected") == ("a:ffff",)
        node.plane.forget("ip6", "podnet-test", "set nothing", ("1:2",))
        with pytest.raises(OSError, match="syntax error"):
            node.plane.remembered("ip6", "podnet-test", "set {")
        with pytest.raises(OSError, match="syntax error"):
            node.plane.forget("ip6", "podnet-test", "set ejected", ("{",))


def _netlink_ports(node: KernelNode, family: int) -> list[str]:
    lines = node.run("cat /proc/net/netlink").splitlines()[1:]
    return [words[2] for words in map(str.split, lines) if words[1] == str(family)]
