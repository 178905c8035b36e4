"""Why a name has the answer that it has, from the cluster's objects, in words for whoever asked.

What the answer is, the zone says itself (zone.py, answers.py), so that no explanation can contradict it. Here a name is
read as people mean it, NAME.NAMESPACE.svc.DOMAIN with something before it or with a part missing, and the first thing
that is not as it would have to be is the reason. Names that exist and look like the one that does not are suggested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Literal

from podnet.network.dns import records
from podnet.network.dns.answers import Elsewhere, answer
from podnet.network.dns.settings import Server, Settings
from podnet.network.dns.zone import Options, zone
from podnet.network.memo import Memo
from podnet.network.value import Value
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import Pod
from podnet.objects.services import SERVICE_NAME, EndpointSlice, Service, SliceEndpoint
from podnet.wire import dns

Outcome = Literal["records", "NODATA", "NXDOMAIN", "outside", "refused"]
SHOWN = 5
"""Names that are listed of many."""

_ADDRESSES = {dns.A: "IPv4", dns.AAAA: "IPv6"}


class Explanation(Value, frozen=True):
    """What kubedns has to say about a name and a type.

    outcome  records there are; NODATA: such a name, and nothing of the type; NXDOMAIN; outside: other servers know;
             refused: nobody is asked such a thing
    why      one sentence, "" when there is nothing to explain
    records  what they say
    instead  names that do exist
    service  the Service that the name belongs to
    """

    outcome: Outcome
    why: str = ""
    instead: tuple[str, ...] = ()
    service: Key | None = None
    records: tuple[str, ...] = ()


class _Why(Value, frozen=True):
    text: str
    instead: tuple[str, ...] = ()


def explain(
    cluster: Cluster, options: Options, name: str, type_: int = dns.A, memo: Memo | None = None, namespace: str = ""
) -> Explanation:
    """About one question as it is sent; `name` with or without a dot at the end, `namespace` as in answers.answer.
    Raises Malformed."""
    asked = dns.lower(dns.name(name))
    said = answer(
        zone(cluster, options, memo=memo), dns.read_query(dns.question(0, asked, type_)), 0, namespace=namespace
    )
    words = [label.decode("ascii", "replace") for label in dns.labels(asked)]
    domain = options.domain.split(".")
    inside = words[-len(domain) :] == domain
    meant = _service(cluster, words[: -len(domain)]) if inside else None
    service = meant.key if meant else None
    if isinstance(said, Elsewhere):
        if said.missing:
            return Explanation("outside", f"the server completes the search and asks others for {dns.text(said.name)}")
        if said.chain:
            return Explanation("records", f"it is another name for {dns.text(said.name)}", (), service)
        why = _outside(cluster, options, words)
        return Explanation("outside", why.text, why.instead)
    heard = dns.read(said)
    if heard.answers:
        return Explanation("records", service=service, records=tuple(sorted(map(dns.shown, heard.answers))))
    if heard.rcode not in (dns.NOERROR, dns.NXDOMAIN):
        return Explanation("refused", "the cluster's DNS server takes no such question")
    why = _inside(cluster, options, words[: -len(domain)], type_)
    return Explanation("NODATA" if heard.rcode == dns.NOERROR else "NXDOMAIN", why.text, why.instead, service)


def asked_outside(settings: Settings, name: str) -> tuple[str, tuple[Server, ...]]:
    """Whom a name outside is asked of: the stub domain ("": none) and its servers, or the upstream servers that the
    ConfigMap names; () when it names none, and the DNS pods' own resolv.conf counts."""
    words = name.lower().rstrip(".").split(".")
    for number in range(len(words)):
        domain = ".".join(words[number:])
        if domain in settings.stubs:
            return domain, settings.stubs[domain]
    return "", settings.upstreams


# -- names of other domains


