"""Resources as text for people: golden files, `podnet plan` and log lines all read the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from podnet.state.host import Daemon
from podnet.state.iptables import IptablesChain
from podnet.state.nft import NftTable
from podnet.state.plan import Plan, place
from podnet.state.resource import NodeState, Resource

SIGNS = {"add": "+", "change": "~", "replace": "!", "delete": "-"}


def describe(resource: Resource) -> str:
    """One line (a table or chain: several) that shows every managed field that is not its default."""
    if isinstance(resource, NftTable):
        return f"nfttable {resource.family} {resource.name} {{\n{resource.body.rstrip()}\n}}"
    if isinstance(resource, IptablesChain) and resource.rules:
        rules = "".join(f"  {rule}\n" for rule in resource.rules)
        return f"iptableschain {resource.family} {resource.table} {resource.name} {{\n{rules}}}"
    if isinstance(resource, Daemon):
        return " ".join(("daemon", resource.name, *resource.argv, *(() if resource.current else ("(outdated)",))))
    words = " ".join(_fields(resource))
    return f"{type(resource).__name__.lower()} {words}"


def _fields(value: msgspec.Struct) -> Iterator[str]:
    for field in msgspec.structs.fields(type(value)):
        content = getattr(value, field.name)
        if field.required:
            yield f"{field.name}={content}" if field.name not in ("name", "dst") else str(content)
        elif isinstance(content, msgspec.Struct):
            yield f"{field.name}=({' '.join(_fields(content))})"
        elif content is not None and content != field.default:
            yield field.name if content is True else f"{field.name}={content}"


def listing(state: NodeState | Iterable[Resource]) -> str:
    """A whole state, sorted as it would be applied."""
    resources = state.values() if isinstance(state, Mapping) else state
    return "".join(f"{describe(resource)}\n" for resource in sorted(resources, key=place))


def difference(plan: Plan) -> str:
    """A plan as signed lines: + add, ~ change, ! delete and add, - delete."""
    return "".join(f"{SIGNS[step.verb]} {describe(step.resource)}\n" for step in plan.steps)
