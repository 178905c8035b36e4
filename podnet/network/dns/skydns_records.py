"""What kube2sky keeps in etcd: for each name of the cluster, the keys at which SkyDNS looks, and what stands there.

A name is a path, its labels turned round: `web.demo.svc.cluster.local` is /skydns/local/cluster/svc/demo/web. Below it
is one key for each address, called by a hash of its own value, so that a name has as many addresses as it has keys. A
port with a name is a key further down, /skydns/local/cluster/svc/demo/web/_tcp/_http/<hash>, whose host is the name
that has the address. For instance

    /skydns/local/cluster/svc/demo/web/2f1020d6
    {"host":"10.254.162.44","priority":10,"weight":10,"ttl":30,"targetstrip":0}

is, key and value, byte for byte what kube2sky 1.11 wrote. It knew addresses of Services, of the endpoints of headless
ones, and of pods by their address (`pod/demo/10-244-1-5`). podnet writes as many records again where there is a second
address family, an endpoint's hostname as a label of its own (as kube2sky 1.14 did), and the alias of an ExternalName.

What to do follows from comparing: `steps` says what to put and to take away so that etcd holds what is wanted.
Source: kubernetes v1.1 cluster/addons/dns/kube2sky/kube2sky.go; skynetservices/skydns msg/service.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from podnet.network.memo import Memo, each, group
from podnet.network.value import Value
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import Pod
from podnet.objects.services import SERVICE_NAME, EndpointSlice, Service, SlicePort

PREFIX = "skydns"
PRIORITY, WEIGHT, TTL = 10, 10, 30
PROTOCOLS = ("tcp", "udp", "sctp")

Records = dict[str, str]
"""By key, the JSON that stands there."""


class _Record(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """In upstream's order; the port is left out when there is none."""

    host: str
    port: int = 0
    priority: int
    weight: int
    ttl: int
    targetstrip: int


class Steps(Value, frozen=True):
    """What to do to etcd: values to put, keys to take away, and whole subtrees to take away before."""

    values: Records
    gone: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()


def path(name: str, prefix: str = PREFIX) -> str:
    """Where a domain name stands in etcd."""
    return "/".join(("", prefix, *reversed(name.rstrip(".").split("."))))


def label(value: str) -> str:
    """What a record is called: the 32 bits FNV-1a of its JSON, in hexadecimal."""
    found = 0x811C9DC5
    for byte in value.encode():
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{found:x}"


def value(host: str, port: int = 0) -> str:
    """A record's JSON; `host` is an address or a name that ends in a dot."""
    made = _Record(host=host, port=port, priority=PRIORITY, weight=WEIGHT, ttl=TTL, targetstrip=0)
    return msgspec.json.encode(made).decode()


def records(memo: Memo, cluster: Cluster, domain: str) -> Records:
    """Everything that should stand below the domain's path; `domain` such as cluster.local."""
    slices = group(memo, "skydns slices", cluster.endpointslices, _service_of)
    services = each(
        memo,
        "skydns services",
        (domain,),
        (cluster.services, slices),
        lambda key: dict(service_records(cluster.services[key], slices.get(key, {}), domain)),
        lambda key: key,
    )
    pods = each(
        memo,
        "skydns pods",
        (domain,),
        (cluster.pods,),
        lambda key: dict(pod_records(cluster.pods[key], domain)),
        lambda key: key,
    )
    every: Records = {}
    for part in (services, pods):
        for made in part.values():
            every.update(made)
    return every


def _service_of(part: EndpointSlice) -> Key | None:
    name = part.metadata.labels.get(SERVICE_NAME)
    return (part.metadata.namespace, name) if name else None


def service_records(service: Service, slices: Mapping[Key, EndpointSlice], domain: str) -> Iterator[tuple[str, str]]:
    """The keys and values of one Service."""
    name = f"{service.metadata.name}.{service.metadata.namespace}.svc.{domain.rstrip('.')}."
    spec = service.spec
    if spec.type == "ExternalName":
        yield _at(name, value(f"{spec.external_name.rstrip('.')}."))
    elif spec.cluster_ip == "None":
        yield from _endpoints(service, slices, name)
    elif spec.cluster_ip:
        for address in spec.cluster_ips or (spec.cluster_ip,):
            yield _at(name, value(address))
        for port in spec.ports:
            yield from _port(name, port.name, port.protocol, port.port, label(value(spec.cluster_ip)), name)


