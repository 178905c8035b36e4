"""Host ports from everywhere, through a pod's replacement, and bandwidth limits: what the two capabilities promise."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from podnet.kernel.netns import socket_in
from tests.lab import talk
from tests.lab.labs import LiveLab, Place, live_lab, needs_root, until
from tests.lab.runtime import Runtime

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("ports")]

TALK = [sys.executable, "-I", "-S", talk.__file__]
INNER, OUTER, BOUND, OTHER, PASSED_ON = 9000, 30001, 30002, 30003, 30004
NODE1, NODE2, NODE1_6, NODE2_6 = "192.168.77.11", "192.168.77.12", "fd77::11", "fd77::12"
TOLERANCE = 0.15
MTU = {"bridge": 1400, "ptp": 1410}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("ports", "--nodes", "2", "--no-demo", "--dual-stack") as made:
        yield made


def server(live: LiveLab, name: str, *ports: tuple[str, int, str]) -> Place:
    """A pod on node1 with these (protocol, host port, host IP), all of which lead to INNER."""
    published = [
        {"containerPort": INNER, "hostPort": port, "protocol": protocol.upper(), "hostIP": host}
        for protocol, port, host in ports
    ]
    return live.pod(name, "node1", command=[*TALK, "serve", name, str(INNER)], ports=published)


def ask(live: LiveLab, place: str, protocol: str, host: str, port: int) -> str:
    return live.run(place, [*TALK, "ask", protocol, host, str(port)]).strip()


@pytest.fixture(scope="module", params=["bridge", "ptp"])
def pods(request: pytest.FixtureRequest, live: LiveLab) -> Iterator[dict[str, Place]]:
    """`web` publishes OUTER on every address, and BOUND on one; `near` is beside it, `far` on the other node."""
    live.configure(attachment=request.param, mtu=MTU[request.param])
    until(lambda: mtus(live) == {MTU[request.param]}, "the agents have heard")
    both = [(protocol, OUTER, "") for protocol in ("tcp", "udp")]
    made = {"web": server(live, "web", *both, ("tcp", BOUND, NODE1), ("udp", BOUND, NODE1))}
    made |= {name: live.pod(name, node) for name, node in (("near", "node1"), ("far", "node2"))}
    assert live.record("web").mode == request.param
    yield made
    for name in made:
        live.delete_pod(name)


def mtus(live: LiveLab) -> set[int]:
    """What the agents know of the configuration: the same change told them of the attachment."""
    return {live.ask(node.name, "status")["mtu"] for node in live.lab.nodes}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_host_port_is_reached_from_everywhere(live: LiveLab, pods: dict[str, Place], protocol: str) -> None:
    """From outside the node the client keeps its address; on the node it gets the node's, or no answer would return."""
    until(lambda: ask(live, "node1", protocol, pods["web"].addresses[0], INNER).startswith("web "), "web serves")
    seen = {place: ask(live, place, protocol, NODE1, OUTER) for place in ("node2", "default/far")}
    assert seen == {"node2": f"web {NODE2}", "default/far": f"web {pods['far'].addresses[0]}"}
    seen6 = {place: ask(live, place, protocol, NODE1_6, OUTER) for place in ("node2", "default/far")}
    assert seen6 == {"node2": f"web {NODE2_6}", "default/far": f"web {pods['far'].addresses[1]}"}
    for place in ("node1", "default/near", "default/web"):
        for host in (NODE1, NODE1_6):
            answer = ask(live, place, protocol, host, OUTER)
            assert answer.startswith("web "), f"{place} to {host}: {answer}"
    assert ask(live, "node1", protocol, "127.0.0.1", OUTER).startswith("web ")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_host_port_of_one_address_is_reached_there_only(live: LiveLab, pods: dict[str, Place], protocol: str) -> None:
    assert ask(live, "node2", protocol, NODE1, BOUND) == f"web {NODE2}"
    assert ask(live, "default/near", protocol, NODE1, BOUND).startswith("web ")
    for place, host in (("node2", NODE1_6), ("node1", "127.0.0.1"), ("node2", NODE2)):
        assert ask(live, place, protocol, host, BOUND).startswith("error ")


