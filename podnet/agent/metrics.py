"""What the agent counts, for Prometheus. Names follow the field's conventions: base units, `_total` for counters."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from podnet.kernel.outcome import summed
from podnet.kernel.reconciler import Pass
from podnet.network.view import NodeView

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()

PASSES = Counter("podnet_reconcile_passes", "Reconciliation passes.", ["result"], registry=REGISTRY)
PASS_SECONDS = Histogram(
    "podnet_reconcile_duration_seconds",
    "Time of one pass, from desired state to the kernel's last acknowledgement.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=REGISTRY,
)
STEPS = Counter("podnet_reconcile_steps", "Kernel changes by verb and kind.", ["verb", "kind"], registry=REGISTRY)
DRIFT = Counter("podnet_drift_events", "Passes caused by someone else changing what is ours.", registry=REGISTRY)
UNSETTLED = Gauge("podnet_unsettled_units", "Features and pods that are not as desired yet.", registry=REGISTRY)
READY = Gauge("podnet_ready", "1 when pods can be attached.", registry=REGISTRY)
ATTACHMENTS = Gauge("podnet_attachments", "Pod interfaces on this node.", registry=REGISTRY)
PEERS = Gauge("podnet_peers", "Other nodes that this node has paths to.", registry=REGISTRY)
PROBLEMS = Gauge("podnet_problems", "Mistakes in cluster objects that can't be honoured.", registry=REGISTRY)
EJECTIONS = Counter(
    "podnet_service_ejections", "Endpoints that began to be passed over.", ["service"], registry=REGISTRY
)
EJECTED = Gauge("podnet_service_ejected", "Endpoints that are passed over now.", ["service"], registry=REGISTRY)
DNS_CACHE = Gauge("podnet_dns_cache_up", "1 while queries are led to the node's DNS cache.", registry=REGISTRY)
DNS_CACHE_FALLS = Counter("podnet_dns_cache_falls", "Times the node's DNS cache stopped answering.", registry=REGISTRY)
DNS_CACHE_CLEARED = Counter(
    "podnet_dns_cache_cleared", "Times it was cleared because it was wrong of a name.", registry=REGISTRY
)
DNS_CACHE_COUNTERS = {
    "hits": Gauge("podnet_dns_cache_hits", "Queries that it answered by itself since its start.", registry=REGISTRY),
    "misses": Gauge("podnet_dns_cache_misses", "Queries that it forwarded since its start.", registry=REGISTRY),
    "evictions": Gauge("podnet_dns_cache_evictions", "Answers it gave up before their time.", registry=REGISTRY),
}
DNS_LIMITED = Gauge("podnet_dns_limited_pods", "Pods of which queries were dropped lately.", registry=REGISTRY)
CNI = Histogram(
    "podnet_cni_duration_seconds",
    "Time of one CNI call in the agent, by command and CNI error code (0 is success).",
    ["command", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 10),
    registry=REGISTRY,
)


def count(done: Pass, drifted: bool, seconds: float, seen: NodeView) -> None:
    """One pass, into the metrics and the log."""
    PASSES.labels("failed" if done.failed else "ok").inc()
    PASS_SECONDS.observe(seconds)
    DRIFT.inc(drifted)
    UNSETTLED.set(len(done.unsettled))
    ATTACHMENTS.set(len(seen.attachments))
    PEERS.set(len(seen.peers))
    for step in done.plan.steps:
        STEPS.labels(step.verb, step.resource.kind).inc()
    if done.plan:
        log.info(
            "pass: %d steps in %.1f ms%s", len(done.plan.steps), seconds * 1e3, ", repairing drift" if drifted else ""
        )
    for sentence in summed(done.failed):
        log.error("%s", sentence)
