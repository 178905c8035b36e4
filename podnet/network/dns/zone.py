"""All that a cluster's names mean at one moment: a value made of the cluster's objects, in which answering is a lookup.

A change costs what changed: the next zone shares all else with the one before (state/difference.py), and what a Service
means is found out when it is asked for (services.py). The memo only saves time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar, cast

from podnet.network.dns import records
from podnet.network.dns.named import SEARCH_ANNOTATION
from podnet.network.dns.records import EMPTY, Expected, Node, Nodes
from podnet.network.dns.services import ServiceNames, service_names
from podnet.network.memo import Memo, each, group, joined, recall
from podnet.network.value import Value
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import Pod
from podnet.objects.services import Service
from podnet.state.difference import changes, replaced
from podnet.wire import dns

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

NEGATIVE_TTL = 30
"""Seconds for which a cache may hold that there is no such name; caches of ours forget it as soon as there is one."""


class Options(Value, frozen=True):
    """How a zone is made.

    domain   the cluster's, in lower case and without a dot at the end
    pods     "verified" (a pod's own name exists while the pod does), "insecure" (any address has one), "disabled"
    service  the Service of this very server: its addresses stand at ns.dns.<domain>
    """

    domain: str = "cluster.local"
    pods: str = "verified"
    service: Key = ("kube-system", "kube-dns")


class Zone(Value, frozen=True):
    """The zone of a domain, and the addresses that have names.

    names     every name in lower case, as on the wire, and what stands there
    apex      the domain; `podns`: pod.<domain>
    soa       what comes with a negative answer
    pods      as in Options
    """

    names: ServiceNames
    apex: bytes
    podns: bytes
    soa: bytes
    pods: str

    def shown(self) -> dict[str, dict[str, list[str]]]:
        """For people: what stands at each name, by type."""
        return {
            dns.text(name): {
                dns.TYPE_NAMES[type_]: [dns.shown(each) for each in dns.records_of(piece)] for type_, piece in node
            }
            for name, node in sorted(self.names.items())
        }


def zone(cluster: Cluster, options: Options, serial: int = 1, memo: Memo | None = None) -> Zone:
    """The zone. `serial` numbers its versions; with or without `memo` the result is equal."""
    memo = {} if memo is None else memo
    domain = options.domain
    pods = _pods(cluster, options, memo)
    own = cluster.services.get(options.service)
    frame = recall(memo, "frame", (domain, own, cluster.namespaces), lambda: _frame(cluster, own, options))
    apex = dns.lower(dns.name(domain))
    soa = recall(memo, "soa", (domain, serial), lambda: _soa(domain, serial))
    names = service_names(domain, cluster, joined(memo, "others", pods, frame), memo)
    return Zone(names, apex, dns.lower(dns.name(f"pod.{domain}")), soa, options.pods)


def outdated(old: Zone, new: Zone) -> Iterator[tuple[bytes, int, Expected]]:
    """Names, each with a type, of which a cache may hold an answer of the old zone that is not the new one's, and what
    it has to say now (records.outdated)."""
    for name, before, now in new.names.changed(old.names):
        for type_, expected in records.outdated(before, now):
            yield name, type_, expected


def completes(pod: Pod, everybody: bool) -> bool:
    """Whether a pod's searches are completed: it asks for that, or `everybody` does; and its search list is the
    cluster's, since any other is not known here."""
    spec, asks = pod.spec, pod.metadata.annotations.get(SEARCH_ANNOTATION)
    usual = spec.dns_policy == "ClusterFirst" and not (spec.dns_config and spec.dns_config.searches)
    return usual and (asks == "server" or (everybody and asks is None))


def clients(cluster: Cluster, everybody: bool, memo: Memo) -> Mapping[str, str]:
    """By a pod's address: its namespace, for those whose searches are completed."""

    def own(key: Key) -> dict[tuple[str, Key], str]:
        pod = cluster.pods[key]
        return {(ip, key): ip for ip in records.pod_addresses(pod)} if completes(pod, everybody) else {}

    made = each(memo, "searching", (everybody,), (cluster.pods,), own, lambda key: key)
    pairs = _spread(memo, "searchers", made, lambda unit: {at: at for at in unit})
    by_address = group(memo, "searchers by address", pairs, lambda at: at[0])
    return each(memo, "clients", (), (by_address,), lambda ip: min(by_address[ip])[1][0], lambda ip: ip)


def _pods(cluster: Cluster, options: Options, memo: Memo) -> Nodes:
    """Pods' own names; two pods may have one address for a moment, and the name is the same then."""
    if options.pods != "verified":
        return _NO_NODES

    def named(key: Key) -> dict[tuple[bytes, Key], Node]:
        pod: Pod = cluster.pods[key]
        own = records.pod_addresses(pod)
        return {(records.pod_name(options.domain, key[0], ip), key): records.pod_node(ip) for ip in own}

    made = each(memo, "pods", (options.domain,), (cluster.pods,), named, lambda key: key)
    bearers = _spread(memo, "bearers", made, lambda unit: {at: (at[0], node) for at, node in unit.items()})
    by_name = group(memo, "bearers by name", bearers, lambda found: found[0])
    return each(memo, "pod names", (), (by_name,), lambda at: next(iter(by_name[at].values()))[1], lambda at: at)


_NO_NODES: Nodes = {}


def _frame(cluster: Cluster, own: Service | None, options: Options) -> Nodes:
    """What stands at the domain itself, and the names that only have others below them."""
    domain = options.domain
    server = dns.name(f"ns.dns.{domain}")
    name_server = dns.piece([dns.record(dns.NS, records.TTL, server)])
    found: dict[str, Node] = {
        domain: ((dns.NS, name_server),),
        f"dns-version.{domain}": ((dns.TXT, dns.piece([dns.record(dns.TXT, records.TTL, dns.txt(records.VERSION))])),),
        f"svc.{domain}": EMPTY,
        f"dns.{domain}": EMPTY,
    }
    if own is not None:
        found[f"ns.dns.{domain}"] = records.addresses(own.spec.cluster_ips)
    kinds = ("svc",) if options.pods == "disabled" else ("svc", "pod")
    if options.pods != "disabled":
        found[f"pod.{domain}"] = EMPTY
    for _, namespace in cluster.namespaces:
        found |= {f"{namespace}.{kind}.{domain}": EMPTY for kind in kinds}
    return {dns.lower(dns.name(text)): node for text, node in found.items()}


def _soa(domain: str, serial: int) -> bytes:
    data = dns.soa(dns.name(f"ns.dns.{domain}"), dns.name(f"hostmaster.{domain}"), serial, NEGATIVE_TTL)
    return dns.record(dns.SOA, NEGATIVE_TTL, data, dns.name(domain))


def _spread(memo: Memo, name: str, units: Mapping[Key, T], of: Callable[[T], Mapping[K, V]]) -> Mapping[K, V]:
    """The entries of all units as one mapping; no key is of two."""
    last = memo.get(name)
    before, result = cast("tuple[Mapping[Key, T], Mapping[K, V]]", (*last[0], last[1]) if last else ({}, {}))
    fresh: dict[K, V] = {}
    gone: dict[K, None] = {}
    for key in changes(units, before):
        now, then = (of(unit) if (unit := where.get(key)) is not None else {} for where in (units, before))
        fresh |= {at: value for at, value in now.items() if at not in then or then[at] != value}
        gone |= {at: None for at in then if at not in now}
    if fresh or gone:
        result = replaced(result, fresh, [at for at in gone if at not in fresh])
    memo[name] = ((units,), result)
    return result
