"""`podnet dns trace`: a pod's search in a cluster whose DNS servers are functions, each of which can be made to err."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self

import pytest

from podnet.cli import dns_walk
from podnet.cli.target import AgentAway, Node
from podnet.network.dns.answers import Elsewhere, answer
from podnet.network.dns.tracing import Counters, Heard, heard
from podnet.network.dns.zone import Options, zone
from podnet.network.reach import Endpoint
from podnet.objects.cluster import Cluster
from podnet.objects.core import ConfigMap
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import DnsSpec, NetworkConfig, NetworkSpec
from podnet.objects.services import Service, ServiceSpec
from podnet.wire import dns
from tests.cli.conftest import Agent, Podnet
from tests.network.dns.names import cluster, service
from tests.network.dns.test_tracing import kube_dns

POD = {"container_id": "c", "ifname": "eth0", "netns": "", "addresses": ["10.244.0.5/24"], "pod": "demo/client"}
CONF = "nameserver 10.96.0.10\nsearch demo.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
SVC = "svc.cluster.local"
OUTSIDE = {b"\3www\7example\4test\0": "192.0.2.1"}
Says = Callable[[str, int], Heard]


def world(*objects: Service) -> Cluster:
    """The DNS Service, its pods and a Service web."""
    servers = kube_dns("--dns-port=10053", "--config-map=kube-dns")
    own = Service(ObjectMeta(name="kube-dns", namespace="kube-system"), ServiceSpec(cluster_ip="10.96.0.10"))
    found = cluster(service("web", "10.96.0.7"), *objects)
    found = found.with_objects("services", {**found.services, own.key: own})
    found = found.with_objects("pods", servers.pods)
    return found.with_objects("endpointslices", {**found.endpointslices, **servers.endpointslices})


class Servers:
    """What stands at each address and port; `said`: questions in order."""

    def __init__(self, truth: Cluster) -> None:
        self.truth = zone(truth, Options())
        self.at: dict[tuple[str, int], Says] = {}
        self.counted = Counters(0, 0, ("127.0.0.1#10053",))
        self.behind = "10.244.0.9"
        self.said: list[tuple[str, str]] = []
        self.aa = True

    def right(self, name: str, type_: int) -> Heard:
        query = dns.read_query(dns.question(0, dns.lower(dns.name(name)), type_))
        found = answer(self.truth, query)
        if isinstance(found, Elsewhere):
            address = OUTSIDE.get(found.name)
            records = [dns.record(dns.A, 60, bytes(map(int, address.split("."))))] if address and type_ == dns.A else []
            found = dns.answer(query, dns.piece(records), dns.NOERROR if address else dns.REFUSED, 0)
        return heard(dns.read(found), 0.001)


class Talk:
    """As daemons/dns_talk.py."""

    def __init__(self, servers: Servers, address: str, port: int) -> None:
        self._servers, self._at = servers, (address, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, name: str, type_: int, seconds: float, tries: int = 1) -> Heard:
        self._servers.said.append((self._at[0], name))
        return self._servers.at.get(self._at, self._servers.right)(name, type_)

    def counters(self) -> Counters | None:
        return None if self._at[1] == 10053 else self._servers.counted

    def behind(self, node_netns: str) -> str:
        return self._servers.behind


@pytest.fixture
def servers(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Servers:
    agent(attachments={"attachments": [POD]})
    found = world()
    known = Servers(found)

    async def the_cluster(_: object) -> Cluster:
        return found

    monkeypatch.setattr(dns_walk, "_cluster", the_cluster)
    monkeypatch.setattr(dns_walk, "resolv_conf", lambda pod: CONF)
    monkeypatch.setattr(dns_walk, "_talk", lambda netns, address, port=53: Talk(known, address, port))
    return known


def trace(podnet: Podnet, *words: str, code: int = 0) -> dict[str, Any]:
    found, out, err = podnet("dns", "trace", *words, "--from", "demo/client", "-o", "json")
    assert (found, err) == (code, ""), out
    value: dict[str, Any] = json.loads(out)
    return value


def test_each_step_and_who_answered_it(podnet: Podnet, servers: Servers) -> None:
    value = trace(podnet, "web.demo")
    assert [step["name"] for step in value["steps"]] == [f"web.demo.demo.{SVC}.", f"web.demo.{SVC}."]
    first, second = (step["asked"] for step in value["steps"])
    assert [(each["type"], each["rcode"]) for each in first] == [("A", "NXDOMAIN"), ("AAAA", "NXDOMAIN")]
    assert second[0]["answers"][0]["text"] == "10.96.0.7"
    assert (second[0]["by"], second[0]["from"]) == ("kube-system/kube-dns-1 dnsmasq", "kubedns")
    assert (value["found"], value["faults"]) == (True, [])
    pods = [address for address, _ in servers.said]
    assert {*pods[:4]} == {"10.96.0.10"}, "the pod's own questions come first"
    assert {*pods[4:]} == {"10.244.0.8", "10.244.0.9"}
    code, out, _ = podnet("dns", "trace", "web.demo", "--from", "client", "--type", "a")
    assert code == 0
    assert (
        "step 1: there is no Service demo in namespace demo, so nothing below it; web of namespace demo is web" in out
    )


def test_not_found(podnet: Podnet, servers: Servers) -> None:
    value = trace(podnet, "wbe", "--type", "A", code=1)
    assert len(value["steps"]) == 4
    assert value["steps"][0]["asked"][0]["instead"] == [f"web.demo.{SVC}"]
    assert value["steps"][3]["asked"][0]["from"] == "itself: no server for it"
    assert "upstreamNameservers of ConfigMap kube-system/kube-dns" in value["faults"][-1]
    assert podnet("dns", "trace", "wbe", "--from", "demo/client")[1].endswith("wbe was not found\n")


def test_a_search_that_costs(podnet: Podnet, servers: Servers) -> None:
    value = trace(podnet, "www.example.test")
    assert "it took 8 questions" in value["advice"]
    assert trace(podnet, "www.example.test.")["advice"] == ""


def test_a_stale_cache(podnet: Podnet, servers: Servers) -> None:
    servers.at["10.244.0.9", 53] = lambda name, type_: Heard(dns.NXDOMAIN, False, (), 12)
    (fault,) = trace(podnet, f"web.demo.{SVC}.", "--type", "A", code=1)["faults"]
    assert "kube-dns-1: dnsmasq says NXDOMAIN" in fault
    assert "for 12 s at most" in fault


def test_the_nodes_own_cache(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.counted = Counters(0, 0, ("169.254.20.11#53",))

    def by(node_local: bool) -> str:
        spec = NetworkSpec(dns=DnsSpec(node_local=node_local))
        config = NetworkConfig(ObjectMeta(name="default"), spec)

        async def the_cluster(_: object) -> Cluster:
            return world().with_objects("networkconfigs", {config.key: config})

        monkeypatch.setattr(dns_walk, "_cluster", the_cluster)
        return str(trace(podnet, f"web.demo.{SVC}.", "--type", "A")["steps"][0]["asked"][0]["by"])

    assert by(True) == "dnsmasq of node node1"
    assert by(False) == "kube-system/kube-dns-1 dnsmasq"
    monkeypatch.setattr(dns_walk, "resolv_conf", lambda pod: "nameserver 192.0.2.53")
    assert by(True) == "192.0.2.53"


def test_while_the_agent_is_away(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(node: Node) -> list[Endpoint]:
        raise AgentAway("no agent runs")

    monkeypatch.setattr(dns_walk, "endpoints", away)
    code, _, err = podnet("dns", "trace", "a", "--from", "demo/client")
    assert (code, "left out: no agent runs" in err) == (2, True)
    pods = [Endpoint("k", "demo/client", "pod", "node1", "", ("10.244.0.5",))]
    monkeypatch.setattr(dns_walk, "endpoints_on_record", lambda node: pods)
    assert trace(podnet, "web", "--type", "A")["found"]


def test_one_of_several_when_nobody_tells_which(podnet: Podnet, servers: Servers) -> None:
    servers.behind = ""
    by = trace(podnet, f"web.demo.{SVC}.", "--type", "A")["steps"][0]["asked"][0]["by"]
    assert by == "kube-system/kube-dns-1 dnsmasq"


def test_servers_that_are_silent(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_walk, "resolv_conf", lambda pod: f"nameserver 192.0.2.9\n{CONF}")
    servers.at["192.0.2.9", 53] = lambda name, type_: Heard(error="no answer")
    value = trace(podnet, f"web.demo.{SVC}.", "--type", "A", code=1)
    assert value["steps"][0]["asked"][0]["server"] == "10.96.0.10"
    assert value["faults"] == [f"192.0.2.9 says about web.demo.{SVC}. A: no answer"]


def test_a_stub_domain_that_is_silent(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ("kube-system", "kube-dns")
    config = ConfigMap(ObjectMeta(name=key[1], namespace=key[0]), {"stubDomains": '{"corp.test": ["192.0.2.7"]}'})
    found = world().with_objects("configmaps", {key: config})

    async def the_cluster(_: object) -> Cluster:
        return found

    monkeypatch.setattr(dns_walk, "_cluster", the_cluster)
    servers.at["10.96.0.10", 53] = lambda name, type_: Heard(error="no answer")
    servers.at["192.0.2.7", 53] = lambda name, type_: Heard(error="no answer")
    value = trace(podnet, "db.corp.test.", "--type", "A", code=1)
    assert "192.0.2.7:53 (stub domain corp.test) gives demo/client no answer either (no answer)" in value["faults"]


def test_no_server_is_ready(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def the_cluster(_: object) -> Cluster:
        return world().with_objects("endpointslices", {})

    monkeypatch.setattr(dns_walk, "_cluster", the_cluster)
    servers.at["10.96.0.10", 53] = lambda name, type_: Heard(error="Connection refused")
    value = trace(podnet, "web", code=1)
    assert value["faults"] == ["no pod behind Service kube-system/kube-dns is ready, so nobody can answer there"]
    assert [each["rcode"] for each in value["steps"][0]["asked"]] == ["Connection refused"], "it is enough to wait once"


def test_addresses_and_what_is_no_name(podnet: Podnet, servers: Servers) -> None:
    assert trace(podnet, "10.96.0.7")["steps"][0]["asked"][0]["answers"][0]["text"] == f"web.demo.{SVC}"
    assert podnet("dns", "trace", "a..b", "--from", "demo/client")[0] == 2
    code, _, err = podnet("dns", "trace", "a", "--from", "demo/nobody")
    assert (code, "write it as demo/client" in err) == (2, True)


def test_only_root_can_ask_for_a_pod(podnet: Podnet, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert podnet("dns", "trace", "a", "--from", "demo/client")[0] == 2
