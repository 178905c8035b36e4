"""What a Service may become. Its first address and family stay for life, unless it is, or becomes, an ExternalName;
the second ones may come, and go when the policy says SingleStack.

Source: k8s.io/kubernetes pkg/apis/core/validation (ValidateServiceUpdate), with its words.
"""

from __future__ import annotations

from podnet.apiserver.validation.rules import Causes, forbidden, wrong
from podnet.apiserver.validation.service import ServiceForm, headless
from podnet.network.controllers.service_fields import needs_health_check
from podnet.objects.services import ServiceSpec

ONCE_SET = "may not change once set"


def service_update(new: ServiceForm, old: ServiceForm) -> Causes:
    """What changed and may not."""
    after, before = new.spec, old.spec
    if "ExternalName" not in (after.type, before.type):
        if not (headless(after) and headless(before)):
            yield from _addresses(after, before)
        if not headless(after) and not headless(before):
            yield from _families(after, before)
    if after.type == before.type == "LoadBalancer" and after.load_balancer_class != before.load_balancer_class:
        yield wrong("spec.loadBalancerClass", after.load_balancer_class, ONCE_SET)
    both = all(needs_health_check(spec.type, spec.external_traffic_policy) for spec in (after, before))
    if both and before.health_check_node_port not in (0, after.health_check_node_port):
        yield forbidden("spec.healthCheckNodePort", "field is immutable")


def _addresses(after: ServiceSpec, before: ServiceSpec) -> Causes:
    shown = list(after.cluster_ips)
    if before.cluster_ips and not shown:
        yield wrong("spec.clusterIPs[0]", shown, "primary clusterIP can not be unset")
    for index, (old, now) in enumerate(zip(before.cluster_ips, shown, strict=False)):
        if now != old and (index == 0 or len(before.cluster_ips) == len(shown)):
            yield wrong(f"spec.clusterIPs[{index}]", shown, ONCE_SET)
    if len(before.cluster_ips) > len(shown) == 1 and after.ip_family_policy != "SingleStack":
        why = "must be set to 'SingleStack' when releasing the secondary clusterIP"
        yield wrong("spec.ipFamilyPolicy", after.ip_family_policy, why)


def _families(after: ServiceSpec, before: ServiceSpec) -> Causes:
    shown = list(after.ip_families)
    if before.ip_families and not shown:
        yield wrong("spec.ipFamilies[0]", shown, "primary ipFamily can not be unset")
    changed = [old != now for old, now in zip(before.ip_families, shown, strict=False)]
    if any(changed if len(before.ip_families) == len(shown) else changed[:1]):
        yield wrong("spec.ipFamilies[0]", shown, ONCE_SET)
    if len(before.ip_families) > len(shown) == 1 and after.ip_family_policy != "SingleStack":
        why = "must be set to 'SingleStack' when releasing the secondary ipFamily"
        yield wrong("spec.ipFamilyPolicy", after.ip_family_policy, why)
