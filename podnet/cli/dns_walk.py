"""A pod's search for a name, walked with real questions from inside the pod's network namespace.

They go to the servers of its own resolv.conf, in the order in which its libc sends them. When all is said, each of them
is put to every DNS pod's dnsmasq and kubedns as well (not before: that fills their caches), so that one that is behind
is seen; and what should have been said is worked out from the API's objects (network/dns/explain.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click
import msgspec

from podnet.cli.target import AgentAway, Node, Target, endpoints, endpoints_on_record
from podnet.errors import UserError
from podnet.network.dns import search
from podnet.network.dns.explain import Explanation, asked_outside, explain
from podnet.network.dns.search import Resolver, Step
from podnet.network.dns.settings import Settings, read
from podnet.network.dns.tracing import Counters, DnsPod, Heard, Layer, completed_for, disagreements, dns_pods, origin
from podnet.network.dns.zone import Options
from podnet.network.memo import Memo
from podnet.network.reach import Endpoint
from podnet.objects.cluster import Cluster, Key
from podnet.objects.network import DnsSpec
from podnet.wire import dns

if TYPE_CHECKING:
    from podnet.daemons.dns_talk import DnsTalk

SECONDS = 1.0
"""Seconds for each of the servers that are asked to compare."""


class Asked(msgspec.Struct, frozen=True):
    """One question of a step, and its answer.

    server     of resolv.conf that was heard last; `by`: who that is; `origin`: where it has it from
    layers     what each DNS pod's programs say themselves
    faults     sentences about layers that disagree, and servers that don't answer
    """

    name: str
    type: str
    server: str
    by: str
    origin: str
    heard: Heard
    explained: Explanation
    layers: tuple[Layer, ...] = ()
    faults: tuple[str, ...] = ()


class Taken(msgspec.Struct, frozen=True):
    """A step of the search, and its questions."""

    step: Step
    asked: tuple[Asked, ...]

    @property
    def found(self) -> bool:
        """Whether there is any record."""
        return any(each.heard.answers for each in self.asked)


class Trace(msgspec.Struct, frozen=True):
    """Everything."""

    pod: str
    name: str
    libc: str
    resolver: Resolver
    steps: tuple[Taken, ...]
    advice: str
    endpoints: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Of all steps, each once."""
        return tuple(dict.fromkeys(each for step in self.steps for asked in step.asked for each in asked.faults))


