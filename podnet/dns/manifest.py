"""What cluster DNS is made of in a cluster: `podnet dns manifest`, and the same for a lab (lab/cluster_dns.py).

    Service kube-dns :53 ──► pod ─┬─ dnsmasq :53         the cache in front; other names go where the node's own do
                                  ├─ kubedns :10053      answers for the cluster, from the API's watch
                                  └─ healthz :8080       asks both, for the probes

It is the classic add-on of three containers, so the Service, its labels, ports and paths have the names by which
dashboards, probes and habits know them. ConfigMap kube-dns holds what an administrator says about names outside.
Source: k8s.io/kubernetes cluster/addons/dns/kube-dns/kube-dns.yaml.base, and its version of 1.5 for healthz.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
import yaml

from podnet.network.dns.dnsmasq import defaults
from podnet.network.dns.settings import Server
from podnet.network.value import Value

Json = dict[str, Any]

NAME, NAMESPACE = "kube-dns", "kube-system"
LABELS = {"k8s-app": NAME}
DNS, KUBEDNS, READINESS, HEALTHZ = 53, 10053, 8081, 8080
DNSMASQ_METRICS, KUBEDNS_METRICS = 10054, 10055
CHECK_PERIOD = "10s"
"""Of healthz, as often as its results are looked at: each check is a process."""

GRACE_SECONDS = 30
"""Longer than kubedns goes on answering after it was told to end."""


class Setting(Value, frozen=True):
    """What differs from cluster to cluster.

    addresses   the Service's, one for each family
    image       of all three containers; `program`: podnet in it
    kubeconfig  "" for a pod's own account
    variables   of all three containers
    """

    addresses: tuple[str, ...] = ("10.96.0.10",)
    domain: str = "cluster.local"
    image: str = "podnet"
    program: str = "podnet"
    kubeconfig: str = ""
    variables: tuple[tuple[str, str], ...] = ()


def service(setting: Setting) -> Json:
    """Where pods ask."""
    labels = LABELS | {"kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS"}
    ports = [{"name": "dns", "port": DNS, "protocol": "UDP"}, {"name": "dns-tcp", "port": DNS, "protocol": "TCP"}]
    spec: Json = {"selector": LABELS, "clusterIP": setting.addresses[0], "clusterIPs": [*setting.addresses]}
    spec |= {"ipFamilyPolicy": "RequireDualStack" if len(setting.addresses) > 1 else "SingleStack", "ports": ports}
    return _object("v1", "Service", {"labels": labels}, spec=spec)


def config_map() -> Json:
    """For the administrator to write in; `podnet lab up` and kubectl apply leave it as it is."""
    return _object("v1", "ConfigMap", {"labels": LABELS})


def pod_spec(setting: Setting) -> Json:
    """The three containers."""
    spec: Json = {
        "containers": [_kubedns(setting), _dnsmasq(setting), _healthz(setting)],
        "dnsPolicy": "Default",  # they are the cluster's DNS
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
    }
    return spec


def _kubedns(setting: Setting) -> Json:
    ports = [("dns-local", KUBEDNS, "UDP"), ("dns-tcp-local", KUBEDNS, "TCP"), ("metrics", KUBEDNS_METRICS, "TCP")]
    purge = f"--purge=http://127.0.0.1:{DNSMASQ_METRICS}/purge"
    return _container(setting, "kubedns", ports, ("PROMETHEUS_PORT", str(KUBEDNS_METRICS))) | {
        "args": [
            f"--domain={setting.domain}",
            f"--dns-port={KUBEDNS}",
            *_settings(setting),
            purge,
            *_in_front(setting),
        ],
        "readinessProbe": _ready(READINESS),
        "livenessProbe": _liveness("/healthz-kubedns"),
    }


def _in_front(setting: Setting) -> list[str]:
    """For when the Service leads to kubedns itself: then it is asked at all the Service's families, knows who asks and
    completes searches (answers.py), and asks dnsmasq for what is not the cluster's."""
    families = {"::" if ":" in address else "0.0.0.0" for address in setting.addresses}
    listening = [f"--dns-bind-address={address}" for address in sorted(families)]
    return [*listening, "--complete-searches=annotated", f"--via-cache=127.0.0.1:{DNS}"]


