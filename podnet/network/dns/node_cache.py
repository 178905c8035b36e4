"""The DNS cache of one node, dnsmasq at the DNS Service's own address and at a link-local one; how much a pod may ask.

From a packet's point of view. A pod asks 10.96.0.10 (or 169.254.20.10) -> its packet is not one too many for this pod
-> its destination is in `caches`, so connection tracking leaves it alone, and nobody translates what is not tracked ->
the address is on the link `podnet-dns`, so it is the node's own: dnsmasq answers, untracked likewise.

What the cache has not, it asks at the next address, 169.254.20.11: as 169.254.20.10 it is one more external address
that the DNS Service has on this node, so the proxy, in whichever mode, leads from there to any ready endpoint, and the
cache's settings never depend on who that is.

A pod whose searches the server completes (answers.py) is in `known`: its packets pass by the cache, which would hide
its address, and would give what it hears to others.

When the cache does not answer, its addresses are in `fallen`, and that is all: packets are tracked again, so the proxy
leads them to the Service's endpoints. Only where its virtual servers would take packets for the link-local address away
from the cache (mode ipvs) is that a frontend no sooner than then; and the Service's own address is ipvs's for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from podnet.network.service_port import ServicePort
from podnet.network.value import Value
from podnet.network.view import NodeView, Problem, Words, is_v6
from podnet.objects.network import NETWORK_NAME, DnsSpec, NetworkSpec
from podnet.state.host import Daemon
from podnet.state.links import Bridge
from podnet.state.nft import Element, NftTable
from podnet.state.resource import LINK_PREFIX, TABLE_PREFIX, Resource
from podnet.state.routes import Address

NAME = "dns-cache"
LINK = f"{LINK_PREFIX}-dns"
TABLE = f"{TABLE_PREFIX}dns"
PORT = 53
PROBE_MARK = 0x504E0053
"""Of packets that go to the cache itself, fallen or not: the agent's question whether it answers."""

NAMES = 10_000
"""How many answers it remembers: NodeLocal DNSCache's number."""

FORWARDED = 2_000
"""Questions that may wait for their answers at a time."""

BURST = 4
"""What fraction of a second's queries a pod may ask at once: others wait behind them."""

CONNECTIONS = 200
"""By TCP, at a time; dnsmasq's own 20 one pod could take all."""

RETRY = "250,3000"
"""Milliseconds after which it asks again, each time later, from another port and so perhaps another endpoint; and for
how long."""

_FAMILIES = {False: ("ip", "ipv4_addr"), True: ("ip6", "ipv6_addr")}
_SETS = """\
  set caches-%(ip)s { type %(type)s; }
  set fallen-%(ip)s { type %(type)s; }
  set known-%(ip)s { type %(type)s; }
  set resolvers-%(ip)s { type %(type)s; }
  set limited-%(ip)s { type %(type)s; size 65536; flags dynamic,timeout; timeout 60s; counter; }
  chain cached-%(ip)s {
    %(ip)s saddr @known-%(ip)s accept
    %(ip)s daddr @fallen-%(ip)s accept
    %(ip)s daddr @caches-%(ip)s notrack
  }
  chain limited-%(ip)s {
    update @limited-%(ip)s { %(ip)s saddr }
    drop
  }
"""
_HOOKS = """\
  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    meta l4proto != { tcp, udp } accept
    th dport != 53 accept
%(limits)s    jump cached-ip
    jump cached-ip6
  }
  chain output {
    type filter hook output priority raw; policy accept;
    meta l4proto != { tcp, udp } accept
    ip saddr @caches-ip th sport 53 notrack accept
    ip6 saddr @caches-ip6 th sport 53 notrack accept
    th dport != 53 accept
    meta mark %(mark)#x notrack accept
    jump cached-ip
    jump cached-ip6
  }
"""
_ASKERS = "  set askers-%(rate)d-%(ip)s { type %(type)s; size 65536; flags dynamic,timeout; timeout 10s; }\n"
"""Who asked lately: each has a bucket of its own, which keeps its rate; so another rate is another set."""

_LIMIT = """\
    %(ip)s saddr { %(pods)s } %(ip)s daddr @resolvers-%(ip)s update @askers-%(rate)d-%(ip)s \
{ %(ip)s saddr limit rate over %(rate)d/second burst %(burst)d packets } goto limited-%(ip)s
"""


class Places(Value, frozen=True):
    """Where a node's cache is asked, and where it asks itself; () and "" when there is none."""

    asked: Words = ()
    upstream: str = ""


def places(view: NodeView, mode: str) -> Places:
    """Of this node; `mode` is the proxy's."""
    spec, service = view.network.dns, view.resolver.addresses
    families = {is_v6(cidr) for cidr in view.network.pod_cidrs} & set(map(is_v6, service))
    local = tuple(address for address in spec.local_addresses if is_v6(address) in families)
    if not (spec.node_local or view.resolver.cached) or mode == "none" or not local:
        return Places()
    own = () if mode == "ipvs" else tuple(address for address in service if is_v6(address) in families)
    return Places((*local, *own), min(map(upstream, local), key=is_v6))


