"""ExternalPods: a port of its node for each listed port of each selected pod, for as long as the pod lives.

A pod gets its numbers in the very write that gives it to a node, so its containers find them in their environment; one
that was there before its ExternalPods gets them with the next write, which `reconcile` asks for. What it has it keeps
while its name, container port and protocol stay; nobody but `settle` writes the annotation. Of two ExternalPods that
publish the same name on a pod the first by name counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from podnet.network.controllers.actions import Action, Patch, Report
from podnet.network.controllers.node_ports import FULL, Numbers, port_token
from podnet.network.controllers.service_ips import Token
from podnet.objects.cluster import Key
from podnet.objects.core import ACCEPTED, Condition, Node, Pod
from podnet.objects.kinds import EXTERNALPODS, PODS
from podnet.objects.leases import EXTERNAL_ANNOTATION, ExternalPod, ExternalPods, ExternalPort, Published, published

ENDED = ("Succeeded", "Failed")
ADDRESS_TYPES = {"node": "InternalIP", "external": "ExternalIP"}


def host_token(number: int) -> Token:
    """What stands for a hostPort: several pods may have one, each on its node."""
    return Token("host", number)


def tokens(pod: Pod) -> Iterator[Token]:
    """The node ports and hostPorts that a pod has; none once it has ended for good."""
    if pod.status.phase not in ENDED:
        yield from (port_token(each.port) for each in published(pod.metadata))
        ports = (port.host_port for container in pod.spec.containers for port in container.ports)
        yield from map(host_token, filter(None, ports))


def settle(
    document: dict[str, Any], pod: Pod, before: Pod | None, of: Sequence[ExternalPods], node: Node | None, free: Numbers
) -> None:
    """Write a pod's annotation into its `document`. `of`: all of its namespace; `free`: where numbers come from."""
    had = published(before.metadata) if before else ()
    given = had if pod.status.phase in ENDED else tuple(_published(pod, had, of, node, free))
    annotations = document["metadata"].setdefault("annotations", {})
    if given:
        annotations[EXTERNAL_ANNOTATION] = msgspec.json.encode(given).decode()
    else:
        annotations.pop(EXTERNAL_ANNOTATION, None)
        if not annotations:
            del document["metadata"]["annotations"]


def _published(
    pod: Pod, had: tuple[Published, ...], of: Sequence[ExternalPods], node: Node | None, free: Numbers
) -> Iterator[Published]:
    known = {each.what: each for each in had}
    for wish in wanted(pod, of, node):
        old = known.get(wish.what)
        own = wish.container_port if pod.spec.host_network else old.port if old else free.any()
        address = wish.address or (old.address if old else "")
        if own and address:
            yield msgspec.structs.replace(wish, address=address, port=own)


def wanted(pod: Pod, of: Iterable[ExternalPods], node: Node | None) -> Iterator[Published]:
    """What a pod with a node shall have, still without numbers; an address is "" while the node has none."""
    names = set[str]()
    for each in sorted(of, key=lambda each: each.metadata.name) if pod.spec.node_name else ():
        if selects(each, pod):
            for port in each.spec.ports:
                if port.name not in names:
                    names.add(port.name)
                    address = _address(node, each.spec.address)
                    yield Published(port.name, address, 0, port.container_port, port.protocol)


def selects(external: ExternalPods, pod: Pod) -> bool:
    """Whether a pod is one of these."""
    selector = external.spec.selector
    own = external.metadata.namespace == pod.metadata.namespace and external.metadata.deletion_timestamp is None
    return own and bool(selector) and selector.items() <= pod.metadata.labels.items()


def _address(node: Node | None, which: str) -> str:
    """External ones are few: without one it is the node's own."""
    for kind in (ADDRESS_TYPES.get(which, ""), ADDRESS_TYPES["node"]):
        for entry in node.status.addresses if node else ():
            if entry.type == kind:
                return entry.address
    return ""


