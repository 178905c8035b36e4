"""`podnet ipam`: the addresses given to pods, and whether that agrees with what is really there.

Both read the agent's file (agent/attachments_file.py), whether the agent runs or not. A repair is a CNI DEL sent to the
agent, so there is one way to release an address; only when no agent runs, the record is removed here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import click
import msgspec

from podnet.cli.output import emit, output_option, table
from podnet.cli.target import AgentAway, Node, Target, need_root, target_options
from podnet.errors import UserError
from podnet.network.ipam.audit import Finding, audit
from podnet.network.view import Attachment, base_address

SHOW = """\b
Examples:
  podnet ipam show                  every node of the lab, or this machine
  podnet ipam show --node node1 -o json
"""
CHECK = """\b
Examples:
  podnet ipam check                 findings, exit code 1 when there are any
  podnet ipam check --repair        release what vanished pods still hold
Exit codes: 0 nothing found, or all of it repaired; 1 findings; 2 wrong input.
"""
RANGES = ("RANGE", "USED", "TOTAL", "LAST GIVEN")
ADDRESSES = ("ADDRESS", "NETWORK", "POD", "CONTAINER", "INTERFACE", "MODE")
FINDINGS = ("NODE", "FINDING", "ABOUT", "WHAT", "REPAIR")

DEL_SECONDS = 30.0

node_option = click.option("--node", default=None, metavar="NAME", help="This node only.")


@click.group(epilog="\b\nExamples:\n  podnet ipam show\n  podnet ipam check --repair")
def command() -> None:
    """Show the addresses given to pods; compare them with what is there."""


# -- show


@command.command(epilog=SHOW)
@node_option
@output_option
@target_options
def show(target: Callable[[], Target], node: str | None, output: str) -> None:
    """Show every address that is given, and how full each range is."""
    shown = [_shown(each) for each in target().only(node).nodes]
    emit({"nodes": shown}, output, lambda: "\n\n".join(map(_show_text, shown)))


def _shown(node: Node) -> dict[str, Any]:
    from podnet.agent.attachments_file import read

    records, uses = read(node.state_dir)
    return {
        "node": _name(node),
        "ranges": [msgspec.structs.asdict(use) | {"total": str(use.total)} for use in uses],
        "attachments": [msgspec.to_builtins(record) for record in records],
    }


def _show_text(node: dict[str, Any]) -> str:
    ranges = [(use["range"], use["used"], use["total"], use["last"]) for use in node["ranges"]]
    records = [msgspec.convert(each, Attachment) for each in node["attachments"]]
    rows = [
        (base_address(address), record.network, record.pod, record.container_id[:12], record.ifname, record.mode)
        for record in records
        for address in record.addresses
    ]
    tables = [table(RANGES, ranges), table(ADDRESSES, rows)] if ranges or rows else ["no address was ever given"]
    return "\n\n".join([f"{node['node']}:", *tables])


# -- check


@command.command(epilog=CHECK)
@node_option
@click.option("--repair", is_flag=True, help="Release what vanished pods hold; delete links that belong to nobody.")
@output_option
@target_options
def check(target: Callable[[], Target], node: str | None, repair: bool, output: str) -> int:
    """Compare the records of given addresses with the links and addresses that are really there."""
    need_root("looking into the pods' namespaces")
    found = [(each, finding) for each in target().only(node).nodes for finding in findings(each)]
    shown = [_outcome(each, finding, repair) for each, finding in found]
    emit({"ok": not shown, "findings": shown}, output, lambda: _check_text(shown))
    return 1 if any(each["repaired"] is not True for each in shown) else 0


def findings(node: Node) -> list[Finding]:
    """Every disagreement on one node. Raises UserError.

    Pods come and go meanwhile: only a record that was there before and after the look is compared with what was seen,
    and only a link that neither knew is a stray.
    """
    from podnet.agent.attachments_file import read
    from podnet.agent.census import census, pod_links, strays
    from podnet.kernel.netns import NoNamespace

    before, _ = read(node.state_dir)
    try:
        on_node = pod_links(node.netns)
    except NoNamespace:
        raise UserError(f"the namespace {node.netns} of {_name(node)} is gone: bring the lab up again") from None
    seen = census(before, on_node)
    after, _ = read(node.state_dir)
    steady = [record for record in before if record in after]
    return list(audit(steady, seen, strays((*before, *after), on_node), _pod_cidrs(node)))


def _pod_cidrs(node: Node) -> tuple[str, ...]:
    """The node's ranges as its agent knows them; none when it is away."""
    try:
        return tuple(node.ask("status").get("podCIDRs", ()))
    except AgentAway:
        return ()