def _dnsmasq(setting: Setting) -> Json:
    ports = [("dns", DNS, "UDP"), ("dns-tcp", DNS, "TCP"), ("dnsmasq-metrics", DNSMASQ_METRICS, "TCP")]
    return _container(setting, "dnsmasq", ports) | {
        "args": [
            *(f"--domain={setting.domain}", f"--prometheus-port={DNSMASQ_METRICS}", *_settings(setting), "--"),
            *defaults(setting.domain, Server("127.0.0.1", KUBEDNS)),
        ],
        "readinessProbe": _ready(DNSMASQ_METRICS),
        "livenessProbe": _liveness("/healthz-dnsmasq"),
    }


def _settings(setting: Setting) -> list[str]:
    """What both read of the administrator, and as whom."""
    return [f"--config-map={NAME}", *([f"--kubecfg-file={setting.kubeconfig}"] if setting.kubeconfig else [])]


def _healthz(setting: Setting) -> Json:
    ask = f"{setting.program} dns ask kubernetes.default.svc.{setting.domain}"
    checks = {"/healthz-dnsmasq": f"{ask} @127.0.0.1", "/healthz-kubedns": f"{ask} @127.0.0.1:{KUBEDNS}"}
    words = [word for url, cmd in checks.items() for word in (f"--cmd={cmd} >/dev/null", f"--url={url}")]
    return _container(setting, "healthz", [("healthz", HEALTHZ, "TCP")]) | {
        "args": [*words, f"--port={HEALTHZ}", f"--period={CHECK_PERIOD}", "--quiet"]
    }


def _container(setting: Setting, name: str, ports: Iterable[tuple[str, int, str]], *variables: tuple[str, str]) -> Json:
    listed = [{"name": called, "containerPort": port, "protocol": protocol} for called, port, protocol in ports]
    env = [{"name": called, "value": value} for called, value in (*variables, *setting.variables)]
    made = {"name": name, "image": setting.image, "command": [setting.program, "dns", name], "ports": listed}
    return made | ({"env": env} if env else {})


def _ready(port: int) -> Json:
    """Upstream waits 3 s before the first look, and 10 s until the next."""
    return _probe("/readiness", port) | {"periodSeconds": 1}


def _liveness(path: str) -> Json:
    return _probe(path, HEALTHZ) | {"initialDelaySeconds": 60, "failureThreshold": 5}


def _probe(path: str, port: int) -> Json:
    return {"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, "timeoutSeconds": 5}


def _object(version: str, kind: str, metadata: Json | None = None, **rest: Any) -> Json:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": NAME, "namespace": NAMESPACE} | (metadata or {}),
    } | rest


# -- for any cluster

_READ = ["get", "list", "watch"]
_RULES = [
    {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "configmaps"], "verbs": _READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]


def manifest(setting: Setting, replicas: int) -> list[Json]:
    """Everything, in the order in which it is to be applied."""
    role = f"podnet:{NAME}"
    unscoped = {"name": role, "namespace": None}
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    found = [
        _object("v1", "ServiceAccount"),
        _object("rbac.authorization.k8s.io/v1", "ClusterRole", unscoped, rules=_RULES),
        _object(
            "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", unscoped, roleRef=reference, subjects=[subject]
        ),
        config_map(),
        service(setting),
        _object("apps/v1", "Deployment", {"labels": LABELS}, spec=_deployment(setting, replicas)),
    ]  # fmt: skip
    for each in found:
        each["metadata"] = {key: value for key, value in each["metadata"].items() if value is not None}
    return found


def _deployment(setting: Setting, replicas: int) -> Json:
    apart = {"labelSelector": {"matchLabels": LABELS}, "topologyKey": "kubernetes.io/hostname"}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]}
    spec = pod_spec(setting) | {
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "affinity": {"podAntiAffinity": preferred},
    }
    return {
        "replicas": replicas,
        "strategy": {"rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}},
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": spec},
    }


class _Plain(yaml.SafeDumper):
    """Writes what is there twice twice."""

    def ignore_aliases(self, data: object) -> bool:
        """See yaml."""
        return True


@click.command()
@click.option("--image", required=True, help="An image with podnet and dnsmasq.")
@click.option("--cluster-ip", "addresses", multiple=True, help="Of the Service; one for each family.  [10.96.0.10]")
@click.option("--domain", default="cluster.local", show_default=True, help="The cluster's domain.")
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1))
def command(image: str, addresses: tuple[str, ...], domain: str, replicas: int) -> None:
    """Print cluster DNS as a manifest for any cluster.

    \b
    Example:
      podnet dns manifest --image example.org/podnet:1.0 | kubectl apply -f -
    """
    setting = Setting(addresses or Setting().addresses, domain.rstrip("."), image)
    click.echo(yaml.dump_all(manifest(setting, replicas), Dumper=_Plain, sort_keys=False), nl=False)
