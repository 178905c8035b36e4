"""Cluster objects for tests of names, and questions."""

from __future__ import annotations

from collections.abc import Iterable

from podnet.network.dns.answers import Elsewhere, answer, quick
from podnet.network.dns.zone import Options, Zone, zone
from podnet.objects.cluster import Cluster
from podnet.objects.core import Namespace, Pod, PodIP, PodSpec, PodStatus
from podnet.objects.meta import Object, ObjectMeta
from podnet.objects.services import (
    SERVICE_NAME,
    EndpointConditions,
    EndpointSlice,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from podnet.wire import dns

HTTP = ServicePort("http", "TCP", 80)
DEFAULTS = Options()


def service(name: str, *ips: str, ports: tuple[ServicePort, ...] = (HTTP,), **spec: object) -> Service:
    """Of namespace demo; without addresses a headless one."""
    addresses = ips or ("None",)
    made = ServiceSpec(cluster_ip=addresses[0], cluster_ips=addresses, ports=ports, **spec)  # type: ignore[arg-type]
    return Service(ObjectMeta(name=name, namespace="demo"), made)


def alias(name: str, target: str) -> Service:
    return Service(ObjectMeta(name=name, namespace="demo"), ServiceSpec(type="ExternalName", external_name=target))


def endpoint(address: str, hostname: str | None = None, ready: bool | None = None) -> SliceEndpoint:
    return SliceEndpoint((address,), EndpointConditions(ready=ready), hostname)


def piece(
    of: str,
    *endpoints: SliceEndpoint,
    number: int = 1,
    ports: tuple[SlicePort, ...] = (SlicePort("http", "TCP", 8080),),
) -> EndpointSlice:
    meta = ObjectMeta(name=f"{of}-{number}", namespace="demo", labels={SERVICE_NAME: of})
    family = "IPv6" if any(":" in each.addresses[0] for each in endpoints) else "IPv4"
    return EndpointSlice(meta, family, endpoints, ports)


def pod(name: str, *ips: str, phase: str = "Running", host: bool = False) -> Pod:
    status = PodStatus(phase=phase, pod_ips=tuple(map(PodIP, ips)))
    return Pod(ObjectMeta(name=name, namespace="demo"), PodSpec(host_network=host), status)


def cluster(*objects: Object) -> Cluster:
    """Of these, and the namespaces demo and empty."""
    spaces = [Namespace(ObjectMeta(name=name)) for name in ("demo", "empty")]
    kinds: dict[str, type[Object]] = {
        "services": Service,
        "endpointslices": EndpointSlice,
        "pods": Pod,
        "namespaces": Namespace,
    }
    made = Cluster()
    for plural, kind in kinds.items():
        made = made.with_objects(plural, {each.key: each for each in (*objects, *spaces) if isinstance(each, kind)})
    return made


def made(*objects: Object, options: Options = DEFAULTS) -> Zone:
    return zone(cluster(*objects), options)


def ask(
    where: Zone, text: str, type_: int = dns.A, size: int = dns.EDNS_SIZE, turn: int = 0, namespace: str = ""
) -> dns.Message | Elsewhere:
    """What a question hears; `quick` must say the same whenever it says something."""
    message = dns.question(7, dns.name(text), type_, size=size)
    full = answer(where, dns.read_query(message), turn=turn, namespace=namespace)
    short = quick(where, message, turn)
    assert short is None or short == full
    return full if isinstance(full, Elsewhere) else dns.read(full)


def said(where: Zone, text: str, type_: int = dns.A, **more: object) -> list[str] | str:
    """The answers for people, or the RCODE of an answer without."""
    heard = ask(where, text, type_, **more)  # type: ignore[arg-type]
    assert isinstance(heard, dns.Message), heard
    if not heard.answers:
        return "NODATA" if heard.rcode == dns.NOERROR else dns.RCODES[heard.rcode]
    return shown(heard.answers)


def shown(records: Iterable[dns.Record]) -> list[str]:
    return [dns.shown(record) for record in records]
