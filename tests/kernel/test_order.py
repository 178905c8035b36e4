"""In which order a plan is carried out, what becomes of it, and which events are our own."""

from __future__ import annotations

import errno

import pytest

from podnet.kernel import nft
from podnet.kernel.dataplane import stages
from podnet.kernel.outcome import ApplyError, Outcome, Tally, summed
from podnet.kernel.own import INSIDE, Own
from podnet.state.host import Sysctl
from podnet.state.links import Bridge, PodLink, Veth, VethPeer, Vxlan
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Step, plan
from podnet.state.resource import Resource, state
from podnet.state.routes import Address, Route
from podnet.wire.netlink import Failure

NODE = (
    Bridge(name="podnet0"),
    Address("podnet0", "10.244.1.1/24"),
    Sysctl("net/ipv4/ip_forward", "1"),
    Route("10.244.2.0/24", via="10.0.0.2"),
)


def pod(path: str) -> tuple[Resource, ...]:
    return (
        Veth(name=f"podnet{path[1:]}", peer=VethPeer(path, "eth0", "0a:00:00:00:00:01", 1450)),
        PodLink(netns=path, name="eth0"),
        Sysctl("net/ipv6/conf/eth0/accept_ra", "0", path, "eth0"),
        Address("eth0", "10.244.1.5/24", path),
        Route("0.0.0.0/0", via="10.244.1.1", dev="eth0", netns=path),
    )


ALL = state(iter((*NODE, *pod("/a"), *pod("/b"))))


def kinds(steps: list[Step]) -> list[str]:
    return [step.resource.kind for step in steps]


def test_each_namespace_is_entered_once_and_the_nodes_routes_come_last() -> None:
    found = [(path, kinds(steps)) for path, steps in stages(plan(ALL, {}).steps)]
    inside = ["PodLink", "Sysctl", "Address", "Route"]
    assert found == [
        ("", ["Link", "Link", "Link"]),
        ("/a", inside),
        ("/b", inside),
        ("", ["Sysctl", "Address", "Route"]),
    ]


def test_deleting_goes_the_other_way() -> None:
    steps = [Step("delete", resource) for resource in ALL.values()]
    ordered = sorted(
        steps, key=lambda step: ("Route", "Address", "Sysctl", "PodLink", "Link").index(step.resource.kind)
    )
    found = [(path, kinds(steps)) for path, steps in stages(ordered)]
    inside = ["Route", "Address", "Sysctl", "PodLink"]
    assert found == [("/a", inside), ("/b", inside), ("", ["Route", "Address", "Sysctl", "Link", "Link", "Link"])]


def test_what_is_made_stands_before_something_is_deleted() -> None:
    old = Step("delete", Route("10.9.0.0/16"))
    found = [steps for _, steps in stages([Step("add", NODE[0]), Step("add", NODE[3]), old])]
    assert [step.verb for steps in found for step in steps] == ["add", "add", "delete"]


TABLE, OTHER = NftTable("inet", "podnet-a", "set s { }"), NftTable("inet", "podnet-b", "set s { }")