def _outside(cluster: Cluster, options: Options, words: Sequence[str]) -> _Why:
    if words[-1:] == ["arpa"]:
        return _Why("no Service has this address, and no endpoint that has a hostname")
    if len(words) > 3 and words[2] == "svc":
        wrong = ".".join(words[3:])
        if (words[1], words[0]) in cluster.services:
            right = _name(options, words[0], words[1])
            return _Why(f"the cluster's domain is {options.domain}, not {wrong}", (right,))
    found = _service(cluster, [*words, "svc"] if len(words) > 1 and words[-1] != "svc" else list(words))
    if found is not None and len(words) <= 3:
        right = _name(options, found.metadata.name, found.metadata.namespace)
        return _Why(f"a Service's whole name ends in svc.{options.domain}, which a search list adds", (right,))
    return _Why(f"it is not below {options.domain}, so other servers are asked")


# -- names of the cluster's domain; `words` are what stands before it


def _inside(cluster: Cluster, options: Options, words: Sequence[str], type_: int) -> _Why:
    if not words:
        return _Why("it is the cluster's domain itself, which has no address")
    kind = words[-1]
    if kind == "svc":
        return _of_service(cluster, options, words[:-1], type_)
    if kind == "pod":
        return _of_pod(cluster, options, words[:-1], type_)
    if kind in ("dns", "dns-version"):
        return _Why(f"{kind}.{options.domain} is the DNS server's own, and has nothing of the kind")
    text = f"names below {options.domain} end in svc.{options.domain} (Services) or pod.{options.domain} (pods)"
    if len(words) > 1 and (words[-1], words[-2]) in cluster.services:
        return _Why(text, (_name(options, *words[-2:]),))
    return _Why(text, tuple(_name(options, name, space) for space, name in _called(cluster, words[-1])))


def _of_service(cluster: Cluster, options: Options, words: Sequence[str], type_: int) -> _Why:
    if not words:
        return _Why("it only has namespaces below it")
    space = words[-1]
    if ("", space) not in cluster.namespaces:
        text = f"there is no namespace {space}"
        called = _called(cluster, space) if len(words) == 1 else []
        if called:
            text += f"; {space} is a Service, and its namespace belongs into the name"
            return _Why(text, tuple(_name(options, name, where) for where, name in called))
        return _Why(text, _spaces(cluster, options, words))
    if len(words) == 1:
        return _Why(f"it is the namespace {space}, which has no address: write a Service before it")
    name, head = words[-2], words[:-2]
    service = cluster.services.get((space, name))
    if service is None:
        return _no_service(cluster, options, name, space, head)
    return _of_this(cluster, options, service, head, type_)


def _spaces(cluster: Cluster, options: Options, words: Sequence[str]) -> tuple[str, ...]:
    """The same name in namespaces that are called nearly so."""
    near = get_close_matches(words[-1], [key[1] for key in cluster.namespaces], 3)
    if len(words) == 1:
        return tuple(f"{space}.svc.{options.domain}" for space in near)
    return tuple(_name(options, words[-2], space) for space in near if (space, words[-2]) in cluster.services)


def _no_service(cluster: Cluster, options: Options, name: str, space: str, head: Sequence[str]) -> _Why:
    text = f"there is no Service {name} in namespace {space}" + (", so nothing below it" if head else "")
    if head and (name, head[-1]) in cluster.services:
        whole = _name(options, head[-1], name)
        return _Why(f"{text}; {head[-1]} of namespace {name} is {whole}", (whole,))
    if others := _called(cluster, name):
        where = ", ".join(other for other, _ in others)
        return _Why(
            f"{text}; there is {name} in namespace {where}", tuple(_name(options, name, other) for other, _ in others)
        )
    near = get_close_matches(name, [each for where, each in cluster.services if where == space], 3)
    return _Why(text, tuple(_name(options, each, space) for each in near))


