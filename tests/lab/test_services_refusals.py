"""Who asks where nobody is, hears that at once: every time, on kernels that ration their ICMP errors.

An ICMP error that comes while connect() still holds its socket is lost on Linux, and after a few of them a node sends
each client but one a second; either way a client waits for its second SYN. So here hundreds ask one after the other,
each by a connect() that blocks, and the slowest counts.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.lab.labs import needs_root
from tests.lab.service_asks import AT_ONCE, Ask, connected
from tests.lab.service_world import HERE, World, world

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("services-refusals")]

TRIES = 300
EXTERNAL = {False: "203.0.113.100", True: "2001:db8:113::64"}


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world("svcref") as built:
        for node in built.live.lab.nodes:  # as kernels have them
            built.live.run(node.netns, "sysctl -qw net.ipv4.icmp_ratelimit=1000 net.ipv6.icmp.ratelimit=1000")
        built.service("none", type="LoadBalancer", externalIPs=[*EXTERNAL.values()])
        built.service("one", "a")
        yield built


@pytest.fixture(scope="module", params=HERE)
def lab(request: pytest.FixtureRequest, made: World) -> World:
    made.proxy(mode=request.param)
    return made


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def asks(lab: World, v6: bool) -> Iterator[Ask]:
    """From a pod, a node and outside, to every address of a Service without endpoints and to a port of no Service."""
    none, node1 = lab.services["none"], lab.live.lab.node("node1").addresses[v6]
    inner = [(none.cluster(v6), 80), (lab.services["one"].cluster(v6), 82)]
    outer = [(EXTERNAL[v6], 80), (none.balancer(v6), 80)]
    at_node = [(node1, none.node_port)]
    for name, places in (("near", inner + outer + at_node), ("node1", inner + at_node), ("outside-1", inner + outer)):
        yield from (Ask(lab.clients[name], *place) for place in places)
    yield Ask(lab.clients["outside"], *at_node[0])


def test_hundreds_in_a_row_are_refused_at_once(lab: World, v6: bool) -> None:
    """None of them waits for its second SYN."""
    slow = []
    for ask in asks(lab, v6):
        worst, error, tries = 0.0, errno.ECONNREFUSED, 0
        while tries < TRIES and worst < AT_ONCE and error == errno.ECONNREFUSED:
            seconds, error = connected(ask.client, ask.host, ask.port)
            worst, tries = max(worst, seconds), tries + 1
        if worst >= AT_ONCE or error != errno.ECONNREFUSED:
            slow.append(f"{ask.client.name} to {ask.host} {ask.port}: {os.strerror(error)} after {worst:.2f} s")
    assert not slow, "\n".join(slow)


def test_the_first_endpoint_is_served_and_after_the_last_one_all_are_refused(lab: World, v6: bool) -> None:
    none = lab.services["none"]
    for endpoints in (["a"], []):
        lab.endpoints("none", *endpoints)
        for ask in asks(lab, v6):
            if ask.port != 82:
                seconds, error = connected(ask.client, ask.host, ask.port)
                assert (seconds < AT_ONCE, error == errno.ECONNREFUSED) == (True, not endpoints), (ask.host, ask.client)
        lab.check(none.cluster(v6), 80, {"near": "a from near" if endpoints else "refused"}, ["udp"])
