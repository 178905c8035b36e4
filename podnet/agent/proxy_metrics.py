"""kube-proxy's metrics under kube-proxy's names, for dashboards and alerts that exist; served on port 10249.

`Pulse` is where the agent says what happens to Services: `queued` when a change of Services, slices or settings came,
`synced` after each pass that had them, `failed` after one that the kernel refused, which also feeds the health servers
(agent/proxy_health.py). What kube-proxy has and podnet can't fill is named in docs/services.md.
Source: k8s.io/kubernetes pkg/proxy/metrics/metrics.go, k8s.io/component-base metrics/prometheus/slis.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from podnet.network.proxy.health import Progress
from podnet.state.iptables import IptablesChain, IptablesJump
from podnet.state.plan import Step
from podnet.state.resource import Resource

disable_created_metrics()  # type: ignore[no-untyped-call]  # kube-proxy has none
REGISTRY, SLIS = CollectorRegistry(), CollectorRegistry()
"""What is at /metrics and at /metrics/slis."""

ProcessCollector(registry=REGISTRY)

FAMILIES = {False: "IPv4", True: "IPv6"}
_SYNC = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
_FAMILY = ["ip_family"]


def _name(name: str) -> str:
    return f"kubeproxy_{name}"


def _histogram(name: str, text: str, buckets: Iterable[float] = _SYNC) -> Histogram:
    return Histogram(_name(name), text, _FAMILY, registry=REGISTRY, buckets=tuple(buckets))


def _gauge(name: str, text: str, labels: Iterable[str] = _FAMILY) -> Gauge:
    return Gauge(_name(name), text, tuple(labels), registry=REGISTRY)


def _counter(name: str, text: str, labels: Iterable[str] = _FAMILY) -> Counter:
    return Counter(_name(name), text, tuple(labels), registry=REGISTRY)


SYNC = _histogram("sync_proxy_rules_duration_seconds", "Time of a pass.")
SYNC_FULL = _histogram("sync_full_proxy_rules_duration_seconds", "Time of a pass that read the whole kernel.")
SYNC_PARTIAL = _histogram("sync_partial_proxy_rules_duration_seconds", "Time of a pass over what changed only.")
PROGRAMMING = _histogram(
    "network_programming_duration_seconds", "From the change in the cluster to the rules in the kernel.", _PROGRAMMING
)
LAST_SYNC = _gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last brought up to date.")
LAST_QUEUED = _gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a change last came.")
ENDPOINT_CHANGES_PENDING = _gauge("sync_proxy_rules_endpoint_changes_pending", "Slices not in the kernel yet.", ())
ENDPOINT_CHANGES = _counter("sync_proxy_rules_endpoint_changes_total", "Slices that changed.", ())
SERVICE_CHANGES_PENDING = _gauge("sync_proxy_rules_service_changes_pending", "Services not in the kernel yet.", ())
SERVICE_CHANGES = _counter("sync_proxy_rules_service_changes_total", "Services that changed.", ())
IPTABLES_LAST = _gauge("sync_proxy_rules_iptables_last", "Rules last written.", ["table", "ip_family"])
IPTABLES_FAILURES = _counter("sync_proxy_rules_iptables_restore_failures_total", "Restores that failed.")
IPTABLES_PARTIAL_FAILURES = _counter(
    "sync_proxy_rules_iptables_partial_restore_failures_total", "Partial restores that failed."
)
NFTABLES_FAILURES = _counter("sync_proxy_rules_nftables_sync_failures_total", "Transactions that failed.")
NFTABLES_CLEANUP_FAILURES = _counter("sync_proxy_rules_nftables_cleanup_failures_total", "Clean-ups that failed.")
NO_LOCAL_ENDPOINTS = _gauge(
    "sync_proxy_rules_no_local_endpoints_total",
    "Services whose policy is Local and that have no endpoint here.",
    ["ip_family", "traffic_policy"],
)
HEALTHZ = _counter("proxy_healthz_total", "Answers of /healthz.", ["code"])
LIVEZ = _counter("proxy_livez_total", "Answers of /livez.", ["code"])
CONNTRACK = _histogram("conntrack_reconciler_sync_duration_seconds", "Time of forgetting stale flows.")
CONNTRACK_DELETED = _counter("conntrack_reconciler_deleted_entries_total", "Flows that were forgotten.")
CHECK = Gauge("kubernetes_healthcheck", "What a check last said: 1 is well.", ["name", "type"], registry=SLIS)
CHECKS = Counter(
    "kubernetes_healthchecks_total", "Checks by what they said.", ["name", "status", "type"], registry=SLIS
)

FAILURES: Mapping[str, Counter] = {"nftables": NFTABLES_FAILURES, "iptables": IPTABLES_FAILURES}
"""By mode: what counts a pass that the kernel refused."""

_IP = {"ip": "IPv4", "ip6": "IPv6"}
Rules = collections.Counter[tuple[str, str]]
"""How many, by table and family (as in FAMILIES)."""


def rules(resources: Iterable[Resource]) -> Rules:
    """The iptables rules among them."""
    found: Rules = collections.Counter()
    for each in resources:
        if isinstance(each, IptablesChain):
            found[each.table, _IP[each.family]] += len(each.rules or ())
        elif isinstance(each, IptablesJump):
            found[each.table, _IP[each.family]] += 1
    return found


class IptablesRules(Collector):
    """Counts the rules when it is asked: there may be a hundred thousand, and nobody may ask."""

    def __init__(self, resources: Callable[[], Iterable[Resource]]) -> None:
        self._resources = resources

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Its name, without counting."""
        yield GaugeMetricFamily(_name("sync_proxy_rules_iptables_total"), "", labels=["table", "ip_family"])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The sums."""
        text = "Rules that there are."
        found = GaugeMetricFamily(_name("sync_proxy_rules_iptables_total"), text, labels=["table", "ip_family"])
        for place, number in sorted(rules(self._resources()).items()):
            found.add_metric(place, number)
        yield found


def forgotten(family: str, seconds: float, flows: int) -> None:
    """So many flows of a family (as in FAMILIES) were forgotten, which took so long."""
    CONNTRACK.labels(family).observe(seconds)
    CONNTRACK_DELETED.labels(family).inc(flows)


def pinged() -> None:
    """Somebody asked /healthz of the metrics' port and was told that all is well."""
    CHECK.labels("ping", "healthz").set(1)
    CHECKS.labels("ping", "success", "healthz").inc()


