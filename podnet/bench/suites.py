"""Which suites there are: one line each. A suite is a generator function of figures, imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

from podnet.bench.figures import Figure

Suite = Callable[[], Iterator[Figure]]

SUITES: Mapping[str, tuple[str, str]] = {
    "cni": ("podnet.bench.cni:suite", "ADD and DEL of a pod, against the plugins bridge, host-local and portmap"),
    "path": ("podnet.bench.path:suite", "TCP between pods of two nodes, against the same paths made by hand with ip"),
    "plan": ("podnet.bench.plan:suite", "the pure core and the kernel edge with 1,000 to 10,000 of everything"),
    "dns": ("podnet.bench.dns:suite", "cluster DNS: kubedns with 10,000 Services, dnsmasq in front, names that change"),
    "services": (
        "podnet.bench.services:suite",
        "Services: first load, one change among 50,000 endpoints, connections, userspace",
    ),
}


def load(name: str) -> Suite:
    """The suite of this name; raises KeyError."""
    module, attribute = SUITES[name][0].split(":")
    suite: Suite = getattr(importlib.import_module(module), attribute)
    return suite
