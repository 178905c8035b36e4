"""What holds for a Pod. Source: k8s.io/kubernetes pkg/apis/core/validation/validation.go (ValidatePod)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from podnet.apiserver.status import Document
from podnet.apiserver.validation import rules
from podnet.apiserver.validation.rules import Causes, required, unsupported, wrong
from podnet.objects.core import (
    Container,
    ContainerPort,
    EnvVar,
    Pod,
    PodDNSConfig,
    PodSpec,
    PodStatus,
    Probe,
    Toleration,
)
from podnet.objects.meta import Value

PROTOCOLS = ("TCP", "UDP", "SCTP")
RESTART = ("Always", "OnFailure", "Never")
DNS_POLICY = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_FROZEN = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


class Resources(Value, frozen=True):
    """What a container asks for and may take at most, as Kubernetes quantities."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class ContainerForm(Container, frozen=True):
    """A container as validated."""

    resources: Resources = Resources()


class PodSpecForm(PodSpec, frozen=True):
    """A Pod's spec as validated."""

    init_containers: tuple[ContainerForm, ...] = ()
    containers: tuple[ContainerForm, ...] = ()


class Ended(Value, frozen=True):
    """How a container came to wait, or to end."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0
    signal: int = 0
    finished_at: str | None = None


class ContainerStatus(Value, frozen=True):
    """What the kubelet says of one container; `state` has one key: waiting, running or terminated."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: dict[str, Ended] = {}
    last_state: dict[str, Ended] = {}


class PodStatusForm(PodStatus, frozen=True):
    """A Pod's status as validated."""

    reason: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class PodForm(Pod, frozen=True):
    """A Pod as validated."""

    spec: PodSpecForm = PodSpecForm()
    status: PodStatusForm = PodStatusForm()


def pod(new: PodForm) -> Causes:
    """A whole Pod, on create and on every update."""
    spec = new.spec
    if not spec.containers:
        yield required("spec.containers")
    for field, containers in (("spec.initContainers", spec.init_containers), ("spec.containers", spec.containers)):
        for index, container in enumerate(containers):
            yield from _container(f"{field}[{index}]", container, spec.host_network)
    names = [container.name for container in (*spec.init_containers, *spec.containers)]
    yield from rules.unique("spec.containers[{}].name", names)
    yield from _host_ports(spec.containers)
    yield from rules.one_of("spec.restartPolicy", spec.restart_policy, RESTART)
    if spec.termination_grace_period_seconds is not None:
        yield from rules.not_negative("spec.terminationGracePeriodSeconds", spec.termination_grace_period_seconds)
    yield from _placement(spec)
    yield from _names(spec)


def _placement(spec: PodSpec) -> Causes:
    if spec.node_name:
        yield from rules.dns_subdomain("spec.nodeName", spec.node_name)
    yield from rules.labels("spec.nodeSelector", spec.node_selector)
    for index, toleration in enumerate(spec.tolerations):
        yield from _toleration(f"spec.tolerations[{index}]", toleration)