def upstream(local: str) -> str:
    """The address after a local one."""
    return str(ip_address(local) + 1)


def keep(view: NodeView, mode: str) -> Iterator[Resource]:
    """The node feature; `mode` is the proxy's. A cache that is no longer wanted goes in two steps, so that no query
    meets one that is gone: as long as it is said to answer, queries are only led around it."""
    spec, there = view.network.dns, places(view, mode)
    limited = tuple(dict.fromkeys((*view.resolver.addresses, *there.asked))) if spec.rate_limit else ()
    if limited or there.asked:
        yield NftTable("inet", TABLE, _body(view))
    yield from (_element("resolvers", address) for address in limited)
    if not there.asked:
        return
    yield from (_element("caches", address) for address in there.asked)
    if not (view.resolver.cached and spec.node_local):
        yield from (_element("fallen", address) for address in there.asked)
    yield from (_element("known", address) for address in view.resolver.known)
    yield Bridge(name=LINK, alias="podnet DNS cache")  # as good as a dummy link, which not every kernel has
    for address in (*there.asked, there.upstream):
        yield Address(LINK, f"{address}/{128 if is_v6(address) else 32}", deprecated=True)
    yield _dnsmasq(there)


def extended(ports: tuple[ServicePort, ...], addresses: Words) -> tuple[ServicePort, ...]:
    """The DNS Service's ports with more external addresses."""
    return tuple(
        msgspec.structs.replace(port, external_ips=(*port.external_ips, *more)) if more else port
        for port in ports
        for more in [tuple(address for address in addresses if is_v6(address) == port.v6)]
    )


def frontends(spec: DnsSpec, cached: bool, mode: str) -> Words:
    """The addresses that the DNS Service has on a node besides its own."""
    if not (spec.node_local or cached):
        return ()
    own = () if mode == "ipvs" and cached and spec.node_local else spec.local_addresses
    return (*own, *map(upstream, spec.local_addresses))


def mistakes(spec: DnsSpec) -> Iterator[tuple[str, str]]:
    """(field, message) of what makes the settings unusable."""
    if not spec.domain or any(not label for label in spec.domain.split(".")) or spec.domain != spec.domain.lower():
        yield "domain", f"{spec.domain!r} is no domain in lower case; write one such as cluster.local"
    if [bool(part) for part in spec.service.split("/")] != [True, True]:
        yield "service", f"{spec.service!r} is no namespace/name; write one such as kube-system/kube-dns"
    if spec.rate_limit < 0:
        yield "rateLimit", "must be a number of queries a second, or 0 for any number"
    families = []
    for index, text in enumerate(spec.local_addresses):
        try:
            address = ip_address(text)
        except ValueError:
            yield f"localAddresses[{index}]", f"{text!r} is no address; write one such as 169.254.20.10"
            continue
        families.append(address.version)
        if str(address) != text:
            yield f"localAddresses[{index}]", f"{text!r} is to be written as {address}"
    if len(set(families)) < len(families) or not spec.local_addresses:
        yield "localAddresses", "must hold one address, or one for each IP family"


def problems(network: NetworkSpec) -> Iterator[Problem]:
    """What can't be honoured."""
    if network.dns.node_local and network.proxy.mode == "none":
        message = "the DNS cache of nodes asks the DNS Service by podnet's proxy: choose a spec.proxy.mode"
        yield Problem(f"NetworkConfig/{NETWORK_NAME}", "NodeCacheNeedsProxy", message, "spec.dns.nodeLocal")


def _dnsmasq(there: Places) -> Daemon:
    options = (
        "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--user=nobody",
        "--no-resolv", "--no-hosts", "--bind-interfaces", f"--port={PORT}",
        *(f"--listen-address={address}" for address in there.asked),
        f"--server={there.upstream}", f"--cache-size={NAMES}", f"--dns-forward-max={FORWARDED}",
        f"--fast-dns-retry={RETRY}", "--port-limit=4", f"--max-tcp-connections={CONNECTIONS}",
    )  # fmt: skip
    sockets = tuple(f"{protocol}/{address}/{PORT}" for address in there.asked for protocol in ("udp", "tcp"))
    return Daemon(NAME, ("dnsmasq", *options), sockets=sockets)


def _body(view: NodeView) -> str:
    sets, limits, rate = "", "", view.network.dns.rate_limit
    for v6, (ip, type_) in _FAMILIES.items():
        words = {"ip": ip, "type": type_, "rate": rate, "burst": max(rate // BURST, 1)}
        sets += _SETS % words
        if rate and (pods := ", ".join(cidr for cidr in view.me.pod_cidrs if is_v6(cidr) == v6)):
            sets += _ASKERS % words
            limits += _LIMIT % {**words, "pods": pods}
    return sets + _HOOKS % {"limits": limits, "mark": PROBE_MARK}


def _element(name: str, address: str) -> Element:
    return Element("inet", TABLE, f"{name}-{_FAMILIES[is_v6(address)][0]}", address)