def _of_this(cluster: Cluster, options: Options, service: Service, head: Sequence[str], type_: int) -> _Why:
    """Of a Service that is there."""
    spec, name, whole = service.spec, service.metadata.name, _name(options, service.metadata.name, service.key[0])
    headless, slices = spec.cluster_ip == "None", _slices(cluster, service)
    if spec.type == "ExternalName":
        return _Why(f"Service {name} is only another name for {spec.external_name}", (whole,) if head else ())
    if not spec.cluster_ip:
        return _Why(f"Service {name} has no address yet")
    if headless and not any(records.service_names(options.domain, service, slices).nodes):
        return _Why(f"Service {name} is headless and {_nobody(service, slices)}")
    if head and head[-1].startswith("_"):
        return _port(service, slices, whole, head)
    if head:
        return _endpoint(cluster, service, slices, whole, head) if headless else _Why(
            f"only endpoints of headless Services have names of their own; {name} has the address {spec.cluster_ip}",
            (whole,),
        )  # fmt: skip
    if family := _ADDRESSES.get(type_):
        return _Why(f"Service {name} has no {family} address" if not headless else f"no endpoint of it is {family}")
    if type_ == dns.SRV:
        return _Why("SRV records stand at the names of ports", tuple(_ports(service, slices, whole)))
    return _Why(f"Service {name} has addresses and no such record")


def _nobody(service: Service, slices: Iterable[EndpointSlice]) -> str:
    """Why a headless Service has no ready endpoint."""
    unready = [_called_endpoint(each) for part in slices for each in part.endpoints]
    if unready:
        more = f" and {len(unready) - SHOWN} more" if len(unready) > SHOWN else ""
        return f"none of its endpoints is ready: {', '.join(unready[:SHOWN])}{more}"
    if service.spec.selector:
        wanted = ", ".join(f"{key}={value}" for key, value in service.spec.selector.items())
        return f"has no endpoint: no pod that has an address is labelled {wanted}"
    return "has no endpoint: it has no selector, and no EndpointSlice names it"


def _called_endpoint(endpoint: SliceEndpoint) -> str:
    address = endpoint.addresses[0] if endpoint.addresses else "without an address"
    return f"{endpoint.target_ref.name} ({address})" if endpoint.target_ref else address


def _port(service: Service, slices: Iterable[EndpointSlice], whole: str, head: Sequence[str]) -> _Why:
    """An SRV record that there is not, or something else at the name of one."""
    ports, name = [*_ports(service, slices, whole)], service.metadata.name
    if len(head) == 1:
        return _Why(f"SRV records stand at _PORT._PROTOCOL.{whole}", tuple(ports))
    asked = f"{head[-2].removeprefix('_')}/{head[-1].removeprefix('_').upper()}"
    if f"{'.'.join(head)}.{whole}" in ports:
        return _Why("at a port's name stands only SRV", tuple(ports))
    if not ports:
        return _Why(f"no port of Service {name} has a name, and only ports that are named have SRV records")
    return _Why(f"Service {name} has no port {asked} that is named so", tuple(ports))


def _ports(service: Service, slices: Iterable[EndpointSlice], whole: str) -> Iterator[str]:
    """The names at which its SRV records stand."""
    own = [(port.name, port.protocol) for port in service.spec.ports]
    if service.spec.cluster_ip == "None":
        own = [(port.name, port.protocol) for part in slices for port in part.ports]
    for name, protocol in dict.fromkeys(own):
        if name:
            yield f"_{name}._{protocol.lower()}.{whole}"