def element(key: str, table: str = "podnet-a", name: str = "s") -> Element:
    return Element("inet", table, name, key)


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([Step("add", TABLE), Step("add", element("1"))], []),
        ([Step("delete", element("1"))], [element("1")]),
        ([Step("delete", element("1")), Step("delete", TABLE)], [element("1"), TABLE]),
        ([Step("add", element("1")), Step("delete", element("2"))], [element("2")]),
        ([Step("change", element("1"), element("1"), ("value",)), Step("delete", element("2"))], [element("2")]),
        ([Step("add", element("10.1.0.5")), Step("delete", element("10.1.0.0/24"))], []),
        ([Step("add", element("10.1.0.0/24")), Step("delete", element("10.1.0.0"))], []),
        (
            [Step("add", element("10.1.0.0/24")), Step("delete", element("10.1.0.5", name="t"))],
            [element("10.1.0.5", name="t")],
        ),
        ([Step("add", element("10.1.0.0-10.1.0.9")), Step("delete", element("10.1.0.0"))], []),
        ([Step("add", element("1")), Step("delete", element("2", name="t"))], [element("2", name="t")]),
        ([Step("change", TABLE, TABLE, ("body",)), Step("delete", element("2", name="t"))], []),
        (
            [Step("change", TABLE, TABLE, ("body",)), Step("delete", element("2", "podnet-b"))],
            [element("2", "podnet-b")],
        ),
        ([Step("add", TABLE), Step("delete", OTHER)], [OTHER]),
        ([Step("add", NODE[0]), Step("delete", NODE[3])], []),
    ],
)
def test_rules_that_are_only_deleted_outlive_their_links(steps: list[Step], last: list[Resource]) -> None:
    now, later = nft.split(steps)
    assert [step.resource for step in later] == last
    ours = [step for step in steps if isinstance(step.resource, NftTable | Element)]
    assert sorted(map(id, (*now, *later))) == sorted(map(id, ours))


def test_rules_are_not_among_the_stages() -> None:
    assert list(stages([Step("add", TABLE), Step("delete", element("1"))])) == []


def test_a_tally() -> None:
    done, failed, held, gone = (Step("add", resource) for resource in NODE)
    gone = Step("delete", gone.resource)
    tally = Tally()
    tally.succeed(done)
    tally.fail(failed, Failure(errno.EACCES))
    tally.absent(held)
    tally.absent(gone)
    outcome = tally.outcome()
    assert isinstance(outcome, Outcome)
    assert (outcome.done, outcome.held) == ((done, gone), (held,))
    [error] = outcome.failed
    assert (error.resource, error.verb, error.errno) == (failed.resource, "add", errno.EACCES)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ApplyError(Route("10.1.0.0/16", via="192.0.2.1"), "add", errno.ENETUNREACH, "Nexthop has invalid gateway"),
            "cannot add route 10.1.0.0/16 via=192.0.2.1: Network is unreachable (Nexthop has invalid gateway)",
        ),
        (
            ApplyError(Address("podnet0", "fd00::1/64"), "add", errno.EACCES),
            "cannot add address dev=podnet0 address=fd00::1/64: Permission denied",
        ),
        (
            ApplyError(TABLE, "change", errno.EINVAL, "syntax error, unexpected '}'"),
            "cannot change nfttable inet podnet-a: Invalid argument (syntax error, unexpected '}')",
        ),
    ],
)
def test_an_error_is_one_clear_sentence(error: ApplyError, sentence: str) -> None:
    assert str(error) == sentence


class TestOwn:
    def test_ports_that_are_known(self) -> None:
        assert Own(lambda: 7, lambda: 0, lambda: 9).ports() == {7, 9, INSIDE}
        assert Own().ports() == {INSIDE}

    def test_a_link_that_we_remove_goes_down_and_then_away_once(self) -> None:
        own = Own()
        tunnel = Vxlan(name="podnet.1", vni=1, port=8472, local="10.0.0.1")
        own.announce([Step("delete", NODE[0]), Step("replace", tunnel, tunnel), Step("delete", NODE[3])])
        for name in ("podnet0", "podnet.1"):
            assert own.removes(name, gone=False)
            assert own.removes(name, gone=True)
            assert not own.removes(name, gone=True)
        assert not own.removes("podnet9", gone=True)

    def test_a_link_that_is_made_again_is_no_longer_announced(self) -> None:
        own = Own()
        own.announce([Step("delete", NODE[0])])
        own.announce([Step("add", NODE[0])])
        assert not own.removes("podnet0", gone=False)


def test_many_refusals_of_one_kind_are_one_sentence() -> None:
    full = [ApplyError(Route(f"10.{n}.0.0/16", via="192.0.2.1"), "add", errno.ENOSPC) for n in range(3)]
    other = ApplyError(Route("10.9.0.0/16"), "delete", errno.EPERM)
    assert summed([*full, other]) == [f"{full[0]} (and 2 more of kind Route)", str(other)]
