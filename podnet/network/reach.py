"""Which packets prove the network model, and what it means when one of them does not come back as it should.

The model: every pod reaches every pod, every node every pod and every pod every node, and nobody's address is ever
translated on the way. So each ordered pair of endpoints and each address of the target is a `Pair`; for each, packets
are sent (daemons/prober.py), and what both ends saw is a `Measured`. `judge` compares that with the model: the server
must see the address and port that the client has, at the address that was dialled. Nothing here does I/O.
Source: kubernetes.io/docs/concepts/services-networking (the Kubernetes network model).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from podnet.network.value import Value
from podnet.network.view import Attachment, base_address, is_v6


class Endpoint(Value, frozen=True):
    """A pod or a node as packets see it.

    `key` identifies it for good (a pod made anew under the same name is another endpoint); `netns` is the path of its
    namespace, "" the prober's own; `device` the link whose MTU counts; `containers` (name, netns path) of each
    container whose own namespace is known.
    """

    key: str
    name: str
    kind: Literal["pod", "node"]
    node: str
    netns: str
    addresses: tuple[str, ...] = ()
    device: str = ""
    containers: tuple[tuple[str, str], ...] = ()


class Pair(Value, frozen=True):
    """Packets from `source` to the target's `address`."""

    source: Endpoint
    target: Endpoint
    address: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the pair."""
        return (self.source.key, self.target.key, self.address)

    @property
    def relation(self) -> str:
        """Which promise of the network model this is."""
        if self.source.key == self.target.key:
            return f"within the {self.source.kind}"
        where = "same node" if self.source.node == self.target.node else "other node"
        return f"{self.source.kind} to {self.target.kind}, {where}"


class Seen(Value, frozen=True):
    """What the answering socket saw: whose socket it is, the peer's address and port, and its own address."""

    by: str
    peer: str
    port: int
    at: str


class Measured(Value, frozen=True):
    """One probe: tcp (connect and exchange), udp, mtu (udp that may not be fragmented, `size` bytes), localhost.

    `sent_from` is the client socket's own idea of its address; `seen` is None when nothing arrived; `error` is an
    errno's name, "timeout", or "" when the exchange was complete; `path_mtu` what the kernel learned of the path.
    """

    probe: str
    sent_from: tuple[str, int] | None = None
    seen: Seen | None = None
    error: str = ""
    size: int = 0
    path_mtu: int = 0


class Failure(Value, frozen=True, rename={"source": "from", "target": "to"}):
    """A probe that did not do what the model promises: why, and what to look at."""

    source: str
    target: str
    address: str
    relation: str
    probe: str
    reason: str
    look: str


class Report(Value, frozen=True):
    """A whole check. `probes` counts what was measured, `cells` says per pair of endpoint keys whether it passed."""

    ok: bool
    probes: int
    failed: tuple[Failure, ...]
    endpoints: tuple[Endpoint, ...]
    cells: Mapping[tuple[str, str], bool]
    seconds: float = 0.0


def pods_of(node: str, attachments: Iterable[Attachment]) -> list[Endpoint]:
    """The pods of a node: interfaces that share a namespace are one endpoint."""
    shared: dict[str, list[Attachment]] = {}
    for attachment in attachments:
        shared.setdefault(attachment.netns, []).append(attachment)
    return [
        Endpoint(
            key=f"{members[0].container_id}/{members[0].ifname}",
            name=members[0].pod or members[0].container_id[:13],
            kind="pod",
            node=node,
            netns=netns,
            addresses=tuple(base_address(address) for member in members for address in member.addresses),
            device=members[0].ifname,
        )
        for netns, members in shared.items()
    ]


def pairs(endpoints: Sequence[Endpoint]) -> Iterator[Pair]:
    """Every ordered pair with at least one pod in it, for every address of the target whose family the source has."""
    for source in endpoints:
        families = {is_v6(address) for address in source.addresses}
        for target in endpoints:
            if source.key == target.key or source.kind == target.kind == "node":
                continue
            yield from (Pair(source, target, address) for address in target.addresses if is_v6(address) in families)