def _endpoint(
    cluster: Cluster, service: Service, slices: Iterable[EndpointSlice], whole: str, head: Sequence[str]
) -> _Why:
    """A name below a headless Service."""
    every = [(each, part) for part in slices for each in part.endpoints if each.addresses]
    wanted = head[-1]
    known = [f"{each.hostname or records.dashed(each.addresses[0])}.{whole}" for each, _ in every if _ready(each)]
    for each, _ in every:
        pod = each.target_ref.name if each.target_ref else ""
        if len(head) == 1 and wanted in (each.hostname, records.dashed(each.addresses[0]), pod):
            if not _ready(each):
                return _Why(f"the endpoint {_called_endpoint(each)} is not ready")
            if wanted == (each.hostname or records.dashed(each.addresses[0])):
                return _Why("the endpoint has an address of the other IP family only")
            own = f"{each.hostname or records.dashed(each.addresses[0])}.{whole}"
            if each.hostname:
                return _Why(f"the endpoint has a hostname, {each.hostname}, and is called so", (own,))
            sub = service.metadata.name
            return _Why(f"pod {pod} has no hostname here: set spec.hostname, and spec.subdomain: {sub}", (own,))
    text = f"no endpoint of Service {service.metadata.name} is called {'.'.join(head)}"
    if (service.key[0], wanted) in cluster.pods:
        text += f", and pod {wanted} is none of its endpoints"
    return _Why(text, tuple(get_close_matches(f"{wanted}.{whole}", known, 3)) or tuple(known[:3]))


def _ready(endpoint: SliceEndpoint) -> bool:
    return endpoint.conditions.ready is not False


def _of_pod(cluster: Cluster, options: Options, words: Sequence[str], type_: int) -> _Why:
    if options.pods == "disabled":
        return _Why("the DNS server was told to have no names for pods (--pods disabled)")
    if len(words) < 2:
        return _Why("a pod's name is its address with dashes and its namespace, as 10-244-0-5.demo")
    first, space = words[0], words[-1]
    if ("", space) not in cluster.namespaces:
        return _Why(f"there is no namespace {space}")
    if (pod := cluster.pods.get((space, first))) is not None:
        own = tuple(f"{records.dashed(ip)}.{space}.pod.{options.domain}" for ip in records.pod_addresses(pod))
        return _Why("pods are called by their addresses with dashes, not by their names", own)
    address = _address(first)
    if address is None or len(words) > 2:
        return _Why(f"{'.'.join(words[:-1])} is no address with dashes, as 10-244-0-5")
    having = [pod for pod in cluster.pods.values() if address in _all_addresses(pod)]
    for pod in having:
        if not records.pod_addresses(pod):
            what = "uses its node's network" if pod.spec.host_network else "has ended"
            return _Why(f"pod {pod.metadata.name}, whose address is {address}, {what}, and has no name any more")
        if pod.key[0] == space:
            return _Why(f"pod {pod.metadata.name} has no record of this type at its name")
    others = tuple(f"{first}.{pod.key[0]}.pod.{options.domain}" for pod in having)
    where = f"; pod {'/'.join(having[0].key)} has it" if having else ""
    return _Why(f"no pod of namespace {space} has the address {address}{where}", others)


def _all_addresses(pod: Pod) -> tuple[str, ...]:
    return (pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips))


def _address(label: str) -> str | None:
    for text in (label.replace("-", "."), label.replace("-", ":")):
        try:
            return str(ip_address(text))
        except ValueError:
            continue
    return None


# -- looking


def _service(cluster: Cluster, words: Sequence[str]) -> Service | None:
    """That a name before the domain belongs to: [..., name, namespace, svc]."""
    return cluster.services.get((words[-2], words[-3])) if len(words) > 2 and words[-1] == "svc" else None


def _called(cluster: Cluster, name: str) -> list[Key]:
    """Services of this name, in whichever namespace."""
    return sorted(key for key in cluster.services if key[1] == name)[:SHOWN]


def _slices(cluster: Cluster, service: Service) -> list[EndpointSlice]:
    space, name = service.key
    parts: Mapping[Key, EndpointSlice] = cluster.endpointslices
    return [
        part
        for key, part in sorted(parts.items())
        if key[0] == space and part.metadata.labels.get(SERVICE_NAME) == name
    ]


def _name(options: Options, name: str, namespace: str) -> str:
    return f"{name}.{namespace}.svc.{options.domain}"
