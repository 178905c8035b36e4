"""What a container is told of Services."""

from __future__ import annotations

import pytest

from podnet.lab.service_links import variables
from podnet.objects.core import Pod, PodSpec
from podnet.objects.meta import ObjectMeta
from podnet.objects.services import Service, ServicePort, ServiceSpec


def service(name: str, ip: str, *ports: ServicePort, namespace: str = "team") -> Service:
    return Service(ObjectMeta(name, namespace), ServiceSpec(cluster_ip=ip, ports=ports))


def pod(links: bool | None = None, namespace: str = "team") -> Pod:
    return Pod(ObjectMeta("p", namespace), PodSpec(enable_service_links=links))


MASTER = service("kubernetes", "10.96.0.1", ServicePort("https", port=443), namespace="default")
MASTER_NAMES = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
    "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
}


def test_a_service_of_two_ports() -> None:
    dns = service("cluster-dns", "10.96.0.10", ServicePort("dns", "UDP", 53), ServicePort("dns-tcp", "TCP", 53))
    assert variables(pod(), [dns]) == {
        "CLUSTER_DNS_SERVICE_HOST": "10.96.0.10",
        "CLUSTER_DNS_SERVICE_PORT": "53",
        "CLUSTER_DNS_SERVICE_PORT_DNS": "53",
        "CLUSTER_DNS_SERVICE_PORT_DNS_TCP": "53",
        "CLUSTER_DNS_PORT": "udp://10.96.0.10:53",
        "CLUSTER_DNS_PORT_53_UDP": "udp://10.96.0.10:53",
        "CLUSTER_DNS_PORT_53_UDP_PROTO": "udp",
        "CLUSTER_DNS_PORT_53_UDP_PORT": "53",
        "CLUSTER_DNS_PORT_53_UDP_ADDR": "10.96.0.10",
        "CLUSTER_DNS_PORT_53_TCP": "tcp://10.96.0.10:53",
        "CLUSTER_DNS_PORT_53_TCP_PROTO": "tcp",
        "CLUSTER_DNS_PORT_53_TCP_PORT": "53",
        "CLUSTER_DNS_PORT_53_TCP_ADDR": "10.96.0.10",
    }


def test_an_unnamed_port_and_ipv6() -> None:
    found = variables(pod(), [service("web", "fd00::1", ServicePort(port=80))])
    assert found["WEB_SERVICE_HOST"] == found["WEB_PORT_80_TCP_ADDR"] == "fd00::1"
    assert found["WEB_PORT"] == found["WEB_PORT_80_TCP"] == "tcp://[fd00::1]:80"
    assert len(found) == 7


@pytest.mark.parametrize(
    "silent",
    [
        service("web", "None", ServicePort(port=80)),
        service("web", "", ServicePort(port=80)),
        service("web", "10.96.0.2", ServicePort(port=80), namespace="other"),
        service("other", "10.96.0.2", ServicePort(port=80), namespace="default"),
    ],
)
def test_services_that_are_not_told_of(silent: Service) -> None:
    assert variables(pod(), [silent]) == {}


@pytest.mark.parametrize(("links", "told"), [(None, True), (True, True), (False, False)])
def test_the_master_is_always_told_of(links: bool | None, told: bool) -> None:
    web = service("web", "10.96.0.2", ServicePort(port=80))
    found = variables(pod(links), [web, MASTER])
    assert {name: value for name, value in found.items() if name.startswith("KUBERNETES_")} == MASTER_NAMES
    assert ("WEB_SERVICE_HOST" in found) is told


@pytest.mark.parametrize("turned", [False, True])
def test_a_namespace_may_have_a_kubernetes_of_its_own(turned: bool) -> None:
    own = service("kubernetes", "10.96.9.9", ServicePort(port=1))
    both = [own, MASTER] if turned else [MASTER, own]
    assert variables(pod(), both)["KUBERNETES_SERVICE_HOST"] == "10.96.9.9"
    assert variables(pod(links=False), both)["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"


def test_the_order_of_services_does_not_matter() -> None:
    some = [service(name, "10.96.0.2", ServicePort(port=80)) for name in ("b", "a", "c")]
    assert list(variables(pod(), some)) == list(variables(pod(), some[::-1]))