class Walk:
    """What is known while one name is traced."""

    def __init__(self, target: Target, source: str, libc: search.Libc) -> None:
        self.pod, self.node = _find(target, source)
        self.libc = libc
        self.resolver = search.parse(resolv_conf(self.pod), libc)
        self.cluster = asyncio.run(_cluster(target.kubeconfig))
        spec = self.cluster.network.spec.dns if self.cluster.network else DnsSpec()
        self.service: Key = (spec.service.partition("/")[0], spec.service.partition("/")[2])
        self.local = spec.local_addresses if spec.node_local else ()
        self.servers = dns_pods(self.cluster, self.service)
        pods = next((each.pods for each in self.servers), "verified")
        self.options = Options(spec.domain, pods, self.service)
        self.settings = _settings(self.cluster, self.servers, spec.domain)
        own = self.cluster.pods.get((self.pod.name.partition("/")[0], self.pod.name.partition("/")[2]))
        self.namespace = completed_for(own, self.servers)
        self.direct = completed_for(own, self.servers, asked=True)
        self.memo: Memo = {}

    def trace(self, name: str, types: Sequence[str]) -> Trace:
        """Walk the search as the pod's resolver does, then look behind each answer."""
        walked: list[Taken] = []
        for step in search.steps(name, self.resolver, self.libc):
            walked.append(Taken(step, tuple(self._each_type(step.name, types))))
            heard = [each.heard for each in walked[-1].asked]
            rcode = next((each.rcode for each in heard if each.rcode != dns.NOERROR), dns.NOERROR)
            if search.ends(rcode, walked[-1].found, self.libc):
                break
        taken = tuple(Taken(each.step, tuple(map(self._compared, each.asked))) for each in walked)
        last = taken[-1]
        outside = last.found and last.asked[0].explained.outcome == "outside"
        advice = search.needless(len(taken), name, self.resolver, len(types)) if outside else ""
        reached = tuple(_reached(self.node, self.pod, last.asked))
        return Trace(self.pod.name, name, self.libc, self.resolver, taken, advice, reached)

    def _each_type(self, name: str, types: Sequence[str]) -> Iterator[Asked]:
        """The questions of a step; a libc sends them at once, so who waited for one in vain need not wait again."""
        for type_ in types:
            asked = self._asked(name, type_)
            yield asked
            if asked.heard.rcode is None:
                return

    def _asked(self, name: str, type_: str) -> Asked:
        """One question: each server in turn, as often as resolv.conf says, until one gives a useful answer."""
        number = dns.TYPES[type_]
        expected = explain(self.cluster, self.options, name, number, self.memo, self.namespace)
        said, server, by, source = Heard(error="no answer"), "", "nobody", "-"
        silent: dict[str, str] = {}
        for server in self.resolver.servers * self.resolver.attempts:
            said, by, source = self._ask(server, name, number, expected.outcome != "outside")
            if said.rcode in (dns.NOERROR, dns.NXDOMAIN):
                break
            silent[server] = f"{server} says about {name} {type_}: {said.code}"
        silent.pop(server, None)  # what it says is the step's own answer
        return Asked(name, type_, server, by, source, said, expected, (), tuple(silent.values()))

    def _compared(self, asked: Asked) -> Asked:
        """With what each layer says itself, and what is wrong with that."""
        number, ours = dns.TYPES[asked.type], asked.explained.outcome != "outside"
        layers = tuple(self._layers(asked.name, number)) if ours else ()
        faults = list(asked.faults)
        for layer in layers:
            namespace = self.direct if layer.program == "kubedns" else ""
            expected = explain(self.cluster, self.options, asked.name, number, self.memo, namespace)
            faults += disagreements(f"{asked.name} {asked.type}", expected, [layer])
        if asked.heard.rcode is None and not self.servers:
            faults.append(f"no pod behind Service {'/'.join(self.service)} is ready, so nobody can answer there")
        if not ours and asked.heard.rcode not in (dns.NOERROR, dns.NXDOMAIN):
            faults += self._outside(asked.name, number)
        return msgspec.structs.replace(asked, layers=layers, faults=tuple(faults))

    def _ask(self, server: str, name: str, type_: int, ours: bool) -> tuple[Heard, str, str]:
        """The answer, who gave it, and where it has it from."""
        try:
            with _talk(self.pod.netns, server) as talk:
                before = talk.counters()
                said = talk.ask(name, type_, self.resolver.timeout)
                after = talk.counters() if before else None
                by, cache = self._who(server, talk, before)
        except OSError as error:
            return Heard(error=error.strerror or str(error)), server, "-"
        return said, by if said.rcode is not None else server, origin(said, before, after, ours, cache)

    def _who(self, server: str, talk: DnsTalk, counters: Counters | None) -> tuple[str, bool]:
        """Who it is that answers at an address; and whether it is the node's own cache."""
        service = self.cluster.services.get(self.service)
        own = (service.spec.cluster_ips or (service.spec.cluster_ip,)) if service else ()
        program = "dnsmasq" if counters else "kubedns"
        ours = tuple(each for each in self.servers if each.front == program) or self.servers
        kubedns = tuple(f"#{each.kubedns}" for each in ours)
        cached = counters is not None and not any(each.endswith(kubedns) for each in counters.servers)
        if cached and self.local and server in (*own, *self.local):
            return f"dnsmasq of node {self.pod.node}", True
        if server not in (*own, *self.local):
            return next((f"{each.name} {program}" for each in self.servers if each.address == server), server), False
        address = talk.behind(self.node.netns)
        found = [each for each in ours if each.address == address] or ours
        names = " or ".join(each.name for each in found if (":" in each.address) == (":" in server))
        return f"{names or '/'.join(self.service)} {found[0].front if found else ''}".strip(), False

    def _layers(self, name: str, type_: int) -> Iterator[Layer]:
        """What each DNS pod's programs say when they are asked themselves, those nearest to the truth last."""
        for pod in self.servers:
            ports = {pod.front or "server": pod.port} | ({"kubedns": pod.kubedns} if pod.kubedns else {})
            for program, port in ports.items():
                yield Layer(pod.name, program, self._direct(pod.address, port, name, type_))

    def _outside(self, name: str, type_: int) -> Iterator[str]:
        """Why names outside are not answered."""
        domain, servers = asked_outside(self.settings, name)
        what = f"stub domain {domain}" if domain else "upstream server"
        for each in servers:
            said = self._direct(each.address, each.port, name, type_)
            if said.rcode is None:
                yield f"{each} ({what}) gives {self.pod.name} no answer either ({said.error})"
            elif said.rcode in (dns.SERVFAIL, dns.REFUSED):
                yield f"{each} ({what}) itself says {said.code}"
        if not servers:
            config = next((each.config_map for each in self.servers if each.config_map), None)
            where = f"upstreamNameservers of ConfigMap {'/'.join(config)}" if config else "kubedns' --nameservers"
            yield f"no upstream server that answers is known: name one in {where}; till then the DNS pods' own count"

    def _direct(self, address: str, port: int, name: str, type_: int) -> Heard:
        try:
            with _talk(self.pod.netns, address, port) as talk:
                return talk.ask(name, type_, SECONDS)
        except OSError as error:
            return Heard(error=error.strerror or str(error))