def _names(spec: PodSpec) -> Causes:
    for field, value in (("spec.hostname", spec.hostname), ("spec.subdomain", spec.subdomain)):
        if value:
            yield from rules.dns_label(field, value)
    for index, alias in enumerate(spec.host_aliases):
        yield from rules.address(f"spec.hostAliases[{index}].ip", alias.ip)
        for hostname in alias.hostnames:
            yield from rules.dns_subdomain(f"spec.hostAliases[{index}].hostnames", hostname)
    yield from rules.one_of("spec.dnsPolicy", spec.dns_policy, DNS_POLICY)
    if spec.dns_policy == "None" and not (spec.dns_config and spec.dns_config.nameservers):
        yield required(
            "spec.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    if spec.dns_config is not None:
        yield from _dns_config(spec.dns_config)


def _dns_config(config: PodDNSConfig) -> Causes:
    if len(config.nameservers) > 3:
        yield wrong("spec.dnsConfig.nameservers", config.nameservers, "must not have more than 3 nameservers")
    for index, server in enumerate(config.nameservers):
        yield from rules.address(f"spec.dnsConfig.nameservers[{index}]", server)
    if len(config.searches) > 32 or sum(map(len, config.searches)) > 2048:
        yield wrong(
            "spec.dnsConfig.searches", config.searches, "must not have more than 32 search paths or 2048 characters"
        )
    for index, search in enumerate(config.searches):
        if search != ".":
            yield from rules.dns_subdomain(f"spec.dnsConfig.searches[{index}]", search.removesuffix("."))
    for index, option in enumerate(config.options):
        if not option.name:
            yield required(f"spec.dnsConfig.options[{index}]", "must not be empty")


def _container(field: str, container: Container, host_network: bool) -> Causes:
    yield from rules.dns_label(f"{field}.name", container.name) if container.name else iter([required(f"{field}.name")])
    if not container.image:
        yield required(f"{field}.image")
    for index, port in enumerate(container.ports):
        yield from _port(f"{field}.ports[{index}]", port, host_network)
    yield from rules.unique(f"{field}.ports[{{}}].name", (port.name for port in container.ports))
    for index, env in enumerate(container.env):
        yield from _env(f"{field}.env[{index}]", env)
    probes = (
        ("livenessProbe", container.liveness_probe),
        ("readinessProbe", container.readiness_probe),
        ("startupProbe", container.startup_probe),
    )
    for name, probe in probes:
        if probe is not None:
            yield from _probe(f"{field}.{name}", probe, single_success=name != "readinessProbe")


def _port(field: str, port: ContainerPort, host_network: bool) -> Causes:
    if not port.container_port:
        yield required(f"{field}.containerPort")
    else:
        yield from rules.port(f"{field}.containerPort", port.container_port)
    if port.host_port:
        yield from rules.port(f"{field}.hostPort", port.host_port)
        if host_network and port.host_port != port.container_port:
            yield wrong(f"{field}.hostPort", port.host_port, "must match `containerPort` when `hostNetwork` is true")
    if port.host_ip:
        yield from rules.address(f"{field}.hostIP", port.host_ip)
    if port.name:
        yield from rules.port_name(f"{field}.name", port.name)
    yield from rules.one_of(f"{field}.protocol", port.protocol, PROTOCOLS)


def _host_ports(containers: Sequence[Container]) -> Causes:
    seen: set[tuple[int, str, str]] = set()
    for index, container in enumerate(containers):
        for number, port in enumerate(container.ports):
            claim = (port.host_port, port.protocol, port.host_ip)
            if port.host_port and claim in seen:
                yield rules.duplicate(
                    f"spec.containers[{index}].ports[{number}].hostPort",
                    f"{port.host_ip}/{port.protocol}/{port.host_port}",
                )
            seen.add(claim)


def _env(field: str, env: EnvVar) -> Causes:
    yield from rules.env_name(f"{field}.name", env.name) if env.name else iter([required(f"{field}.name")])
    if env.value and env.value_from:
        yield wrong(f"{field}.valueFrom", "", "may not be specified when `value` is not empty")
    if env.value_from is not None and len(env.value_from) != 1:
        yield wrong(
            f"{field}.valueFrom",
            "",
            "must specify exactly one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )


def _probe(field: str, probe: Probe, single_success: bool) -> Causes:
    handlers = [handler for handler in (probe.exec, probe.tcp_socket, probe.http_get) if handler is not None]
    if not handlers:
        yield required(field, "must specify a handler type")
    elif len(handlers) > 1:
        yield rules.forbidden(field, "may not specify more than 1 handler type")
    if probe.exec is not None and not probe.exec.command:
        yield required(f"{field}.exec.command")
    for name, action in (("tcpSocket", probe.tcp_socket), ("httpGet", probe.http_get)):
        if action is not None:
            yield from _probe_port(f"{field}.{name}.port", action.port)
    if probe.http_get is not None and probe.http_get.scheme not in ("HTTP", "HTTPS"):
        yield unsupported(f"{field}.httpGet.scheme", probe.http_get.scheme, ("HTTP", "HTTPS"))
    yield from rules.not_negative(f"{field}.initialDelaySeconds", probe.initial_delay_seconds)
    yield from rules.not_negative(f"{field}.timeoutSeconds", probe.timeout_seconds)
    yield from rules.not_negative(f"{field}.periodSeconds", probe.period_seconds)
    yield from rules.not_negative(f"{field}.failureThreshold", probe.failure_threshold)
    if single_success and probe.success_threshold not in (0, 1):
        yield wrong(f"{field}.successThreshold", probe.success_threshold, "must be 1")


def _probe_port(field: str, port: int | str) -> Causes:
    return rules.port(field, port) if isinstance(port, int) else rules.port_name(field, port)


def _toleration(field: str, toleration: Toleration) -> Causes:
    if toleration.key:
        yield from rules.qualified_name(f"{field}.key", toleration.key)
    elif toleration.operator != "Exists":
        yield wrong(
            f"{field}.operator",
            toleration.operator,
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    if toleration.operator not in ("", "Equal", "Exists"):
        yield unsupported(f"{field}.operator", toleration.operator, ("Equal", "Exists"))
    if toleration.operator == "Exists" and toleration.value:
        yield wrong(f"{field}.operator", toleration.value, "value must be empty when `operator` is 'Exists'")
    if toleration.effect and toleration.effect not in EFFECTS:
        yield unsupported(f"{field}.effect", toleration.effect, EFFECTS)


def pod_update(new: Document, old: Document) -> Causes:
    """What an update may not do to a Pod's spec."""
    before, after = dict(old["spec"]), dict(new["spec"])
    kept, tolerations = before.pop("tolerations", ()), after.pop("tolerations", ())
    if any(toleration not in tolerations for toleration in kept):
        yield rules.forbidden(
            "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
        )
    if _comparable(before) != _comparable(after):
        yield rules.forbidden("spec", _FROZEN)


def _comparable(spec: dict[str, Any]) -> dict[str, Any]:
    frozen = {
        name: value
        for name, value in spec.items()
        if name not in ("containers", "initContainers", "activeDeadlineSeconds")
    }
    return frozen | {name: list(_imageless(spec.get(name, ()))) for name in ("containers", "initContainers")}


def _imageless(containers: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for container in containers:
        yield {name: value for name, value in container.items() if name != "image"}
