"""Listeners that come and go with Services, and the two ports of kube-proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from podnet.agent import proxy_metrics
from podnet.agent.proxy_health import HealthServers, serve
from podnet.agent.proxy_metrics import Pulse
from podnet.agent.serving import Serving
from podnet.kernel.outcome import ApplyError
from podnet.kernel.reconciler import Pass
from podnet.network.proxy.health import Progress
from podnet.network.view import HealthCheck
from podnet.state.host import Sysctl
from podnet.state.iptables import IptablesChain, IptablesJump
from podnet.state.nft import Element
from podnet.state.plan import Plan, Step
from podnet.state.resource import Resource

Port = Callable[[], int]
HOST = "127.0.0.1"


async def get(port: int, path: str = "/", host: str = HOST) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as answer:
        return answer.status, await answer.text(), dict(answer.headers)


@pytest.fixture
async def servers() -> AsyncIterator[HealthServers]:
    made = HealthServers(lambda: True)
    yield made
    await made.close()
    await asyncio.sleep(0)  # the loop's last turn, in which sockets are closed


async def test_each_port_answers_for_its_service(servers: HealthServers, unused_tcp_port_factory: Port):
    one, two = unused_tcp_port_factory(), unused_tcp_port_factory()
    await servers.update([HealthCheck("shop", "web", one, 2), HealthCheck("shop", "db", two, 0)], [HOST])
    status, body, headers = await get(one, "/any/path")
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
    assert '"name":"web"' in body
    assert (await get(two))[0] == 503
    await servers.update([HealthCheck("shop", "db", two, 1)], [HOST])
    assert (await get(two))[0] == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(one)
    await servers.update([HealthCheck("shop", "web", one, 2)], [HOST])
    assert (await get(one))[0] == 200


async def test_a_taken_port_is_reported_and_had_later(servers: HealthServers, unused_tcp_port_factory: Port):
    taken, other = unused_tcp_port_factory(), unused_tcp_port_factory()
    checks = [HealthCheck("shop", "web", taken, 1), HealthCheck("shop", "db", other, 1)]
    with socket.create_server((HOST, taken)):
        await servers.update(checks, [HOST])
        assert [(each.object, each.reason) for each in servers.problems] == [
            ("Service/shop/web", "HealthCheckPortTaken")
        ]
        assert (await get(other))[0] == 200
    await servers.update(checks, [HOST])
    assert servers.problems == ()
    assert (await get(taken))[0] == 200


async def test_an_unhealthy_proxy_turns_every_service_away(unused_tcp_port: int):
    servers = HealthServers(lambda: False)
    await servers.update([HealthCheck("shop", "web", unused_tcp_port, 3)], [HOST])
    status, body, _ = await get(unused_tcp_port)
    assert status == 503
    assert '"serviceProxyHealthy":false' in body
    await servers.close()


async def test_kube_proxys_ports(unused_tcp_port_factory: Port):
    healthz, metrics = unused_tcp_port_factory(), unused_tcp_port_factory()
    pulse, eligible, now = Pulse(), [True], [1000.0]
    runners = await serve(
        pulse,
        lambda: eligible[0],
        lambda: "userspace",
        lambda: {"kubeproxy.config.k8s.io": {"mode": "userspace"}},
        (HOST, healthz),
        (HOST, metrics),
        lambda: now[0],
    )
    try:
        assert (await get(healthz, "/healthz"))[0] == 200
        pulse.queued(1000.0, endpoints=1)
        now[0] = 1060.0
        assert [(await get(healthz, path))[0] for path in ("/healthz", "/livez")] == [503, 503]
        pulse.synced(1060.0, 0.01, False)
        eligible[0] = False
        assert [(await get(healthz, path))[0] for path in ("/healthz", "/livez")] == [503, 200]
        assert (await get(metrics, "/proxyMode"))[1] == "userspace"
        assert (await get(metrics, "/healthz"))[1] == "ok"
        slis = (await get(metrics, "/metrics/slis"))[1]
        assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0' in slis
        assert 'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"}' in slis
        assert (await get(metrics, "/configz"))[1] == '{"kubeproxy.config.k8s.io":{"mode":"userspace"}}'
        text = (await get(metrics, "/metrics"))[1]
        assert 'kubeproxy_proxy_healthz_total{code="503"}' in text
        assert 'kubeproxy_proxy_livez_total{code="200"}' in text
        assert "process_resident_memory_bytes" in text
        assert "_created" not in text
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_a_port_of_none_is_not_served_and_a_taken_one_is_an_error(unused_tcp_port: int):
    pulse = Pulse()
    assert await serve(pulse, lambda: True, str, dict, None, None) == []
    with socket.create_server((HOST, unused_tcp_port)), pytest.raises(OSError):
        await serve(pulse, lambda: True, str, dict, (HOST, unused_tcp_port), None)


def value(name: str, **labels: str) -> float:
    return proxy_metrics.REGISTRY.get_sample_value(f"kubeproxy_{name}", labels) or 0.0


def test_a_pulse_counts_what_came_and_what_was_done():
    pulse = Pulse(["IPv4"])
    family = {"ip_family": "IPv4"}
    before = value("sync_proxy_rules_endpoint_changes_total")
    programmed = value("network_programming_duration_seconds_count", **family)
    pulse.queued(100.0, services=1, endpoints=2, triggers=[("IPv4", 99.0), ("IPv6", 98.0)])
    pulse.queued(101.0, endpoints=1)
    assert pulse.progress.waiting == 100.0
    assert value("sync_proxy_rules_endpoint_changes_pending") == 3
    assert value("sync_proxy_rules_last_queued_timestamp_seconds", **family) == 101.0
    pulse.synced(102.0, 0.5, whole=True)
    assert pulse.progress == Progress(None, 102.0)
    assert value("sync_proxy_rules_endpoint_changes_total") == before + 3
    assert value("sync_proxy_rules_endpoint_changes_pending") == 0
    assert value("sync_proxy_rules_last_timestamp_seconds", **family) == 102.0
    assert value("network_programming_duration_seconds_count", **family) == programmed + 1
    assert value("network_programming_duration_seconds_bucket", le="3.0", **family) == programmed + 1


def test_failures_are_counted_by_mode():
    pulse, name = Pulse(), "sync_proxy_rules_nftables_sync_failures_total"
    before = [value(name, ip_family=family) for family in ("IPv4", "IPv6")]
    pulse.failed(100.0, "nftables", whole=False)
    pulse.failed(100.5, "nftables", whole=False, tables={"ip6"})
    pulse.failed(101.0, "userspace", whole=False)
    assert [value(name, ip_family=family) for family in ("IPv4", "IPv6")] == [before[0] + 1, before[1] + 2]
    assert pulse.progress == Progress(100.0), "nothing was queued, yet the kernel is not as it should be"


@pytest.mark.parametrize(("whole", "more"), [(True, 0), (False, 1)])
def test_a_refused_restore_of_what_changed_is_a_partial_one(whole: bool, more: int):
    partial = "sync_proxy_rules_iptables_partial_restore_failures_total"
    before = value(partial, ip_family="IPv4")
    Pulse(["IPv4"]).failed(100.0, "iptables", whole)
    assert value(partial, ip_family="IPv4") == before + more


CHAIN = IptablesChain("ip", "nat", "KUBE-SERVICES", ("-j A", "-j B"))
JUMP = IptablesJump("ip6", "filter", "INPUT", "-j KUBE-NODEPORTS")
EMPTY = IptablesChain("ip", "nat", "KUBE-SEP-A")


def test_iptables_rules_are_counted_by_table_and_family():
    assert proxy_metrics.rules([CHAIN, JUMP, EMPTY, Element("ip", "t", "s", "e")]) == {
        ("nat", "IPv4"): 2,
        ("filter", "IPv6"): 1,
    }
    registry = CollectorRegistry()
    registry.register(proxy_metrics.IptablesRules(lambda: [CHAIN]))
    labels = {"table": "nat", "ip_family": "IPv4"}
    assert registry.get_sample_value("kubeproxy_sync_proxy_rules_iptables_total", labels) == 2


def test_the_last_rules_written_are_those_of_the_last_pass_that_wrote_any():
    pulse, place = Pulse(["IPv4"]), {"table": "nat", "ip_family": "IPv4"}
    pulse.wrote([Step("add", CHAIN), Step("delete", CHAIN)])
    assert value("sync_proxy_rules_iptables_last", **place) == 2
    pulse.wrote([Step("add", Element("ip", "t", "s", "e"))])
    assert value("sync_proxy_rules_iptables_last", **place) == 2
    pulse.wrote([Step("change", IptablesChain("ip", "filter", "KUBE-FORWARD", ("-j DROP",)))])
    assert value("sync_proxy_rules_iptables_last", **place) == 0


OTHER = Sysctl("net/ipv4/ip_forward", "1")


@pytest.mark.parametrize(
    ("failed", "current", "waiting"),
    [(None, True, False), (OTHER, True, False), (Element("ip", "t", "s", "e"), True, True), (None, False, True)],
)
def test_what_load_balancers_hear_of_a_pass(failed: Resource | None, current: bool, waiting: bool):
    serving = Serving("n1", "/nowhere", lambda: None)
    serving.pulse.queued(1.0, services=1)
    errors = (ApplyError(failed, "add", 1),) if failed else ()
    serving.applied(0.1, False, Pass(Plan(), errors), current)
    assert (serving.pulse.progress.waiting is not None) is waiting


@pytest.mark.parametrize(
    "name",
    [
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "kubeproxy_network_programming_duration_seconds",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "kubeproxy_sync_proxy_rules_iptables_last",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
    ],
)
def test_the_names_are_kube_proxys(name: str):
    assert name in {metric.name for metric in proxy_metrics.REGISTRY.collect()}


async def test_only_where_node_ports_are(servers: HealthServers, unused_tcp_port: int) -> None:
    check = HealthCheck("shop", "web", unused_tcp_port, 2)
    await servers.update([check], ["127.0.0.1", "127.0.0.2"])
    assert (await get(unused_tcp_port, host="127.0.0.2"))[0] == 200
    await servers.update([check], ["127.0.0.1"])
    assert (await get(unused_tcp_port))[0] == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(unused_tcp_port, host="127.0.0.2")