def test_neighbours_cannot_reach_what_is_bound_to_localhost(live: LiveLab, pods: dict[str, Place]) -> None:
    """Leading 127.0.0.1 to a pod needs route_localnet; it must not lead others there (CVE-2020-8558)."""
    near = pods["near"].netns
    gateway = live.run(near, "ip route show default").split()[2]
    for command in (
        "ip route flush table local root 127.0.0.0/8",
        f"ip route replace 127.0.0.1/32 via {gateway} dev eth0",
        "sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
    ):
        live.run(near, command)
    with (
        socket_in(live.netns("node1"), socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket_in(near, socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket_in(live.netns("node1"), socket.AF_INET, socket.SOCK_DGRAM) as itself,
    ):
        listener.bind(("127.0.0.1", 9100))
        listener.settimeout(0.5)
        for sender, word in ((stranger, b"foreign"), (itself, b"own")):
            sender.sendto(word, ("127.0.0.1", 9100))
        assert listener.recv(2048) == b"own"
        with pytest.raises(TimeoutError):
            listener.recv(2048)
    for protocol in ("tcp", "udp"):
        assert ask(live, near, protocol, "127.0.0.1", OUTER).startswith("error ")


@contextmanager
def sending(live: LiveLab, host: str, port: int, source: int) -> Iterator[Path]:
    """Somebody on node2 sends for ever; gives the log of who answered when."""
    log = Path(live.lab.folder, f"sending-{port}")
    with log.open("w") as file:
        words = ["nsenter", f"--net={live.netns('node2')}", *TALK, "keep", host, str(port), str(source)]
        sender = subprocess.Popen(words, stdout=file)
    try:
        yield log
    finally:
        sender.kill()
        sender.wait()


def answered(log: Path, name: str) -> float:
    """When `name` first answered; 0 if never."""
    return next((float(line.split()[0]) for line in log.read_text().splitlines() if line.split()[1] == name), 0.0)


def flow(live: LiveLab, port: int) -> str:
    """The node's memory of a flow to a host port: its identity."""
    lines = live.run("node1", f"conntrack -L -p udp --orig-port-dst {port} -o id").splitlines()
    return " ".join(sorted(line.rpartition("id=")[2] for line in lines))


@pytest.mark.parametrize("host", [NODE1, NODE1_6])
def test_a_client_that_keeps_sending_reaches_the_next_pod(live: LiveLab, host: str) -> None:
    """UDP from one port all the time: the kernel would remember the former pod, or that there was none, for ever."""
    server(live, "other", ("udp", OTHER, ""))
    server(live, "first", ("udp", PASSED_ON, ""))
    with sending(live, host, PASSED_ON, 5000) as log, sending(live, host, OTHER, 5001) as bystander:
        until(lambda: answered(log, "first") and answered(bystander, "other"), "both answer")
        untouched = flow(live, OTHER)
        assert untouched
        live.delete_pod("first")
        time.sleep(0.1)  # in which its datagrams find nobody
        assert "[UNREPLIED]" in live.run("node1", f"conntrack -L -p udp --orig-port-dst {PASSED_ON}")
        second = server(live, "second", ("udp", PASSED_ON, ""))
        began = time.time()
        until(lambda: answered(log, "second"), "the next pod answers", 1.0)
        assert answered(log, "second") < began + 1.0
        assert flow(live, OTHER) == untouched
        assert bystander.read_text().count("\n") == 1
    live.delete_pod("second")
    live.delete_pod("other")
    address = second.addresses[":" in host]
    until(lambda: address not in live.run("node1", "conntrack -L -p udp"), "its flows are forgotten with it", 1.0)


@pytest.mark.parametrize("mode", ["bridge", "ptp"])
def test_limits_hold_in_both_directions(live: LiveLab, tmp_path: Path, mode: str) -> None:
    limits = {"ingressRate": 30_000_000, "egressRate": 15_000_000}
    bursts = {"ingressBurst": 3_000_000, "egressBurst": 1_500_000}  # 0.1 s: a busy machine may be late by that much
    runtime = Runtime(live, "node1", tmp_path)
    with runtime.pod("slow") as slow:
        config = {"attachment": mode, "runtimeConfig": {"bandwidth": limits | bursts}}
        address = runtime.call("ADD", "slow", config).addresses[0]
        into = rate(live.netns("node2"), slow, address)
        out = rate(slow, live.netns("node2"), NODE2)
        assert runtime.call("DEL", "slow").exit == 0
    # A busy machine may be slower than the limit, but nothing makes a limit that does not hold look as if it did.
    for measured, limit in ((into, limits["ingressRate"]), (out, limits["egressRate"])):
        assert limit / 2 < measured < limit * (1 + TOLERANCE)


def rate(source: str, target: str, address: str, seconds: float = 1.5) -> float:
    """Bits a second that a TCP connection carries from one namespace to another, headers included."""
    import socket

    with socket_in(target, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        with socket_in(source, socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.connect(listener.getsockname())
            receiver, _ = listener.accept()
            pump = threading.Thread(target=_pump, args=(sender,))
            pump.start()
            with receiver:
                _drain(receiver, 0.5)  # the burst, and what fits into buffers
                counted, took = _drain(receiver, seconds)
            pump.join()
    segment = 1448 - 50
    return counted * 8 / took * (segment + 66) / segment


def _pump(sender: object) -> None:
    with suppress(OSError):
        while True:
            sender.send(bytes(65536))  # type: ignore[attr-defined]


def _drain(receiver: object, seconds: float) -> tuple[int, float]:
    began, counted = time.monotonic(), 0
    while (now := time.monotonic()) < began + seconds:
        counted += len(receiver.recv(65536))  # type: ignore[attr-defined]
    return counted, now - began
