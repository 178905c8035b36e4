"""A pod's resolv.conf: what dnsPolicy asks for, with dnsConfig merged in, within what resolvers can take.

    ClusterFirst             the cluster's servers; search ns.svc.DOMAIN svc.DOMAIN DOMAIN, then the node's; ndots:5
    ClusterFirstWithHostNet  the same, also in the node's own network
    Default                  what the node has (and ClusterFirst in the node's own network means this too)
    None                     nothing

Source: k8s.io/kubernetes pkg/kubelet/network/dns/dns.go, pkg/apis/core/validation (the limits). Unlike there, the
cluster's servers are the addresses that its DNS Service has, not a setting of each kubelet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from podnet.network.value import Value
from podnet.objects.core import Pod
from podnet.objects.network import NetworkSpec
from podnet.objects.services import Service

MOST_SERVERS = 3
MOST_SEARCHES = 32
LONGEST_SEARCH = 253
LONGEST_LINE = 2048
"""What resolvers take; glibc 2.28 aborts at a search domain that is no name."""


class ClusterDns(Value, frozen=True):
    """Where a cluster's pods ask for names; `servers` in the order in which they are to be asked."""

    servers: tuple[str, ...] = ()
    domain: str = "cluster.local"


class ResolvConf(Value, frozen=True):
    """The resolver's settings; an option is `name` or `name:value`."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As the file has it."""
        lines = [f"nameserver {server}" for server in self.servers]
        lines += [f"search {' '.join(self.searches)}"] if self.searches else []
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "".join(f"{line}\n" for line in lines)


def cluster_dns(network: NetworkSpec, service: Service | None, usual: tuple[str, ...]) -> ClusterDns:
    """Where a node's pods ask. `service`: the DNS Service, whose addresses are `usual` as long as there is none.

    A cache on the node answers at the Service's address, so pods need not know of it, and may outlive it. In mode ipvs
    it can't: there its own addresses come first.
    """
    dns = network.dns
    addresses = tuple(each for each in (service.spec.cluster_ips if service else ()) if each not in ("", "None"))
    addresses = addresses or usual
    if dns.node_local and network.proxy.mode == "ipvs":
        addresses = (*dns.local_addresses, *addresses[:1])
    return ClusterDns(addresses, dns.domain)


def resolv_conf(pod: Pod, ips: Iterable[str], cluster: ClusterDns, node: ResolvConf) -> ResolvConf:
    """The settings that a pod asks for, before `fitted`. `ips`: its addresses; it asks only where it has a family."""
    policy = pod.spec.dns_policy
    if policy == "None":
        base = ResolvConf()
    elif policy == "Default" or (policy == "ClusterFirst" and pod.spec.host_network) or not cluster.servers:
        base = node
    else:
        domain = cluster.domain
        own = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain)
        searches = _once((*own, *node.searches))
        base = ResolvConf(_of_families(cluster.servers, ips), searches, ("ndots:5",))
    config = pod.spec.dns_config
    if config is None:
        return base
    more = (f"{option.name}:{option.value}" if option.value else option.name for option in config.options)
    return ResolvConf(
        servers=_once((*base.servers, *config.nameservers)),
        searches=_once((*base.searches, *config.searches)),
        options=_last_of_each((*base.options, *more)),
    )


def fitted(wanted: ResolvConf) -> tuple[ResolvConf, tuple[str, ...]]:
    """What resolvers can take of it, and what was left out, in the kubelet's words."""
    servers, searches = wanted.servers[:MOST_SERVERS], _short(wanted.searches)
    said = []
    if servers != wanted.servers:
        said.append(_omitted("Nameserver", "nameservers", "nameserver", servers))
    if searches != wanted.searches:
        said.append(_omitted("Search Line", "search paths", "search", searches))
    return ResolvConf(servers, searches, wanted.options), tuple(said)


def read(text: str) -> ResolvConf:
    """A node's own file. Of `search` the last line counts, of options that are there twice the last one."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for keyword, *words in filter(None, map(str.split, text.splitlines())):
        if keyword == "nameserver":
            servers += words[:1]
        elif keyword == "search":
            searches = [word if word == "." else word.removesuffix(".") for word in words]
        elif keyword == "options":
            options += words
    return ResolvConf(tuple(servers), tuple(searches), _last_of_each(options))


def _of_families(servers: tuple[str, ...], ips: Iterable[str]) -> tuple[str, ...]:
    """Those that can be reached from these addresses; all, when it can't be told."""
    families = {":" in ip for ip in ips}
    return tuple(server for server in servers if (":" in server) in families) or servers


def _short(searches: tuple[str, ...]) -> tuple[str, ...]:
    """As many as fit on a line."""
    kept = [search for search in searches[:MOST_SEARCHES] if len(search) <= LONGEST_SEARCH]
    while len(" ".join(kept)) > LONGEST_LINE:
        kept.pop()
    return tuple(kept)


def _omitted(what: str, which: str, line: str, applied: Iterable[str]) -> str:
    limits = f"{what} limits were exceeded, some {which} have been omitted"
    return f"{limits}, the applied {line} line is: {' '.join(applied)}"


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _last_of_each(options: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict(_named(options)).values())


def _named(options: Iterable[str]) -> Iterator[tuple[str, str]]:
    for option in options:
        yield option.partition(":")[0], option
