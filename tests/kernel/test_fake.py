"""The dataplane in memory keeps the contract, and tells what it was told to do."""

from __future__ import annotations

import errno
import itertools

import pytest

from podnet.kernel.fake import FakeDataplane
from podnet.kernel.monitor import Event
from podnet.state.host import ForgetFlows, Sysctl
from podnet.state.ipvs import RealServer, VirtualServer
from podnet.state.links import PodLink
from podnet.state.plan import Plan, Step
from podnet.state.resource import Resource
from tests.kernel.contract import UPLINK, UPLINK_ADDRESSES, Contract, adding, everything, settle


class FakeNode:
    def __init__(self) -> None:
        self.plane = FakeDataplane({UPLINK: UPLINK_ADDRESSES})
        self._numbers = itertools.count()

    def pod(self) -> str:
        path = f"/run/netns/pod{next(self._numbers)}"
        self.plane.pods.add(path)
        return path

    def end(self, pod: str) -> None:
        self.plane.remove_pod(pod)

    def lose(self, resource: Resource) -> None:
        self.plane.vanish(resource.key)

    def spoil(self, resource: Resource) -> None:
        self.plane.put(resource)

    def events(self) -> list[Event]:
        return self.plane.events()


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


class TestFakeDataplane(Contract):
    pass


def test_it_remembers_what_it_was_asked_to_do(node: FakeNode) -> None:
    steps = adding(Sysctl("net/ipv4/ip_forward", "1"))
    node.plane.apply(steps)
    node.plane.act([ForgetFlows(17, 53)])
    node.plane.close()
    assert node.plane.plans == [steps]
    assert node.plane.acted == [ForgetFlows(17, 53)]
    assert node.plane.closed


def test_our_own_changes_make_no_events(node: FakeNode) -> None:
    settle(node.plane, everything(node.pod()))
    assert node.plane.events() == []


def test_a_link_that_was_never_made_is_held(node: FakeNode) -> None:
    link = PodLink(netns=node.pod(), name="eth0", mtu=1450)
    assert [step.resource for step in node.plane.apply(adding(link)).held] == [link]


def test_an_empty_plan_does_nothing(node: FakeNode) -> None:
    outcome = node.plane.apply(Plan())
    assert (outcome.done, outcome.failed, outcome.held) == ((), (), ())


def test_real_servers_stand_behind_a_virtual_one_and_go_with_it() -> None:
    plane = FakeDataplane()
    virtual, real = VirtualServer("tcp", "10.96.0.1", 80), RealServer("tcp", "10.96.0.1", 80, "10.244.1.2", 8080)
    (failed,) = plane.apply(Plan((Step("add", real),))).failed
    assert failed.errno == errno.ESRCH
    assert plane.apply(Plan((Step("add", virtual), Step("add", real)))).failed == ()
    plane.vanish(virtual.key)
    assert plane.holds == {}
