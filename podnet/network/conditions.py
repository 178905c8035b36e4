"""Whether Services and their routes can be honoured, as conditions in their own status.

A ServiceRoute always says so (Accepted); a Service, which is not podnet's own kind, bears podnet.dev/Accepted=False
only while something of it can't be honoured. All of it follows from the cluster's objects alone, so it matters not
which node writes it (agent/conditions.py): what only one node meets (a port that another program has) that node says on
its own Node object first. The times of conditions are the writer's, hence `amended`.
Source: k8s.io/apimachinery/pkg/apis/meta/v1/types.go (Condition), pkg/api/meta/conditions.go (SetStatusCondition).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import msgspec

from podnet.network.memo import Memo, each, recall
from podnet.network.proxy.feature import LOCALHOST
from podnet.network.proxy.service_ports import outer_addresses
from podnet.network.view import Problem
from podnet.network.viewing import node_info, service_problems
from podnet.objects.cluster import Cluster, Key
from podnet.objects.core import ACCEPTED, Condition, Node
from podnet.objects.network import PROBLEMS_ANNOTATION, ServiceRoute
from podnet.objects.services import Service

TYPES = {"Service": "podnet.dev/Accepted", "ServiceRoute": ACCEPTED}
"""The type of our condition, by kind."""

LONGEST = 32768
"""Characters that a condition's message may have."""

About = tuple[str, str, str]
"""kind, namespace and name"""

Due = Mapping[About, Condition | None]
"""What our condition ought to be where it is not so: without a time; None: there should be none."""

NOTHING: tuple[Problem, ...] = ()
MOST, NAMED = 100, 3
"""So many problems one node tells of, and so many nodes are named in a message."""

_REPORT = msgspec.json.Decoder(tuple[Problem, ...])


def due(cluster: Cluster, memo: Memo, unusable: Iterable[Problem] = ()) -> Due:
    """The conditions that are to be written. `unusable` are of documents that could not even be read."""
    served = cluster.network is not None and cluster.network.spec.proxy.mode != "none"
    sources = service_problems(cluster, memo, _rivals(cluster, memo)) + ((_reported(cluster, memo),) if served else ())
    told = recall(memo, "told", sources, lambda: _by_object(chain.from_iterable(sources)))
    marked = _marked(cluster.services, memo)
    wanted: dict[About, Condition | None] = {}
    for about in told.keys() | marked.keys():
        service = cluster.services.get(about[1:])
        if service is not None and about[0] == "Service":
            _differs(wanted, about, service, service.status.conditions, _refusal(about, told.get(about, NOTHING)))
    for key, route in cluster.serviceroutes.items():
        about = ("ServiceRoute", *key)
        verdict = (_refusal(about, told.get(about, NOTHING)) or _granted(about)) if served else None
        _differs(wanted, about, route, route.status.conditions, verdict)
    for about, problems in _by_object(unusable).items():
        wanted[about] = _refusal(about, problems)
    return wanted


def report(problems: Iterable[Problem]) -> str:
    """What a node says of Services that it alone can't honour; "" for nothing."""
    mine = (problem for problem in problems if problem.object.split("/")[0] in TYPES)
    listed = sorted(mine, key=msgspec.structs.astuple)[:MOST]
    return msgspec.json.encode(listed).decode() if listed else ""


def _reported(cluster: Cluster, memo: Memo) -> tuple[Problem, ...]:
    """What single nodes say; the same of several nodes is one problem."""
    nodes = cluster.nodes
    said = each(memo, "reports", (), (nodes,), lambda key: _read(nodes[key]), lambda key: key[1])

    def joined() -> tuple[Problem, ...]:
        by_problem: dict[Problem, list[str]] = {}
        for name, problems in sorted(said.items()):
            for problem in problems:
                by_problem.setdefault(problem, []).append(name)
        return tuple(_at(problem, names) for problem, names in by_problem.items())

    return recall(memo, "reported", (said,), joined)