class Pulse:
    """How far the kernel is behind the cluster. `families`: those of the cluster, as in FAMILIES; times in seconds."""

    def __init__(self, families: Iterable[str] = ("IPv4", "IPv6")) -> None:
        self.families = tuple(families)
        self.progress = Progress()
        self._triggers: list[tuple[str, float]] = []

    def queued(
        self, now: float, services: int = 0, endpoints: int = 0, triggers: Iterable[tuple[str, float]] = ()
    ) -> None:
        """So many Services and slices changed; `triggers` are the slices' families and times (health.trigger_time)."""
        self._wait(now)
        self._triggers += triggers
        SERVICE_CHANGES.inc(services)
        SERVICE_CHANGES_PENDING.inc(services)
        ENDPOINT_CHANGES.inc(endpoints)
        ENDPOINT_CHANGES_PENDING.inc(endpoints)
        for family in self.families:
            LAST_QUEUED.labels(family).set(now)

    def _wait(self, now: float) -> None:
        since = now if self.progress.waiting is None else self.progress.waiting
        self.progress = Progress(since, self.progress.updated)

    def synced(self, now: float, seconds: float, whole: bool) -> None:
        """A pass of so many seconds brought all that was queued before it into the kernel."""
        self.progress = Progress(None, now)
        triggers, self._triggers = self._triggers, []
        SERVICE_CHANGES_PENDING.set(0)
        ENDPOINT_CHANGES_PENDING.set(0)
        for family in self.families:
            LAST_SYNC.labels(family).set(now)
            SYNC.labels(family).observe(seconds)
            (SYNC_FULL if whole else SYNC_PARTIAL).labels(family).observe(seconds)
        for family, trigger in triggers:
            PROGRAMMING.labels(family).observe(max(0.0, now - trigger))

    def failed(self, now: float, mode: str, whole: bool, tables: Iterable[str] = ("inet",)) -> None:
        """A pass was refused: what is queued stays queued, and even if nothing is, the kernel waits for something.
        `tables` are the families of the tables that stayed as they were: ip, ip6, inet."""
        self._wait(now)
        for family in {each for table in tables for each in ((_IP[table],) if table in _IP else self.families)}:
            if mode in FAILURES:
                FAILURES[mode].labels(family).inc()
            if mode == "iptables" and not whole:
                IPTABLES_PARTIAL_FAILURES.labels(family).inc()

    def wrote(self, steps: Iterable[Step]) -> None:
        """These steps were carried out; those that write no iptables rule say nothing about the last that did."""
        found = rules(step.resource for step in steps if step.verb != "delete")
        for place in found and [(table, family) for table in ("filter", "nat") for family in self.families]:
            IPTABLES_LAST.labels(*place).set(found[place])
