"""Suite services: how the proxy modes grow, how quick a change is, and what a Service costs its clients.

The first load of tens of thousands of endpoints, beside what other proxies write for the same Services; one endpoint
that changes, in this process and from the API to the kernel; connections through a Service against one NAT rule; mode
userspace against mode nftables; and connections while half of the endpoints are dead. Each part is a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.bench import service_change, service_load, service_path, service_retry
from podnet.bench.figures import Figure

NAME = "services"


def suite() -> Iterator[Figure]:
    """Every figure of the suite; runs in the arena."""
    yield from service_load.first(NAME)
    yield from service_change.in_process(NAME)
    yield from service_path.connections(NAME)
    yield from service_path.throughput(NAME)
    yield from service_retry.refusals(NAME)
    yield from service_change.end_to_end(NAME)
