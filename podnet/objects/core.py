"""The core/v1 objects a pod network acts on: nodes, pods, namespaces and what the lab's kubelet needs of a pod.

Source: k8s.io/api/core/v1/types.go; field meanings are upstream's.
"""

from __future__ import annotations

import msgspec

from podnet.objects.meta import Object, Value

ZONE = "topology.kubernetes.io/zone"
"""The label of a node that says where it is."""


class NodeAddress(Value, frozen=True):
    """One address of a node; `type` is InternalIP, ExternalIP or Hostname."""

    type: str = ""
    address: str = ""


ACCEPTED = "Accepted"
"""The type of the condition of podnet's own kinds that says whether an object can be honoured."""


class Condition(Value, frozen=True):
    """A status condition (metav1.Condition); `observed_generation` is that of the spec that it is about, 0: unknown."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0


class Taint(Value, frozen=True):
    """Keeps pods without a matching toleration off a node."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Value, frozen=True):
    """`pod_cidrs` holds at most one range per IP family, the first being the primary one."""

    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class DaemonEndpoint(Value, frozen=True):
    """TCP port; 0 when unknown."""

    port: int = msgspec.field(default=0, name="Port")


class NodeDaemonEndpoints(Value, frozen=True):
    """Where the node's kubelet serves logs and exec."""

    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeSystemInfo(Value, frozen=True):
    """What `kubectl get nodes` prints as VERSION."""

    kubelet_version: str = ""


class NodeStatus(Value, frozen=True):
    """What the kubelet reports of its node."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    allocatable: dict[str, str | int | float] = {}


class Node(Object, frozen=True):
    """A machine of the cluster."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NamespaceStatus(Value, frozen=True):
    """`phase` is Active or Terminating."""

    phase: str = "Active"


class Namespace(Object, frozen=True):
    """A scope for names."""

    status: NamespaceStatus = NamespaceStatus()


class ContainerPort(Value, frozen=True):
    """A port a container listens on; host_port != 0 publishes it on the node."""

    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"
    name: str = ""


class EnvVar(Value, frozen=True):
    """An environment variable; `value_from` is kept as it came (fieldRef and friends)."""

    name: str = ""
    value: str = ""
    value_from: dict[str, dict[str, str]] | None = None


class ExecAction(Value, frozen=True):
    """Run a command in the container; exit code 0 is success."""

    command: tuple[str, ...] = ()


class TCPSocketAction(Value, frozen=True):
    """Success when a TCP connection opens. `port` is a number or a container port's name."""

    port: int | str = 0
    host: str = ""


class HTTPHeader(Value, frozen=True):
    """One request header."""

    name: str = ""
    value: str = ""


class HTTPGetAction(Value, frozen=True):
    """Success when the answer's status is 200..399."""

    port: int | str = 0
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class Probe(Value, frozen=True):
    """A periodic health check; times are whole seconds."""

    exec: ExecAction | None = None
    tcp_socket: TCPSocketAction | None = None
    http_get: HTTPGetAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3


class Container(Value, frozen=True):
    """One process (tree) of a pod. In the lab `image` names nothing; `command` must exist on the machine."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None


class PodDNSConfigOption(Value, frozen=True):
    """One resolver option such as ndots:5."""

    name: str = ""
    value: str | None = None


class PodDNSConfig(Value, frozen=True):
    """What is merged into the pod's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class HostAlias(Value, frozen=True):
    """An extra line of the pod's hosts file."""

    ip: str = ""
    hostnames: tuple[str, ...] = ()


class Toleration(Value, frozen=True):
    """Lets a pod onto a node with a matching taint."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class PodSpec(Value, frozen=True):
    """What the user wants to run, and where."""

    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    host_aliases: tuple[HostAlias, ...] = ()
    enable_service_links: bool | None = None
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()


class PodIP(Value, frozen=True):
    """One address of a pod."""

    ip: str = ""


class PodStatus(Value, frozen=True):
    """What the kubelet reports of a pod; `pod_ips` has at most one address per family."""

    phase: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    conditions: tuple[Condition, ...] = ()
    start_time: str | None = None


class Pod(Object, frozen=True):
    """A group of containers that share one network namespace."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ConfigMap(Object, frozen=True):
    """Plain configuration data."""

    data: dict[str, str] = {}


class Secret(Object, frozen=True):
    """Confidential data; values are base64."""

    type: str = "Opaque"
    data: dict[str, str] = {}


class Event(Object, frozen=True):
    """Something that happened to an object; for people."""

    reason: str = ""
    message: str = ""
    type: str = "Normal"


class Lease(Object, frozen=True):
    """A heartbeat (coordination.k8s.io/v1)."""
