"""Virtual servers and their real servers: what is ours, and how they end, against a kernel in a few lines."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from podnet.kernel.ipvs import KINDS, Ipvs, unkept, without_kept
from podnet.kernel.outcome import Outcome, Tally
from podnet.state.ipvs import LINK, Balanced, RealServer, Stay, VirtualServer
from podnet.state.links import Dummy
from podnet.state.plan import Step, plan
from podnet.state.resource import Key, Resource, state
from podnet.state.routes import Address
from podnet.wire import ipvs
from podnet.wire.ipvs import MARK, ServerMessage, ServiceMessage
from podnet.wire.netlink import Failure, Request, attribute, nest, u32

FAMILY = 30
WEB = VirtualServer("tcp", "10.96.0.1", 80)
A, B = (RealServer("tcp", "10.96.0.1", 80, f"10.244.1.{number}", 8080) for number in (2, 3))
VIP = Address(LINK, "10.96.0.1/32")
DNS = VirtualServer("udp", "fd96::1", 53, "wrr", 60)
C = RealServer("udp", "fd96::1", 53, "fd00::2", 5353, 7)
EVERYTHING = (WEB, A, B, DNS, C)


class Kernel:
    """Takes and gives what ip_vs does; also the context that a netlink socket is."""

    def __init__(self) -> None:
        self.holds: dict[tuple[Any, ...], tuple[ServiceMessage, dict[tuple[str, int], ServerMessage]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, request: Request) -> bytes:
        return b"\1\2\0\0" + attribute(1, bytes((FAMILY, 0)))

    def dump(self, request: Request) -> list[bytes]:
        if request.body[0] == ipvs.GET_SERVICE:
            return [ipvs.put_service(FAMILY, service).body for service, _ in self.holds.values()]
        service = _service(request.body)
        servers = self.holds[_key(service)][1] if _key(service) in self.holds else {}
        return [_told(service, each) for each in servers.values()]

    def write(self, requests: Sequence[Request]) -> dict[int, Failure]:
        failed = ((place, self._take(request.body)) for place, request in enumerate(requests))
        return {place: Failure(number) for place, number in failed if number}

    def _take(self, body: bytes) -> int:
        command, service = body[0], _service(body)
        key = _key(service)
        if command == ipvs.NEW_SERVICE and key in self.holds:
            return errno.EEXIST
        if command in (ipvs.NEW_SERVICE, ipvs.SET_SERVICE):
            self.holds[key] = (service, self.holds[key][1] if key in self.holds else {})
            return 0
        if key not in self.holds:
            return errno.ESRCH
        if command == ipvs.DELETE_SERVICE:
            del self.holds[key]
            return 0
        servers, server = self.holds[key][1], ipvs.decode_server(body, ":" in service.address)
        place = (server.address, server.port)
        if (command == ipvs.NEW_SERVER) is (place in servers):
            return errno.EEXIST if place in servers else errno.ENOENT
        if command == ipvs.DELETE_SERVER:
            del servers[place]
        else:
            servers[place] = servers[place]._replace(weight=server.weight) if place in servers else server
        return 0

    def connect(self, server: RealServer, number: int = 1) -> None:
        """So many connections lead there now."""
        for service, servers in self.holds.values():
            if (service.address, service.port) == (server.address, server.port):
                servers[server.to, server.to_port] = servers[server.to, server.to_port]._replace(active=number)


def _service(body: bytes) -> ServiceMessage:
    found = ipvs.decode_service(body)
    assert found
    return found


def _key(service: ServiceMessage) -> tuple[Any, ...]:
    return (service.protocol, service.address, service.port)


def _told(service: ServiceMessage, server: ServerMessage) -> bytes:
    """Connections are counted in the same attribute group as the weight."""
    plain = ipvs.put_server(FAMILY, service, server).body
    begin = plain.index(nest(2)[2:]) - 2  # the real server's group is the last one
    return plain[:begin] + nest(2, plain[begin + 4 :], u32(7, server.active), u32(8, server.inactive))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def edge(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Ipvs:
    made = Ipvs("")
    monkeypatch.setattr(made, "_open", lambda: kernel)
    monkeypatch.setattr("podnet.kernel.ipvs._PROBE", "/")
    return made


def held(edge: Ipvs, *wanted: Resource) -> dict[Key, Resource]:
    return state(edge.read(KINDS, state(iter(wanted))))


def make(edge: Ipvs, *wanted: Resource) -> Outcome:
    """Until the kernel is so."""
    tally = Tally()
    edge.apply(plan(state(iter(wanted)), held(edge, *wanted)).steps, tally)
    return tally.outcome()


def test_what_is_made_is_read_back_and_nothing_is_left_to_do(edge: Ipvs) -> None:
    assert make(edge, *EVERYTHING).failed == ()
    assert held(edge) == state(iter(EVERYTHING))
    assert make(edge, *EVERYTHING) == Outcome()


def test_what_has_another_weight_or_scheduler_is_changed(edge: Ipvs, kernel: Kernel) -> None:
    make(edge, *EVERYTHING)
    kernel.write([ipvs.put_server(FAMILY, ServiceMessage(17, "fd96::1", 53), ServerMessage("fd00::2", 5353, 1), True)])
    kernel.write([ipvs.put_service(FAMILY, ServiceMessage(6, "10.96.0.1", 80, "lc", MARK, 0), True)])
    assert {step.verb for step in make(edge, *EVERYTHING).done} == {"change"}
    assert held(edge) == state(iter(EVERYTHING))


def test_what_others_made_is_theirs_until_it_is_wanted(edge: Ipvs, kernel: Kernel) -> None:
    kernel.write([ipvs.put_service(FAMILY, ServiceMessage(6, "10.96.0.1", 80, "sh", 0, 0))])
    assert held(edge) == {}
    assert make(edge, WEB, A).failed == ()
    assert held(edge) == state(iter((WEB, A)))


def test_a_repeated_addition_makes_it_so_and_a_repeated_deletion_is_done(edge: Ipvs) -> None:
    for _ in range(2):
        tally = Tally()
        edge.apply([Step("add", each) for each in EVERYTHING], tally)
        assert tally.outcome().failed == ()
    for _ in range(2):
        tally = Tally()
        edge.apply([Step("delete", each) for each in reversed(EVERYTHING)], tally)
        assert (len(tally.outcome().done), tally.outcome().failed) == (len(EVERYTHING), ())
    assert held(edge) == {}


def test_a_real_server_that_goes_keeps_its_connections(edge: Ipvs, kernel: Kernel) -> None:
    make(edge, WEB, A, B)
    kernel.connect(A)
    make(edge, WEB, B)
    assert held(edge, WEB, B) == state(iter((WEB, B)))
    ((_, servers),) = kernel.holds.values()
    assert servers[A.to, A.to_port].weight == 0
    kernel.connect(A, 0)
    make(edge, WEB, B)
    assert [*servers] == [(B.to, B.to_port)]


def test_one_that_comes_back_meanwhile_has_its_weight_again(edge: Ipvs, kernel: Kernel) -> None:
    make(edge, WEB, A)
    kernel.connect(A)
    make(edge, WEB)
    make(edge, WEB, A)
    assert held(edge) == state(iter((WEB, A)))


def test_a_virtual_server_and_its_address_wait_for_connections(edge: Ipvs, kernel: Kernel) -> None:
    link = Dummy(name=LINK)
    make(edge, WEB, A, DNS, C)
    kernel.connect(A)
    kernel.connect(C)
    other = Address(LINK, "fd96::1/128")
    found = state(iter((VIP, other, link)))
    tally = Tally()
    left = without_kept([Step("delete", each) for each in (VIP, other, link)], edge, tally)
    assert [step.resource for step in left] == [other]
    assert len(tally.outcome().done) == 2
    make(edge)
    assert held(edge) == {}
    assert [*kernel.holds] == [(6, "10.96.0.1", 80)]  # UDP waits for nobody
    assert unkept(found, {}, edge) == state(iter((other,)))
    assert unkept(found, found, edge) == found
    kernel.connect(A, 0)
    assert unkept(found, {}, edge) == found
    make(edge)
    assert kernel.holds == {}


def test_who_cleans_up_waits_for_nobody(edge: Ipvs, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    make(edge, WEB, A)
    kernel.connect(A)
    make(edge)
    hasty = Ipvs("", patient=False)
    monkeypatch.setattr(hasty, "_open", lambda: kernel)
    assert unkept(state(iter((VIP,))), {}, hasty) == {VIP.key: VIP}
    make(hasty)
    assert kernel.holds == {}


def test_without_the_module_there_is_nothing_and_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podnet.kernel.ipvs._PROBE", "/nowhere")
    assert held(Ipvs("")) == {}
    absent = Ipvs("")
    monkeypatch.setattr(absent, "_number", lambda _: (_ for _ in ()).throw(OSError(errno.ENOENT, "no ip_vs")))
    (failed,) = make(absent, WEB).failed
    assert (failed.resource, failed.errno) == (WEB, errno.ENOENT)


TEMPLATES = """\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF40109 9C40 0A600001 0050 0AF40102 1F90 ESTABLISHED     900
TCP 0AF40109 0000 0A600001 0050 0AF40102 1F90 NONE             57
UDP fd00:0000:0000:0000:0000:0000:0000:0009 0000 fd96:0000:0000:0000:0000:0000:0000:0001 0035 fd00:0000:0000:0000:0000:0000:0000:0002 14E9 NONE 57
"""  # noqa: E501


def test_what_our_virtual_servers_do(
    edge: Ipvs, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert edge.balanced() == Balanced(), "no table is asked for where there is nothing of ours"
    file = tmp_path / "ip_vs_conn"
    file.write_text(TEMPLATES)
    monkeypatch.setattr("podnet.kernel.ipvs._CONNECTIONS", str(file))
    twin = msgspec.structs.replace(A, to_port=8081)
    make(edge, *EVERYTHING, twin)
    kernel.connect(A, 3)
    kernel.connect(twin)
    found = edge.balanced()
    assert found.connections["tcp", "10.96.0.1", 80, "10.244.1.2"] == (4, 0)
    assert found.connections["tcp", "10.96.0.1", 80, "10.244.1.3"] == (0, 0)
    assert found.connections["udp", "fd96::1", 53, "fd00::2"] == (0, 0)
    assert found.tables == {}, "no hash decides"
    hashed = VirtualServer("tcp", "10.96.0.2", 80, "sh")
    kernel.holds.clear()
    make(
        edge,
        hashed,
        *(RealServer("tcp", "10.96.0.2", 80, f"10.244.1.{n}", 80, weight) for n, weight in ((2, 3), (3, 999))),
    )
    ((at, slots),) = edge.balanced().tables.items()
    assert (at, slots) == (("tcp", "10.96.0.2", 80), ("10.244.1.2",) * 3 + ("10.244.1.3",) * 253)
    assert found.stays == (
        Stay("tcp", "10.244.1.9", "10.96.0.1", 80, "10.244.1.2"),
        Stay("udp", "fd00::9", "fd96::1", 53, "fd00::2"),
    )
