"""What the answers of a pod's DNS servers say about who gave them: from which cache, and whether the layers agree.

    pod ──► [node cache] ──► dnsmasq of a DNS pod ──► kubedns of that pod
                                      └──► servers of a stub domain, upstream servers

dnsmasq tells by itself, without being disturbed: what it passes on keeps the flag AA that kubedns sets, what comes from
its cache never has it, and the records' times count down. Of names outside, whose servers may not set AA, its counters
tell: `misses.bind` grows by one for each question that it passes on. (A question without RD would not do: dnsmasq 2.90
never answers one from its cache, asks its server, and keeps the answer.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from podnet.network.dns.explain import Explanation
from podnet.network.dns.zone import completes
from podnet.network.value import Value
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import Container, Pod
from podnet.objects.services import SERVICE_NAME
from podnet.wire import dns

KUBEDNS_PORT = 10053


class Answer(Value, frozen=True):
    """One record of an answer; `ttl` in seconds."""

    name: str
    type: str
    ttl: int
    text: str


class Heard(Value, frozen=True):
    """What one server said: `rcode` None when nothing came, for the reason in `error`; `aa`: it speaks for itself;
    `negative_ttl`: seconds for which the name may be remembered as missing; `seconds`: how long it took."""

    rcode: int | None = None
    aa: bool = False
    answers: tuple[Answer, ...] = ()
    negative_ttl: int | None = None
    seconds: float = 0.0
    error: str = ""

    @property
    def code(self) -> str:
        """For people; NODATA is an answer without records."""
        if self.rcode is None:
            return self.error
        if self.rcode == dns.NOERROR and not self.answers:
            return "NODATA"
        return dns.RCODES.get(self.rcode, f"RCODE {self.rcode}")

    @property
    def ttl(self) -> int | None:
        """Seconds that a cache may keep it."""
        return min((each.ttl for each in self.answers), default=self.negative_ttl)

    @property
    def texts(self) -> tuple[str, ...]:
        """What the records say, in no order of meaning."""
        return tuple(sorted(each.text for each in self.answers))


class Counters(Value, frozen=True):
    """What a dnsmasq counts, and its servers as address#port."""

    hits: int
    misses: int
    servers: tuple[str, ...] = ()


class DnsPod(Value, frozen=True):
    """A pod behind the DNS Service.

    front       what the Service leads to: "dnsmasq", "kubedns", or "" for another program
    port        where that listens; `kubedns`: where kubedns does, 0: there is none
    completes   whose searches it completes: off, annotated, all
    pods        as in zone.Options; `config_map`: of stub domains and upstream servers, "" when it reads none
    """

    name: str
    address: str
    front: str = ""
    port: int = 53
    kubedns: int = 0
    completes: str = "off"
    pods: str = "verified"
    config_map: Key | None = None


class Layer(Value, frozen=True):
    """What one server said when it was asked itself."""

    pod: str
    program: str
    heard: Heard


def heard(message: dns.Message, seconds: float) -> Heard:
    """Of a message."""
    answers = tuple(
        Answer(dns.text(each.name), dns.TYPE_NAMES.get(each.type, f"TYPE{each.type}"), each.ttl, dns.shown(each))
        for each in message.answers
    )
    negative = [each.ttl for each in message.authority if each.type == dns.SOA]
    return Heard(message.rcode, bool(message.flags & dns.AA), answers, min(negative, default=None), seconds)


def dns_pods(cluster: Cluster, service: Key) -> tuple[DnsPod, ...]:
    """Those that the DNS Service leads to, by name."""
    own = [
        part
        for key, part in cluster.endpointslices.items()
        if key[0] == service[0] and part.metadata.labels.get(SERVICE_NAME) == service[1]
    ]
    found = {}
    for part in own:
        port = next((each.port for each in part.ports if each.protocol == "UDP" and each.port), 53)
        for each in part.endpoints:
            if each.addresses and each.conditions.ready is not False:
                name = each.target_ref.name if each.target_ref else each.addresses[0]
                found[name, part.address_type] = _dns_pod(
                    cluster.pods.get((service[0], name)), f"{service[0]}/{name}", each.addresses[0], port
                )
    return tuple(found[key] for key in sorted(found))