def localhosts(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """(container, netns path) of each client that must reach the pod's 127.0.0.1; without known containers, itself."""
    return endpoint.containers or (("", endpoint.netns),)


def report(
    endpoints: Sequence[Endpoint], judged: Iterable[tuple[Pair, Failure | None]], seconds: float = 0.0
) -> Report:
    """Sum up; an endpoint's own failures (it could not be opened, or its localhost) stand on the diagonal."""
    failed, cells, probes = [], dict[tuple[str, str], bool](), 0
    for pair, failure in judged:
        probes += 1
        cell = (pair.source.key, pair.target.key)
        cells[cell] = cells.get(cell, True) and failure is None
        if failure is not None:
            failed.append(failure)
    return Report(not failed, probes, tuple(failed), tuple(endpoints), cells, seconds)


def judge(pair: Pair, measured: Measured) -> Failure | None:
    """What is wrong with a measured probe; None when the model holds."""
    found = _lost(pair, measured) if measured.error else _translated(pair, measured)
    return failure(pair, measured.probe, *found) if found else None


def failure(pair: Pair, probe: str, reason: str, look: str) -> Failure:
    """The failure of a pair."""
    return Failure(pair.source.name, pair.target.name, pair.address, pair.relation, probe, reason, look)


def unopened(endpoint: Endpoint, error: str) -> Failure:
    """An endpoint in whose namespace no socket could be opened at its address."""
    address = " ".join(endpoint.addresses)
    if error == "EADDRNOTAVAIL":
        reason = f"{endpoint.kind} {endpoint.name} does not carry its address {address}"
    elif error == "NoNamespace":
        reason = f"the namespace {endpoint.netns} does not exist"
    else:
        reason = f"no socket can be opened in its namespace: {error}"
    look = f"podnet plan --node {endpoint.node} --diff; podnet ipam check"
    return failure(Pair(endpoint, endpoint, address), "open", reason, look)


def _translated(pair: Pair, measured: Measured) -> tuple[str, str] | None:
    """NAT on the way: the two ends disagree on who talks to whom."""
    if measured.seen is None or measured.sent_from is None or measured.probe == "localhost":
        return None
    (client, port), seen = measured.sent_from, measured.seen
    source, target = pair.source, pair.target
    if source.kind == "pod" and client not in source.addresses:
        return f"the pod sends from {client}, not from {' or '.join(source.addresses)}", _plan(source.node)
    if seen.by != target.key or seen.at != pair.address:
        return f"the destination is translated: {seen.at} answered", _nat(source.node, "dnat or redirect", pair.address)
    if (seen.peer, seen.port) != (client, port):
        reason = f"the source is translated: {client} port {port} arrives as {seen.peer} port {seen.port}"
        return reason, _nat(source.node, "masquerade or snat", client)
    return None


def _lost(pair: Pair, measured: Measured) -> tuple[str, str]:
    source, target = pair.source.node, pair.target.node
    if measured.probe == "localhost":
        reason = f"{_words(measured.error)} at the pod's own localhost"
        return reason, f"nsenter --net={pair.target.netns} ip addr show lo"
    if measured.probe == "mtu":
        return _too_big(pair, measured)
    match measured.error:
        case "ENETUNREACH" | "EHOSTUNREACH":
            return f"{_words(measured.error)} from {source} to {pair.address}", _plan(source)
        case "ECONNREFUSED" | "EPERM" | "EACCES" | "ECONNRESET":
            look = f"a rule that rejects: nft list ruleset and iptables-save on {source} and {target}; network policies"
            return f"{_words(measured.error)} on the way to {pair.address}", look
        case "timeout" if measured.seen is not None:
            return "the request arrived, its answer did not", path(target, source)
        case _:
            return f"{_words(measured.error)} from {pair.address}", path(source, target)


def _too_big(pair: Pair, measured: Measured) -> tuple[str, str]:
    source, target = pair.source.node, pair.target.node
    where = f"between {source} and {target}" if source != target else f"of {source}"
    look = f"podnet doctor; ip link: the MTU of each link {where}"
    if measured.error == "EMSGSIZE" or 0 < measured.path_mtu < measured.size:
        known = f", the path takes {measured.path_mtu}" if measured.path_mtu else ""
        return f"a packet of {measured.size} bytes, the MTU of both ends, is too big{known}", look
    if measured.seen is not None:
        return f"the answer of {measured.size} bytes did not come back", look
    return f"MTU black hole: {measured.size} bytes, the MTU of both ends, vanish without a word", look


_SPELLED = {
    "timeout": "no answer within 1 s",
    "ENETUNREACH": "network unreachable",
    "EHOSTUNREACH": "host unreachable",
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "EPERM": "forbidden by a local firewall",
    "EACCES": "prohibited by a route or firewall",
}


def _words(error: str) -> str:
    return _SPELLED.get(error, error)


def _plan(node: str) -> str:
    return f"podnet plan --node {node} --diff"


def _nat(node: str, what: str, address: str) -> str:
    return f"nft list ruleset and iptables-save on {node}: a rule with {what} that matches {address}"


def path(source: str, target: str) -> str:
    """What to look at when packets vanish on the way from one node to another (or the same)."""
    if source == target:
        return f"podnet plan --node {source} --diff; nft list ruleset on {source}: a rule that drops"
    return f"podnet plan --node {source} --diff, the same for {target}; podnet doctor (forwarding, firewalls, ports)"
