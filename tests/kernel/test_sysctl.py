"""Kernel parameters in a folder that stands for /proc/sys: what was changed is remembered and given back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podnet.kernel import sysctl
from podnet.kernel.sysctl import Sysctls
from podnet.state.host import Sysctl
from podnet.state.plan import Step

FORWARD = "net/ipv4/ip_forward"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "sys"
    for name, value in {FORWARD: "0\n", "net/ipv4/tcp_rmem": "4096\t131072\t6291456\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value)
    monkeypatch.setattr(sysctl, "ROOT", str(root))
    return root


@pytest.fixture
def sysctls(tmp_path: Path, root: Path) -> Sysctls:
    return Sysctls(str(tmp_path))


def put(name: str, value: str, netns: str = "", dev: str = "") -> Step:
    return Step("add", Sysctl(name, value, netns, dev))


def give_back(name: str) -> Step:
    return Step("delete", Sysctl(name, "?"))


def test_values_are_read_with_one_space_between_words(sysctls: Sysctls) -> None:
    wanted = [Sysctl(FORWARD, "1"), Sysctl("net/ipv4/tcp_rmem", ""), Sysctl("net/nothing", "1")]
    assert [found.value for found in sysctls.read(wanted)] == ["0", "4096 131072 6291456"]


def test_a_change_is_remembered_before_it_is_made(sysctls: Sysctls, tmp_path: Path, root: Path) -> None:
    sysctls.apply(put(FORWARD, "1"))
    assert (root / FORWARD).read_text().strip() == "1"
    memory = json.loads((tmp_path / "sysctl.json").read_text())
    assert memory["changed"] == {FORWARD: {"before": "0", "after": "1", "dev": ""}}
    assert sysctls.remembered() == [Sysctl(FORWARD, "1")]


def test_what_was_so_already_is_not_ours_to_give_back(sysctls: Sysctls, tmp_path: Path) -> None:
    sysctls.apply(put(FORWARD, "0"))
    assert sysctls.remembered() == []
    assert not (tmp_path / "sysctl.json").exists()


@pytest.mark.parametrize(
    ("netns", "dev", "kept"),
    [("", "", True), ("", "eth0", True), ("", "podnet0", False), ("/run/netns/p", "eth0", False)],
)
def test_parameters_of_our_own_links_and_of_pods_go_with_them(
    sysctls: Sysctls, netns: str, dev: str, kept: bool
) -> None:
    sysctls.apply(put(FORWARD, "1", netns, dev))
    assert bool(sysctls.remembered()) == kept


def test_a_value_is_given_back_also_by_the_next_process(sysctls: Sysctls, tmp_path: Path, root: Path) -> None:
    sysctls.apply(put(FORWARD, "1"))
    sysctls.apply(put(FORWARD, "2"))
    again = Sysctls(str(tmp_path))
    assert again.remembered() == [Sysctl(FORWARD, "2")]
    again.apply(give_back(FORWARD))
    assert (root / FORWARD).read_text().strip() == "0"
    assert again.remembered() == Sysctls(str(tmp_path)).remembered() == []


def test_a_value_that_someone_changed_since_stays(sysctls: Sysctls, root: Path) -> None:
    sysctls.apply(put(FORWARD, "1"))
    (root / FORWARD).write_text("5")
    sysctls.apply(give_back(FORWARD))
    assert (root / FORWARD).read_text().strip() == "5"
    assert sysctls.remembered() == []


def test_giving_back_what_was_not_changed_does_nothing(sysctls: Sysctls, root: Path) -> None:
    sysctls.apply(give_back(FORWARD))
    assert (root / FORWARD).read_text().strip() == "0"


def test_after_a_reboot_nothing_is_remembered(
    sysctls: Sysctls, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctls.apply(put(FORWARD, "1"))
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(sysctl, "_BOOT", str(boot))
    assert Sysctls(str(tmp_path)).remembered() == []


@pytest.mark.parametrize("name", ["net/nothing", "../etc/passwd", "net/../../etc/passwd"])
def test_there_is_no_such_parameter(sysctls: Sysctls, name: str) -> None:
    with pytest.raises(OSError):
        sysctls.apply(put(name, "1"))