def _dns_pod(pod: Pod | None, name: str, address: str, port: int) -> DnsPod:
    words = next((words for each in (pod.spec.containers if pod else ()) if (words := _kubedns(each))), None)
    if words is None:
        return DnsPod(name, address, "", port)
    at = int(_option(words, "--dns-port", str(53)))
    config = _option(words, "--config-map", "")
    return DnsPod(
        name,
        address,
        "kubedns" if at == port else "dnsmasq",
        port,
        at,
        _option(words, "--complete-searches", "off"),
        _option(words, "--pods", "verified"),
        (_option(words, "--config-map-namespace", "kube-system"), config) if config else None,
    )


def _kubedns(container: Container) -> tuple[str, ...] | None:
    words = (*container.command, *container.args)
    return words if any(word.rpartition("/")[2] in ("kubedns", "kube-dns") for word in words[:6]) else None


def _option(words: Sequence[str], name: str, default: str) -> str:
    for number, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and number + 1 < len(words):
            return words[number + 1]
    return default


def completed_for(pod: Pod | None, servers: Iterable[DnsPod], *, asked: bool = False) -> str:
    """The namespace in which kubedns completes a pod's searches, "" when it does not. `asked`: when it is asked itself,
    and not where the DNS Service leads to."""
    how = {each.completes for each in servers if each.front == "kubedns" or (asked and each.kubedns)}
    if pod is None or not how or pod.spec.host_network:
        return ""
    return pod.metadata.namespace if how != {"off"} and completes(pod, "all" in how) else ""


def origin(said: Heard, before: Counters | None, after: Counters | None, ours: bool, node_cache: bool = False) -> str:
    """Where an answer comes from, in words. `ours`: of a name that kubedns knows; the counters are of the server that
    was asked, None when it is no dnsmasq; `node_cache`: it is a node's."""
    if said.rcode is None:
        return "-"
    if before is None or after is None:
        return "itself" if ours else "other servers"
    if said.aa and ours:
        return "kubedns"
    if after.misses == before.misses:
        return "itself: no server for it" if said.rcode == dns.REFUSED else "its cache"
    if node_cache:
        return "a DNS pod's cache" if ours else "the DNS Service"
    return "its cache" if ours else "other servers"


def disagreements(asked: str, expected: Explanation, layers: Sequence[Layer]) -> Iterator[str]:
    """Sentences about layers of which one says what another doesn't, for a name of the cluster's own."""
    if expected.outcome == "outside":
        return
    right = expected.records if expected.outcome == "records" else ()
    codes = {"NODATA": "NODATA", "NXDOMAIN": "NXDOMAIN", "refused": "REFUSED"}
    for each in layers:
        said = each.heard
        if said.rcode is None:
            yield f"{each.pod}: {each.program} gives no answer about {asked} ({said.error})"
        elif expected.outcome == "records" and not right:
            continue  # an alias of a name outside: others know what it leads to
        elif said.texts == right and (right or said.code in (codes.get(expected.outcome), "NOTIMP")):
            continue
        elif said.rcode == dns.SERVFAIL:
            yield f"{each.pod}: {each.program} says SERVFAIL about {asked}: kubedns has not heard all from the API"
        else:
            should = ", ".join(right) or expected.outcome
            yield f"{each.pod}: {each.program} says {_shown(said)} about {asked}, the API has {should}: {_stale(each)}"


def _shown(said: Heard) -> str:
    return ", ".join(said.texts) or said.code


def _stale(layer: Layer) -> str:
    if layer.program == "kubedns":
        return "its watch is behind, look at its log"
    if layer.heard.aa:
        return "kubedns told it so"
    return f"its cache is stale, for {layer.heard.ttl} s at most" if layer.heard.ttl is not None else "it is stale"