def _talk(netns: str, address: str, port: int = 53) -> DnsTalk:
    """Raises UserError when the pod is gone, OSError when it has no way there."""
    from podnet.daemons.dns_talk import DnsTalk
    from podnet.kernel.netns import NoNamespace

    try:
        return DnsTalk(netns, address, port)
    except NoNamespace:
        raise UserError("the pod ended a moment ago: try again") from None


def _find(target: Target, source: str) -> tuple[Endpoint, Node]:
    """The pod that is meant. Raises UserError."""
    known: list[tuple[Endpoint, Node]] = []
    for node in target.nodes:
        known += [(each, node) for each in _known(node) if each.kind == "pod"]
    found = [each for each in known if each[0].name == source or each[0].name.partition("/")[2] == source]
    if not found:
        example = known[0][0].name if known else "demo/web-1"
        raise UserError(f"--from {source} is no pod here that has a network of its own: write it as {example}")
    if len({each.name for each, _ in found}) > 1:
        raise UserError(
            f"--from {source} may be {' or '.join(each.name for each, _ in found)}: write the namespace too"
        )
    return found[0]


def _known(node: Node) -> list[Endpoint]:
    """From the agent, else from its records: pods ask while it is away."""
    try:
        return endpoints(node)
    except AgentAway as away:
        try:
            return endpoints_on_record(node)
        except UserError:
            click.echo(f"podnet: left out: {away}", err=True)
            return []


def resolv_conf(pod: Endpoint) -> str:
    """What a container of the pod reads: any process of its network namespace that has files of its own. Raises
    UserError."""
    from podnet.lab.process import identity, members

    here = identity(pod.netns)
    pids = members(frozenset([here])) if here else []
    mounts = identity("/proc/self/ns/mnt")
    for pid in sorted(pids, key=lambda pid: identity(f"/proc/{pid}/ns/mnt") == mounts):
        with suppress(OSError), open(f"/proc/{pid}/root/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read()
    raise UserError(f"no container of {pod.name} runs at the moment, so nothing tells its resolv.conf")


async def _cluster(kubeconfig: str | None) -> Cluster:
    """What the API has, as far as names depend on it. Raises UserError."""
    from podnet.client.api import Api, ApiError
    from podnet.client.config import ConfigError, load
    from podnet.objects import kinds

    needed = (
        kinds.SERVICES, kinds.ENDPOINTSLICES, kinds.NAMESPACES, kinds.PODS, kinds.CONFIGMAPS, kinds.NETWORKCONFIGS,
    )  # fmt: skip
    made = Cluster()
    try:
        async with Api(load(kubeconfig)) as api:
            lists = await asyncio.gather(*(api.list(kind) for kind in needed))
    except (ApiError, ConfigError) as error:
        raise UserError(str(error)) from None
    for kind, found in zip(needed, lists, strict=True):
        made = made.with_objects(kind.plural, {each.key: each for each in found})
    return made


def _settings(cluster: Cluster, servers: Iterable[DnsPod], domain: str) -> Settings:
    """What the DNS pods' ConfigMap says of names outside."""
    named = next((each.config_map for each in servers if each.config_map), ("kube-system", "kube-dns"))
    found = cluster.configmaps.get(named)
    return read(found.data, domain=domain)[0] if found else Settings()


def _reached(node: Node, pod: Endpoint, asked: Sequence[Asked]) -> Iterator[str]:
    """Where the addresses lead that were found, as the node's agent knows it."""
    from podnet.cli.service import met
    from podnet.network.proxy.explain import client_at
    from podnet.network.proxy.live import place
    from podnet.network.proxy.shown import ServicesShown

    for key in dict.fromkeys(each.explained.service for each in asked if each.heard.answers):
        if key is None:
            continue
        texts = {text for each in asked for text in each.heard.texts}
        query = urlencode({"namespace": key[0], "name": key[1]})
        with suppress(AgentAway, msgspec.ValidationError):
            shown = msgspec.convert(node.ask(f"services?{query}"), ServicesShown)
            for service in shown.services:
                for address in pod.addresses:
                    for each in met(client_at(address, shown.surroundings), service, shown):
                        if each.address in texts and (":" in each.address) == (":" in address):
                            ends = ", ".join(
                                f"{place(share.endpoint.address, share.endpoint.port)} ({share.percent:.0f}%)"
                                for share in each.shares
                            )
                            at = f"{place(each.address, each.number)}/{each.protocol}"
                            yield f"{at} leads to {ends}" if ends else f"{at}: {each.outcome} {each.why or ''}".rstrip()