def _read(node: Node) -> tuple[Problem, ...]:
    try:
        return _REPORT.decode(node.metadata.annotations.get(PROBLEMS_ANNOTATION, "[]"))
    except msgspec.MsgspecError:
        return ()


def _at(problem: Problem, names: list[str]) -> Problem:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return msgspec.structs.replace(problem, message=f"{', '.join(names[:NAMED])}{more}: {problem.message}")


def _by_object(problems: Iterable[Problem]) -> Mapping[About, tuple[Problem, ...]]:
    found: dict[About, tuple[Problem, ...]] = {}
    for problem in problems:
        kind, *key = problem.object.split("/")
        if kind in TYPES and len(key) == 2:
            about = (kind, key[0], key[1])
            found[about] = (*found.get(about, ()), problem)
    return found


def _marked(services: Mapping[Key, Service], memo: Memo) -> Mapping[About, bool]:
    """The Services that bear a condition of ours."""
    bear = each(memo, "bear", (), (services,), lambda key: _ours(services[key]), lambda key: ("Service", *key))
    return recall(memo, "marked", (bear,), lambda: {about: True for about, one in bear.items() if one})


def _ours(service: Service) -> bool:
    return any(condition.type == TYPES["Service"] for condition in service.status.conditions)


def _rivals(cluster: Cluster, memo: Memo) -> tuple[str, ...]:
    """The nodes' addresses that some Service wants for itself: only there an address's port can clash with a node port
    otherwise than at every node."""
    nodes, services = cluster.nodes, cluster.services
    own = each(memo, "of nodes", (), (nodes,), lambda key: node_info(nodes[key]).addresses, lambda key: key)
    outer = each(memo, "outer", (), (services,), lambda key: outer_addresses(services[key]), lambda key: key)

    def shared() -> tuple[str, ...]:
        at_nodes = {LOCALHOST, *(address for addresses in own.values() for address in addresses)}
        return tuple(sorted(at_nodes.intersection(chain.from_iterable(outer.values()))))

    return recall(memo, "rivals", (own, outer), shared)


def _refusal(about: About, problems: Iterable[Problem]) -> Condition | None:
    """All that is wrong in one condition; its reason is the first one's."""
    several = tuple(problems)
    if not several:
        return None
    message = "; ".join(dict.fromkeys(problem.message for problem in several))
    return Condition(TYPES[about[0]], "False", several[0].reason, message[:LONGEST])


def _granted(about: About) -> Condition:
    return Condition(TYPES[about[0]], "True", "Accepted", "nothing stands against it")


def _differs(
    wanted: dict[About, Condition | None],
    about: About,
    of: Service | ServiceRoute,
    present: Iterable[Condition],
    verdict: Condition | None,
) -> None:
    """Note what ought to be, unless it is so."""
    mine = next((condition for condition in present if condition.type == TYPES[about[0]]), None)
    if verdict is not None:
        verdict = msgspec.structs.replace(verdict, observed_generation=of.metadata.generation)
    if (mine and msgspec.structs.replace(mine, last_transition_time=None)) != verdict:
        wanted[about] = verdict


def amended(
    present: Iterable[Mapping[str, Any]], type_: str, wanted: Condition | None, now: str
) -> list[Mapping[str, Any]]:
    """A status's conditions as they should be; `now` is the time of a change, and those of others stay as they are."""
    listed = list(present)
    place = next((place for place, each in enumerate(listed) if each.get("type") == type_), len(listed))
    before = listed[place] if place < len(listed) else {}
    if wanted is None:
        return listed[:place] + listed[place + 1 :]
    since = before.get("lastTransitionTime") if before.get("status") == wanted.status else None
    mine = msgspec.to_builtins(msgspec.structs.replace(wanted, last_transition_time=since or now))
    return [*listed[:place], mine, *listed[place + 1 :]]
