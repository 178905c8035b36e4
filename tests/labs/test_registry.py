"""Which labs exist: names, lab.json, the right to change a lab."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest

from podnet.lab import registry
from podnet.lab.registry import Lab, find, load, locked, make_node, names, save, write


def lab(root: Path, name: str = "one", nodes: int = 2, dual_stack: bool = False) -> Lab:
    """A lab in its folder, with nothing behind it."""
    folder = registry.folder(name)
    Path(folder).mkdir(parents=True)
    made = Lab(name, folder, 40000, tuple(make_node(folder, n + 1, dual_stack) for n in range(nodes)), dual_stack)
    save(made)
    return made


@pytest.mark.parametrize("name", ["a", "lab", "lab-1", "1", "a" * 30])
def test_names_that_can_be(root: Path, name: str) -> None:
    assert registry.folder(name) == f"{root}/{name}"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "..", "a.b", "a" * 31, "ä", "a\n"])
def test_names_that_can_not_be(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="can't name a lab"):
        registry.folder(name)


def test_there_are_none_at_first(root: Path) -> None:
    assert names() == ()
    assert find("one") is None


def test_a_lab_is_read_as_it_was_written(root: Path) -> None:
    made = lab(root)
    assert find("one") == load("one") == made
    assert names() == ("one",)


def test_names_are_sorted_and_what_is_no_name_is_left_out(root: Path) -> None:
    for name in ("two", "one"):
        lab(root, name)
    (root / ".one.lock").touch()
    assert names() == ("one", "two")


def test_a_lab_that_is_not_there_names_those_that_are(root: Path) -> None:
    with pytest.raises(ValueError, match="no lab is named 'three'; podnet lab up makes one"):
        load("three")
    lab(root, "one")
    with pytest.raises(ValueError, match="there are: one"):
        load("three")


@pytest.mark.parametrize("text", ["", "{", '{"name": 3}', "[]"])
def test_a_damaged_file_says_how_to_get_rid_of_it(root: Path, text: str) -> None:
    made = lab(root)
    Path(made.folder, "lab.json").write_text(text)
    with pytest.raises(ValueError, match="podnet lab down --name one removes it"):
        find("one")


# -- what is derived


def test_a_node() -> None:
    node = make_node("/labs/x", 3, False)
    assert (node.name, node.addresses) == ("node3", ("192.168.77.13",))
    assert node.netns == "/labs/x/netns/node3"
    assert node.state_dir == "/labs/x/nodes/node3/state"
    assert node.run_dir == "/labs/x/nodes/node3/run"
    assert node.conf_dir == "/labs/x/nodes/node3/conf"
    assert node.pods_dir == "/labs/x/nodes/node3/pods"
    assert node.kubeconfig == "/labs/x/kubeconfigs/node3"
    assert node.agent_url == "http://192.168.77.13:10258"


def test_a_dual_stack_node_has_both_addresses() -> None:
    assert make_node("/labs/x", 12, True).addresses == ("192.168.77.22", "fd77::22")


def test_addresses_are_all_different() -> None:
    nodes = [make_node("/x", number, True) for number in range(1, registry.MAX_NODES + 1)]
    assert len({address for node in nodes for address in node.addresses}) == 2 * registry.MAX_NODES


def test_where_a_lab_is(root: Path) -> None:
    made = lab(root)
    assert made.fabric_netns == f"{made.folder}/netns/fabric"
    assert made.kubeconfig == f"{made.folder}/kubeconfigs/admin"
    assert made.api_url == "https://127.0.0.1:40000"
    assert made.fabric_url == "https://192.168.77.1:6443"
    assert made.program("api") == f"{made.folder}/programs/api"


def test_sockets_fit_into_the_longest_path(root: Path) -> None:
    """A unix socket's path has at most 107 bytes."""
    node = make_node(f"/run/podnet/labs/{'a' * 30}", 99, False)
    assert len(f"{node.run_dir}/agent.sock") <= 107


def test_a_node_by_name(root: Path) -> None:
    made = lab(root)
    assert made.node("node2").number == 2
    with pytest.raises(ValueError, match="has no node 'node9'; its nodes: node1, node2"):
        made.node("node9")
    with pytest.raises(ValueError, match="its nodes: none"):
        msgspec.structs.replace(made, nodes=()).node("x")


# -- writing


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(str(path), b"one")
    write(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


# -- locks


def test_a_lock_leaves_nothing_behind(root: Path) -> None:
    with locked("one"):
        assert (root / ".one.lock").exists()
    assert not root.exists()


def test_a_lock_leaves_the_labs(root: Path) -> None:
    lab(root)
    with locked("one"):
        pass
    assert names() == ("one",)
    assert not (root / ".one.lock").exists()


def test_locks_of_other_labs_do_not_wait(root: Path) -> None:
    with locked("one"), locked("two"):
        pass


def test_a_lock_is_given_back_after_an_error(root: Path) -> None:
    with pytest.raises(KeyError), locked("one"):
        raise KeyError
    with locked("one"):
        pass


def test_only_one_at_a_time_changes_a_lab(root: Path) -> None:
    inside: list[int] = []
    worst: list[int] = []

    def change(number: int) -> None:
        for _ in range(20):
            with locked("one"):
                inside.append(number)
                worst.append(len(inside))
                time.sleep(0.0005)
                inside.remove(number)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) == 1
    assert len(worst) == 120
    assert not root.exists()
