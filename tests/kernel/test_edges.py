"""What of the kernel edge can be seen without root: what is missing, what is refused, what is asked of conntrack."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from podnet.kernel import conntrack, facts, netns, nft
from podnet.kernel.netns import NoNamespace
from podnet.state.host import ForgetFlows
from podnet.wire import conntrack as wire
from podnet.wire.conntrack import Pattern
from podnet.wire.netlink import Failure
from podnet.wire.spelling import IPV4, IPV6
from tests.wire.test_conntrack import entry


def test_there_is_no_such_namespace(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "deeper", Path("/proc/0/ns/net")):
        with pytest.raises(NoNamespace, match=str(path)):
            netns.open_namespace(str(path))


def test_nowhere_is_here() -> None:
    with netns.inside(""):
        assert Path(netns.HERE).exists()


@pytest.mark.parametrize(
    ("action", "patterns"),
    [
        (ForgetFlows(), []),
        (ForgetFlows(17, 53), [Pattern(IPV4, 17, 53), Pattern(IPV6, 17, 53)]),
        (ForgetFlows(17, 53, destination="10.96.0.10"), [Pattern(IPV4, 17, 53, destination="10.96.0.10")]),
        (ForgetFlows(answered_by="fd00::1"), [Pattern(IPV6, answered_by="fd00::1")]),
        (ForgetFlows(source="10.0.0.1", answered_by="fd00::1"), []),
    ],
)
def test_an_action_is_about_its_families(action: ForgetFlows, patterns: list[Pattern]) -> None:
    assert conntrack.patterns(action) == patterns


class ScriptedConntrack:
    """Lists what it is told to, whatever was asked, as an old kernel does; and refuses some deletions."""

    def __init__(self, flows: list[bytes], refused: dict[int, Failure]) -> None:
        self.flows = flows
        self.refused = refused
        self.listed: list[object] = []
        self.deleted: list[object] = []

    def dump(self, request: object) -> list[bytes]:
        self.listed.append(request)
        return self.flows

    def write(self, requests: list[object]) -> dict[int, Failure]:
        self.deleted += requests
        return self.refused


FLOWS = [entry("10.0.0.1", "10.96.0.10", f"10.244.0.{n}") for n in (1, 2, 1)]


def test_only_what_matches_is_deleted_even_if_everything_is_listed() -> None:
    kernel = ScriptedConntrack(FLOWS, {})
    action = ForgetFlows(17, 53, answered_by="10.244.0.1")
    assert conntrack.forget(kernel, [action]) == 2  # type: ignore[arg-type]
    meant = [wire.decode(flow) for flow in (FLOWS[0], FLOWS[2])]
    assert kernel.deleted == [wire.delete(flow) for flow in meant if flow is not None]


def test_many_actions_are_few_listings() -> None:
    kernel = ScriptedConntrack(FLOWS, {})
    actions = [ForgetFlows(17, answered_by=f"10.244.0.{n}") for n in range(2, 40)]
    assert conntrack.forget(kernel, actions) == 1  # type: ignore[arg-type]
    assert kernel.listed == [wire.dump(Pattern(IPV4, 17))]
    kernel = ScriptedConntrack([], {})
    assert conntrack.forget(kernel, [*actions, ForgetFlows(6), ForgetFlows(17, 53)]) == 0  # type: ignore[arg-type]
    assert len(kernel.listed) == 4  # both families, both protocols


def test_a_flow_that_went_by_itself_is_forgotten() -> None:
    kernel = ScriptedConntrack(FLOWS, {1: Failure(errno.ENOENT)})
    assert conntrack.forget(kernel, [ForgetFlows(source="10.0.0.1")]) == 2  # type: ignore[arg-type]


def test_a_refusal_is_an_error() -> None:
    kernel = ScriptedConntrack(FLOWS, {1: Failure(errno.EPERM, "no")})
    with pytest.raises(OSError, match="no") as caught:
        conntrack.forget(kernel, [ForgetFlows(source="10.0.0.1")])  # type: ignore[arg-type]
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        (
            "Error: Could not process rule: File exists\nadd element inet t s { 1 }\n      ^^^\n",
            Failure(errno.EEXIST, "Could not process rule: File exists"),
        ),
        (
            "Error: No such file or directory; did you mean table 'x' in family inet?\nlist table inet y\n",
            Failure(errno.ENOENT, "No such file or directory; did you mean table 'x' in family inet?"),
        ),
        (
            "Error: syntax error, unexpected string\nx\n^\nError: syntax error, unexpected '}'\n",
            Failure(errno.EINVAL, "syntax error, unexpected string"),
        ),
        ("internal:0:0-0: something\nelse", Failure(errno.EINVAL, "internal:0:0-0: something else")),
    ],
)
def test_what_nft_says_becomes_an_errno_and_a_sentence(words: str, failure: Failure) -> None:
    assert nft._failure(words) == failure


def test_features_need_root_to_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused():
        raise PermissionError

    monkeypatch.setattr(facts, "fresh", refused)
    assert set(facts.features().values()) == {"needs root to be tried"}
    assert {"vxlan", "ipv6", "nftables", "shaper", "redirect", "conntrack"} <= facts.features().keys()