def _outcome(node: Node, finding: Finding, repair: bool) -> dict[str, Any]:
    """A finding as it is shown; `repaired` is None when nothing was tried, else True or the reason why not."""
    shown = {"node": _name(node)} | msgspec.structs.asdict(finding)
    return shown | {"repaired": _repaired(node, finding) if repair and finding.repair else None}


def _check_text(shown: list[dict[str, Any]]) -> str:
    if not shown:
        return "every record agrees with what is there"
    return table(
        FINDINGS, [(*(each[key] for key in ("node", "kind", "subject", "message")), _word(each)) for each in shown]
    )


def _word(each: dict[str, Any]) -> str:
    if each["repaired"] is None:
        return f"--repair: {each['repair']}" if each["repair"] else ""
    return "done" if each["repaired"] is True else f"failed: {each['repaired']}"


# -- repair


def _repaired(node: Node, finding: Finding) -> bool | str:
    try:
        if finding.kind == "stray":
            return _delete_link(node, finding.subject)
        return _release(node, finding)
    except (OSError, UserError) as error:
        return str(error)


def _release(node: Node, finding: Finding) -> bool | str:
    """Remove a record: through the agent, or when none runs, from its file."""
    from podnet.agent.attachments_file import read

    identity = (finding.container_id, finding.ifname)
    record = next((each for each in read(node.state_dir)[0] if each.id == identity), None)
    if record is None:
        return True
    try:
        return _ask_agent(f"{node.run_dir}/cni.sock", record)
    except (FileNotFoundError, ConnectionRefusedError):
        asyncio.run(_forget(node.state_dir, record))
        return True


def _ask_agent(path: str, record: Attachment) -> bool | str:
    """A CNI DEL over the agent's socket; True, or the error's text."""
    from podnet.cni.request import join

    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": record.container_id, "CNI_IFNAME": record.ifname}
    config = {"cniVersion": "1.0.0", "name": record.network, "type": "podnet-cni"}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEL_SECONDS)
        connection.connect(path)
        connection.sendall(join(env, msgspec.json.encode(config)))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    if answer[:1] == b"\0":
        return True
    return str(msgspec.json.decode(answer[1:]).get("msg")) if answer else "the agent did not answer"


async def _forget(state_dir: str, record: Attachment) -> None:
    from podnet.agent.attachments import Attachments
    from podnet.agent.attachments_file import boot_id

    store = await Attachments.open(state_dir, boot_id())
    try:
        found = store.get(record.id)
        if found is not None:
            await store.remove(found)
    finally:
        await store.close()


def _delete_link(node: Node, name: str) -> bool | str:
    """Delete a link that belongs to no record; a running agent would have, so it may be at work on it."""
    from podnet.kernel.netlink import ROUTE, Netlink
    from podnet.wire import links

    try:
        node.ask("status")
    except AgentAway:
        with Netlink(ROUTE, node.netns) as netlink:
            failed = netlink.write([links.delete(name)])
        return True if not failed else os.strerror(failed[0].errno)
    return "the agent runs and removes such links itself; look again"


def _name(node: Node) -> str:
    return node.name or socket.gethostname()
