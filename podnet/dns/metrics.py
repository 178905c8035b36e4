"""What kubedns counts, for Prometheus, under the names that kube-dns took from SkyDNS.

An answer that is one look into the zone takes some microseconds, about what counting it in a histogram would. It is
counted by adding one, and told as one of the shortest requests.
Source: github.com/skynetservices/skydns metrics; coredns_kubernetes_dns_programming_duration_seconds of CoreDNS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from podnet.wire import dns

REGISTRY = CollectorRegistry()
SYSTEM = {"system": "reverse"}

ERRORS = Counter(
    "skydns_skydns_dns_error_count", "Answers with an error, by RCODE.", ["system", "cause"], registry=REGISTRY
)
DURATION = Histogram(
    "skydns_skydns_dns_request_duration_seconds",
    "Time of an answer that took more than one look into the zone.",
    ["system"],
    buckets=(0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
    registry=REGISTRY,
)
SIZE = Histogram(
    "skydns_skydns_dns_response_size_bytes",
    "Size of such an answer.",
    ["system"],
    buckets=(0, 512, 1024, 1500, 2048, 4096, 65536),
    registry=REGISTRY,
)
SERVICES = Gauge("podnet_dns_services", "Services in the zone.", registry=REGISTRY)
SWAP_SECONDS = Histogram(
    "podnet_dns_zone_seconds",
    "Time to make a zone of what the watch brought.",
    buckets=(0.0001, 0.001, 0.01, 0.1, 1, 10),
    registry=REGISTRY,
)
INVALID = Counter("podnet_dns_invalid_settings", "Settings of the ConfigMap with a fault.", registry=REGISTRY)
LOOPING = Gauge("podnet_dns_looping_servers", "Servers for other names that lead back here.", registry=REGISTRY)

_TELLING = (dns.FORMERR, dns.SERVFAIL, dns.NXDOMAIN, dns.NOTIMP, dns.REFUSED)


def seen(rcode: int, size: int, seconds: float) -> None:
    """An answer that took more than a look."""
    DURATION.labels("kubedns").observe(seconds)
    SIZE.labels("kubedns").observe(size)
    if rcode in _TELLING:
        ERRORS.labels("kubedns", dns.RCODES[rcode].lower()).inc()


class Requests(Collector):
    """How many requests there were; `quick()` of them took one look."""

    def __init__(self, quick: Callable[[], int], others: Callable[[], int]) -> None:
        self._quick = quick
        self._others = others
        REGISTRY.register(self)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        name = "skydns_skydns_dns_request_count"
        family = CounterMetricFamily(name, "Requests, by how they were answered.", labels=["system"])
        family.add_metric(["lookup"], self._quick())
        family.add_metric(["kubedns"], self._others())
        yield family
