"""`podnet service`: a table and JSON of what the agents say, and a sentence when they can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.network.proxy.live import Live
from podnet.network.proxy.manners import Surroundings
from podnet.network.proxy.shown import ServiceShown, ServicesShown, Shown
from podnet.network.service_port import Endpoint, Segment, ServicePort
from podnet.network.view import Problem
from tests.cli.conftest import Agent, Podnet
from tests.cli.fakes import STATUS, make_lab

NEAR, FAR = Endpoint("10.244.0.2", 8080, True, 3), Endpoint("10.244.1.2", 8080, False, 1)
PORT = ServicePort(
    "demo", "web", "", "tcp", False, "10.96.0.1", 80, 30080,
    internal=(NEAR, FAR), external=(NEAR,), cluster=(NEAR, FAR), external_local=True, anywhere=True,
)  # fmt: skip
LIVE = Live({"10.244.0.9": "10.244.1.2"}, ("10.244.1.2",), {"10.244.0.2": 5})
AROUND = Surroundings(("127.0.0.2", "127.0.0.1"), ("10.244.0.0/24",), ("10.244.0.0/16",))
ONE = "services?namespace=demo&name=web"


def said(
    port: ServicePort | None = PORT, live: Live | None = LIVE, mode: str = "nftables", **more: Any
) -> dict[str, Any]:
    ports = (Shown(port, live),) if port else ()
    given: dict[str, Any] = {
        "type": "NodePort",
        "addresses": ("10.96.0.1",),
        "ready": 2,
        "total": 3,
        "held": True,
        "problems": (),
    }
    service = ServiceShown(**({"namespace": "demo", "name": "web", "ports": ports} | given | more))
    around = msgspec.structs.replace(AROUND, mode=mode)
    body: dict[str, Any] = msgspec.to_builtins(ServicesShown("node1", mode, "", around, (service,)))
    return body


def rows(out: str, first: str) -> list[list[str]]:
    """The words of the lines that begin so."""
    return [line.split() for line in out.splitlines() if line.startswith(first)]


def test_what_pods_and_others_meet(podnet: Podnet, agent: Agent) -> None:
    agent(**{ONE: said()})
    code, out, err = podnet("service", "describe", "web", "-n", "demo")
    assert (code, err) == (0, "")
    head, ready, *_ = out.splitlines()
    assert head == "Service demo/web, type NodePort, on node1 in mode nftables"
    assert ready == "2 of 3 endpoints are ready; the kernel holds all of it"
    assert rows(out, "10.96.0.1:80/tcp")[:2] == [
        ["10.96.0.1:80/tcp", "cluster", "pod", "10.244.0.2:8080", "75.0%", "client", "5", "-"],
        ["10.96.0.1:80/tcp", "cluster", "pod", "10.244.1.2:8080", "25.0%", "client", "0", "-"],
    ]
    assert [words[3] for words in rows(out, "127.0.0.2:30080/tcp")] == ["pod", "pod", "outside"]
    assert rows(out, "10.244.0.9") == [["10.244.0.9", "10.244.1.2", "demo/web"]]
    assert "127.0.0.1:" not in out


def test_from_a_pod_its_node_and_an_address(podnet: Podnet, agent: Agent, bare: Path) -> None:
    first, second = make_lab().nodes
    pod = {"container_id": "c", "ifname": "eth0", "netns": "/x", "addresses": ["10.244.0.9/24"], "pod": "demo/client"}
    one = agent(first.run_dir, attachments={"attachments": [pod]}, **{ONE: said()})
    two = agent(second.run_dir, status=STATUS | {"node": "node2"}, attachments={"attachments": []}, **{ONE: said()})
    for source in ("demo/client", "10.244.0.9", "node1", "198.51.100.7"):
        code, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", source, "-o", "json")
        assert code == 0
        assert {each["from"] for each in json.loads(out)["meetings"]} == {source}
    assert one.asked.count(ONE) == 4
    assert ONE not in two.asked
    assert podnet("service", "describe", "web", "-n", "demo", "--from", "node2")[0] == 0
    assert podnet("service", "describe", "web", "-n", "demo", "--from", "1.2.3.4", "--node", "node2")[0] == 0
    assert two.asked.count(ONE) == 2


def test_only_the_node_itself_meets_its_localhost(podnet: Podnet, agent: Agent) -> None:
    agent(attachments={"attachments": []}, **{ONE: said()})
    _, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", "127.0.0.2")
    assert rows(out, "127.0.0.1:30080/tcp")


def test_segments_and_affinity(podnet: Podnet, agent: Agent) -> None:
    change = msgspec.structs.replace
    split = change(PORT, segments=(Segment(("10.1.0.0/16",), (FAR,), (FAR,), (FAR,)),), affinity=60)
    agent(**{ONE: said(split)})
    _, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert "pod in 10.1.0.0/16" in out
    assert "affinity 60 s" in out


def test_retries_and_ranges(podnet: Podnet, agent: Agent) -> None:
    port = msgspec.structs.replace(PORT, retry=True, balancer_ips=("203.0.113.1",), source_ranges=("192.0.2.0/24",))
    agent(attachments={"attachments": []}, **{ONE: said(port)})
    _, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", "192.0.2.9")
    assert rows(out, "203.0.113.1:80/tcp")[0][-4:] == ["retry,", "only", "from", "192.0.2.0/24"]
    shares = [(words[3], words[4], words[7].rstrip(",")) for words in rows(out, "10.96.0.1:80/tcp")]
    assert shares == [("10.244.0.2:8080", "100.0%", "retry"), ("10.244.1.2:8080", "0.0%", "ejected")]
    _, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", "198.51.100.9")
    assert "dropped" in rows(out, "203.0.113.1:80/tcp")[0]
    assert "198.51.100.9 is in no range of loadBalancerSourceRanges" in out


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"held": False}, "the kernel LACKS something of it"),
        ({"problems": (Problem("Service/demo/web", "NoRetry", "only for TCP"),)}, "Service/demo/web: only for TCP"),
    ],
)
def test_what_is_wrong_is_said_and_told_by_the_exit_code(
    podnet: Podnet, agent: Agent, more: dict[str, Any], word: str
) -> None:
    agent(**{ONE: said(**more)})
    code, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert code == 1
    assert word in out


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"addresses": ("None",)}, "headless"),
        ({"type": "ExternalName", "addresses": ()}, "only another name"),
        ({"addresses": ()}, "no cluster address"),
    ],
)
def test_services_without_a_frontend(podnet: Podnet, agent: Agent, more: dict[str, Any], why: str) -> None:
    agent(**{ONE: said(None, **more)})
    code, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert code == 0
    assert why in out


KEPT = Live({"10.244.0.9": "10.244.1.2"}, (), {"10.244.0.2": 5})
AT = Live({}, (), {"10.244.0.2": 5}, {"10.96.0.1:80": {"10.244.0.9": "10.244.1.2"}}, {"10.244.0.2": 2})


@pytest.mark.parametrize(
    ("mode", "live", "rest", "stays"),
    [
        ("iptables", KEPT, ["50.0%", "client", "5", "affinity 60 s"], "demo/web"),
        (
            "userspace",
            KEPT,
            ["75.0%", "client", "5", "affinity 60 s, next after 0.25, 0.5, 1, 2 s, round-robin"],
            "demo/web",
        ),
        ("ipvs", AT, ["75.0%", "client", "5", "affinity 60 s, 2 inactive, round-robin"], "demo/web at 10.96.0.1:80"),
    ],
)
def test_other_modes(podnet: Podnet, agent: Agent, mode: str, live: Live, rest: list[str], stays: str) -> None:
    agent(**{ONE: said(msgspec.structs.replace(PORT, affinity=60), live, mode), "attachments": {"attachments": []}})
    code, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert code == 0
    assert out.splitlines()[0].endswith(f"in mode {mode}")
    row = next(line for line in out.splitlines() if line.startswith("10.96.0.1:80/tcp"))
    assert row.split(None, 7)[4:] == rest
    assert f"10.244.0.9 10.244.1.2 {stays}" in [" ".join(line.split()) for line in out.splitlines()]
    _, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", "10.244.0.9")
    assert [words[4] for words in rows(out, "10.96.0.1:80/tcp")] == ["0.0%", "100.0%"]
    at_node_port = [words[5] for words in rows(out, "127.0.0.2:30080/tcp")]
    assert at_node_port == (["100.0%"] if mode == "ipvs" else ["0.0%", "100.0%"])


@pytest.mark.parametrize(("port", "mode"), [(None, "none"), (PORT, "none"), (PORT, "ebpf")])
def test_no_mode(podnet: Podnet, agent: Agent, port: ServicePort | None, mode: str) -> None:
    agent(**{ONE: said(port, mode=mode)})
    code, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert code == 0
    assert f"no frontend leads here: spec.proxy.mode is {mode}" in out


def test_what_a_mode_does_not_serve(podnet: Podnet, agent: Agent) -> None:
    agent(**{ONE: said(msgspec.structs.replace(PORT, protocol="sctp"), mode="userspace")})
    _, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert rows(out, "10.96.0.1:80/sctp")[0][3:] == [
        "unserved",
        *["-", "-", "-", "mode", "userspace", "has", "no", "SCTP"],
    ]


def test_affinity_gives_a_client_to_one_endpoint_and_others_families_are_left_out(podnet: Podnet, agent: Agent) -> None:
    four = msgspec.structs.replace(PORT, affinity=60)
    six = msgspec.structs.replace(four, v6=True, cluster_ip="fd96::1", internal=(), external=(), cluster=())
    body = said(four)
    body["services"][0]["ports"] += (msgspec.to_builtins(Shown(six, Live({"0x12345678": "fd00::7"}))),)
    agent(attachments={"attachments": []}, **{ONE: body})
    _, out, _ = podnet("service", "describe", "web", "-n", "demo", "--from", "10.244.0.9")
    assert [words[3:5] for words in rows(out, "10.96.0.1:80/tcp")] == [
        ["10.244.0.2:8080", "0.0%"],
        ["10.244.1.2:8080", "100.0%"],
    ]
    assert rows(out, "10.244.0.9")
    assert "0x12345678" not in out
    _, out, _ = podnet("service", "describe", "web", "-n", "demo")
    assert rows(out, "0x12345678")
    assert "75.0%" in out


def test_of_the_other_family(podnet: Podnet, agent: Agent) -> None:
    agent(attachments={"attachments": []}, **{ONE: said()})
    assert "IP family" in podnet("service", "describe", "web", "-n", "demo", "--from", "fd00::1")[1]


def test_mistakes_are_sentences(podnet: Podnet, agent: Agent) -> None:
    none = msgspec.to_builtins(ServicesShown("node1", "nftables"))
    waiting = msgspec.to_builtins(ServicesShown("node1", reason="the API server was not heard yet"))
    agent(**{"services?namespace=default&name=web": none, "services?brief=1": waiting, ONE: {"node": 7}})
    for args, sentence in {
        ("describe", "web"): "there is no Service web in namespace default",
        ("describe", "web", "--from", "nobody"): "--from nobody is no address and no pod or node here",
        ("list",): "the API server was not heard yet",
        ("describe", "web", "-n", "demo"): "of another version",
        ("describe",): "Missing argument",
    }.items():
        code, out, err = podnet("service", *args)
        assert (code, out) == (2, "")
        assert sentence in err
        assert len(err.splitlines()) == 1


def test_no_agent(podnet: Podnet, bare: Path) -> None:
    code, _, err = podnet("service", "list")
    assert code == 2
    assert "no agent runs" in err


def test_the_list(podnet: Podnet, agent: Agent) -> None:
    agent(**{"services?brief=1": said(live=None), "services?namespace=demo&brief=1": said(None, problems=(PROBLEM,))})
    code, out, _ = podnet("service", "list")
    assert code == 0
    assert out.splitlines()[1].split() == [
        "demo", "web", "NodePort", "nftables", "10.96.0.1:80/tcp", "*:30080/tcp", "2/3", "-",
    ]  # fmt: skip
    code, out, _ = podnet("service", "list", "-n", "demo")
    assert code == 1
    assert "taken" in out


PROBLEM = Problem("Service/demo/web", "FrontendTaken", "taken")


def test_help_has_examples(podnet: Podnet) -> None:
    for words in (("list",), ("describe",)):
        code, out, _ = podnet("service", *words, "--help")
        assert code == 0
        assert "Examples:" in out
        assert "Exit codes:" in out