def reconcile(externals: Iterable[ExternalPods], pods: Iterable[Pod], nodes: Mapping[Key, Node]) -> Iterator[Action]:
    """Have pods written again that lack a port or have one too many, and tell in each status who has what and what is
    wrong."""
    spaces: dict[str, list[ExternalPods]] = {}
    for external in externals:
        spaces.setdefault(external.metadata.namespace, []).append(external)
    selected: dict[Key, list[ExternalPod]] = {external.key: [] for of in spaces.values() for external in of}
    beaten: dict[Key, list[str]] = {key: [] for key in selected}
    for pod in sorted(pods, key=lambda pod: pod.key):
        of = spaces.get(pod.metadata.namespace, [])
        if (of or EXTERNAL_ANNOTATION in pod.metadata.annotations) and pod.status.phase not in ENDED:
            node = nodes.get(("", pod.spec.node_name))
            yield from _again(pod, list(wanted(pod, of, node)))
            for external in of:
                if selects(external, pod) and pod.spec.node_name:
                    selected[external.key].append(_row(pod, external))
            for key, why in _beaten(pod, of):
                beaten[key].append(why)
    for of in spaces.values():
        for external in of:
            yield from _status(external, tuple(selected[external.key]), beaten[external.key])


def _again(pod: Pod, wishes: list[Published]) -> Iterator[Action]:
    """A patch that changes nothing but has `settle` look."""
    have = published(pod.metadata)
    address = {each.what: each.address for each in have}
    right = [wish.what for wish in wishes if wish.address in ("", address.get(wish.what))]
    if [each.what for each in have] != [wish.what for wish in wishes] or len(right) != len(wishes):
        yield Patch(PODS, *pod.key, {})


def _row(pod: Pod, external: ExternalPods) -> ExternalPod:
    names = [port.name for port in external.spec.ports]
    have = tuple(each for each in published(pod.metadata) if each.name in names)
    waiting = tuple(name for name in names if name not in {each.name for each in have})
    return ExternalPod(pod.metadata.name, pod.spec.node_name, have, waiting)


def _beaten(pod: Pod, of: Iterable[ExternalPods]) -> Iterator[tuple[Key, str]]:
    """Whose ports a pod publishes otherwise, since another's name comes first."""
    first: dict[str, tuple[str, ExternalPort, str]] = {}
    for each in sorted(of, key=lambda each: each.metadata.name) if pod.spec.node_name else ():
        for port in each.spec.ports if selects(each, pod) else ():
            winner, *wish = first.setdefault(port.name, (each.metadata.name, port, each.spec.address))
            if wish != [port, each.spec.address]:
                yield each.key, f"port {port.name} of pod {pod.metadata.name} is that of ExternalPods {winner}"


def _status(external: ExternalPods, rows: tuple[ExternalPod, ...], beaten: Sequence[str]) -> Iterator[Action]:
    waits = [
        f"pod {row.pod} waits for {', '.join(row.waiting)}: its node has no address, or the {FULL}"
        for row in rows
        if row.waiting
    ]
    before = next((each for each in external.status.conditions if each.type == ACCEPTED), Condition())
    verdict = _verdict(waits, beaten, external.metadata.generation)
    if before.status == verdict.status:
        verdict = msgspec.structs.replace(verdict, last_transition_time=before.last_transition_time)
    if rows != external.status.pods or verdict != before:
        status = {"pods": rows, "conditions": [verdict]}
        document = msgspec.json.decode(msgspec.json.encode({"status": status}))
        yield Patch(EXTERNALPODS, *external.key, document, "status")
    for reason, why in (*(("Waiting", why) for why in waits), *(("NameTaken", why) for why in beaten)):
        yield Report(EXTERNALPODS, external, reason, why)


def _verdict(waits: Sequence[str], beaten: Sequence[str], generation: int) -> Condition:
    """Without its time; the first thing that is wrong stands for all."""
    why = (*waits, *beaten)
    if not why:
        return Condition(ACCEPTED, "True", "Accepted", "nothing stands against it", None, generation)
    more = f", and {len(why) - 1} more" if len(why) > 1 else ""
    return Condition(ACCEPTED, "False", "Waiting" if waits else "NameTaken", why[0] + more, None, generation)