def _at(name: str, made: str) -> tuple[str, str]:
    return f"{path(name)}/{label(made)}", made


def _port(name: str, port: str, protocol: str, number: int | None, called: str, host: str) -> Iterator[tuple[str, str]]:
    """Where SRV is looked for; a port without a name has no record."""
    if port and number:
        yield f"{path(name)}/_{protocol.lower()}/_{port}/{called}", value(host, number)


def _endpoints(service: Service, slices: Mapping[Key, EndpointSlice], name: str) -> Iterator[tuple[str, str]]:
    """A headless Service's name has the addresses of its ready endpoints, and each has a name below it."""
    unready = service.spec.publish_not_ready_addresses
    for part in slices.values():
        for endpoint in part.endpoints if part.address_type != "FQDN" else ():
            if endpoint.addresses and (unready or endpoint.conditions.ready is not False):
                yield from _endpoint(name, endpoint.addresses[0], endpoint.hostname, part.ports)


def _endpoint(name: str, address: str, hostname: str | None, ports: tuple[SlicePort, ...]) -> Iterator[tuple[str, str]]:
    made = value(address)
    called = hostname or label(made)
    host = f"{called}.{name}"
    yield _at(host, made) if hostname else _at(name, made)
    for port in ports:
        yield from _port(name, port.name, port.protocol, port.port, called, host)


def pod_records(pod: Pod, domain: str) -> Iterator[tuple[str, str]]:
    """The keys and values of one pod: its address, dashed, as a name. One that has ended has none any more."""
    status = pod.status
    if status.phase in ("Succeeded", "Failed"):
        return
    for address in dict.fromkeys(filter(None, (status.pod_ip, *(one.ip for one in status.pod_ips)))):
        dashed = address.replace(".", "-").replace(":", "-")
        yield _at(f"{dashed}.{pod.metadata.namespace}.pod.{domain.rstrip('.')}.", value(address))


# -- what to do


def steps(held: Mapping[str, str], wanted: Mapping[str, str], root: str) -> Steps:
    """From what etcd holds below `root` to what is wanted there. A Service that is gone goes as one subtree, and no
    key is in two of the parts. What stands elsewhere than below svc and pod is other people's."""
    held = {key: made for key, made in held.items() if key.startswith((f"{root}/svc/", f"{root}/pod/"))}
    alive = {_owner(key, root) for key in wanted}
    trees = {owner for owner in {_owner(key, root) for key in held} if owner not in alive and owner not in held}
    gone = (key for key in held if key not in wanted and _owner(key, root) not in trees)
    return Steps({key: made for key, made in wanted.items() if held.get(key) != made}, tuple(gone), tuple(trees))


def supposed(held: Mapping[str, str], wanted: Mapping[str, str], written: Mapping[str, str], root: str) -> Records:
    """What etcd 2 holds, with what it hides: what we wrote is still there as long as what it shows of the same Service
    is as wanted."""
    seen = {key: made for key, made in wanted.items() if not hidden(key)}
    broken = {_owner(key, root) for key, made in seen.items() if held.get(key) != made}
    intact = {_owner(key, root) for key in seen} - broken
    return {**held, **{key: made for key, made in written.items() if _owner(key, root) in intact}}


def leftovers(held: Mapping[str, str], root: str) -> tuple[str, ...]:
    """Where etcd 2 may hide what others wrote: below each Service that it shows."""
    found = dict.fromkeys(_owner(key, root) for key in held if key.startswith(f"{root}/svc/"))
    return tuple(f"{owner}/_{protocol}" for owner in found for protocol in PROTOCOLS)


def hidden(key: str) -> bool:
    """Whether etcd 2 shows a key to nobody who does not name it."""
    return "/_" in key


def _owner(key: str, root: str) -> str:
    """The path of the Service or of the pod's address that a key belongs to: root, svc or pod, namespace, name."""
    return "/".join(key.split("/")[: root.count("/") + 4])
