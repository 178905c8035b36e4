"""A lab's cluster DNS: the classic add-on (podnet/dns/manifest.py), as pods, since the API serves no Deployments.

Pods ask at the tenth address of the Services' range, which the Service takes before any pod starts. The servers
themselves may come last: pods start without them, and they become ready while the rest goes on.
"""

from __future__ import annotations

from typing import Any

from podnet.dns import manifest
from podnet.lab.process import BIN
from podnet.lab.registry import Lab, dns_addresses
from podnet.lab.supervisor import OWN_TRUST
from podnet.objects.kinds import CONFIGMAPS, PODS, SERVICES, Kind

Json = dict[str, Any]

REPLICAS = 2
USER = f"system:serviceaccount:{manifest.NAMESPACE}:{manifest.NAME}"
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{manifest.NAMESPACE}")


def setting(lab: Lab) -> manifest.Setting:
    """In the words of the manifest."""
    return manifest.Setting(
        addresses=tuple(dns_addresses(lab.dual_stack)),
        image="podnet-dns",
        program=f"{BIN}/podnet",
        kubeconfig=lab.dns_kubeconfig,
        variables=(("TMPDIR", lab.scratch), *OWN_TRUST.items()),
    )


def front(lab: Lab) -> list[tuple[Kind, Json]]:
    """What pods ask, and what an administrator may change."""
    return [(SERVICES, manifest.service(setting(lab))), (CONFIGMAPS, manifest.config_map())]


def servers(lab: Lab) -> list[tuple[Kind, Json]]:
    """Two pods, one in a lab of one node; the scheduler puts them where there are the fewest."""
    spec = manifest.pod_spec(setting(lab))
    numbers = range(1, min(REPLICAS, len(lab.nodes)) + 1)
    named = ({"name": f"{manifest.NAME}-{number}", "namespace": manifest.NAMESPACE} for number in numbers)
    return [(PODS, {"metadata": each | {"labels": manifest.LABELS}, "spec": spec}) for each in named]
