"""What a container finds inside: its hosts file, its environment, its command (resolv.conf: podnet/network/dns).

Everything here is a function of the Pod and its addresses; the texts are those that the kubelet writes.
Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go, third_party/forked/golang/expansion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from podnet.lab import service_links
from podnet.objects.core import Container, Pod
from podnet.objects.leases import published
from podnet.objects.services import Service

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAUSE = ("sleep", "infinity")

_HOSTS = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def hostname(pod: Pod, node: str) -> str:
    """What `hostname` says: the pod's own name, or the node's with hostNetwork; 63 characters at most."""
    name = node if pod.spec.host_network else pod.spec.hostname or pod.metadata.name
    return name[:63].rstrip("-.")


def hosts(pod: Pod, ips: tuple[str, ...], node_hosts: str, domain: str) -> str:
    """The hosts file; a pod with hostNetwork has the node's. hostAliases come last. `domain`: the cluster's."""
    text = _HOSTS
    if pod.spec.host_network:
        text = node_hosts
    else:
        short = hostname(pod, "")
        sub = pod.spec.subdomain
        names = f"{short}.{sub}.{pod.metadata.namespace}.svc.{domain}\t{short}" if sub else short
        text += "".join(f"{ip}\t{names}\n" for ip in ips)
    if pod.spec.host_aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join("\t".join((alias.ip, *alias.hostnames)) + "\n" for alias in pod.spec.host_aliases)
    return text


def field(pod: Pod, path: str, ips: tuple[str, ...], host_ips: tuple[str, ...]) -> str:
    """The value of a fieldRef; "" for a field we don't know."""
    if keyed := _KEYED.fullmatch(path):
        values: Mapping[str, str] = getattr(pod.metadata, keyed[1])
        return values.get(keyed[2], "")
    known = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "status.hostIP": host_ips[0] if host_ips else "",
        "status.hostIPs": ",".join(host_ips),
        "status.podIP": ips[0] if ips else "",
        "status.podIPs": ",".join(ips),
    }
    return known.get(path, "")


def external(pod: Pod) -> dict[str, str]:
    """Where the pod's ports are reached from outside, for registries that hold an address: one pair for each port."""
    found: dict[str, str] = {}
    for each in published(pod.metadata):
        name = f"PODNET_EXTERNAL_{each.name.replace('-', '_').upper()}"
        found |= {f"{name}_ADDRESS": each.address, f"{name}_PORT": str(each.port)}
    return found


def environment(
    pod: Pod, container: Container, ips: tuple[str, ...], host_ips: tuple[str, ...], services: Iterable[Service] = ()
) -> dict[str, str]:
    """The container's variables, in order, each able to refer to those before it. `services`: all that there are."""
    found = service_links.variables(pod, services) | external(pod)
    found |= {"PATH": PATH, "HOME": "/root", "HOSTNAME": hostname(pod, pod.spec.node_name)}
    for variable in container.env:
        reference = (variable.value_from or {}).get("fieldRef")
        found[variable.name] = (
            field(pod, reference.get("fieldPath", ""), ips, host_ips) if reference else expand(variable.value, found)
        )
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME); $$ is a dollar sign, and a name that is not set stays as it is."""
    return _REFERENCE.sub(lambda match: "$" if match[0] == "$$" else variables.get(match[1], match[0]), text)


def command(container: Container, variables: Mapping[str, str]) -> tuple[str, ...]:
    """What to execute. An image has no meaning here, so without a command the first argument is it, else a pause."""
    words = (*container.command, *container.args) or PAUSE
    return tuple(expand(word, variables) for word in words)
