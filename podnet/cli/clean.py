"""`podnet clean`: take away from a node all that bears podnet's mark, and give back the kernel parameters it changed.

It is the same difference as everywhere, to an empty wish: what is read as ours is what goes. What bears no mark is not
even looked at. Pods lose their network with this, so it refuses to work beside a running agent, which would undo it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import click

from podnet.cli.output import emit, output_option
from podnet.cli.target import AgentAway, Node, Target, need_root, node_option, target_options
from podnet.errors import UserError
from podnet.state.host import Sysctl
from podnet.state.nft import Element
from podnet.state.plan import RANK, plan
from podnet.state.resource import NodeState
from podnet.state.text import describe

EXAMPLES = """\b
Examples:
  podnet clean --dry-run                list what would go
  podnet clean                          remove it; addresses given to pods stay on record
  podnet clean --all                    and forget the records too
  podnet clean --lab default --node node1
Exit codes: 0 all is gone (also if there was nothing), 1 something could not be removed, 2 wrong input.
"""


@click.command(epilog=EXAMPLES)
@click.option("--dry-run", is_flag=True, help="List only, change nothing.")
@click.option("--all", "everything", is_flag=True, help="Also the state directory: records of addresses.")
@click.option("--force", is_flag=True, help="Even while the agent runs.")
@node_option("Of a lab: this node. Else: make sure that it is this one.")
@output_option
@target_options
def command(
    target: Callable[[], Target], dry_run: bool, everything: bool, force: bool, node: str | None, output: str
) -> int:
    """Remove everything of podnet from this machine, or from a node of a lab.

    Links, routes, neighbours, forwarding entries, nft tables and the CNI configuration go; kernel parameters get the
    values back that they had before podnet. Nothing else is touched. Running it again does nothing.
    """
    need_root("removing links, routes and tables")
    chosen = _one(target(), node)
    alive = _answers(chosen)
    if alive and not dry_run and not force:
        raise UserError("the agent is running and would put everything back: stop it first, or say --force")
    files = list(_files(chosen, everything, alive))
    removed, failed = _clean(chosen, files, dry_run)
    result = {"node": chosen.name or "this machine", "dryRun": dry_run, "removed": removed, "failed": failed}
    emit(result, output, lambda: _text(removed, failed, dry_run))
    return 1 if failed else 0


def _one(target: Target, name: str | None) -> Node:
    """The one node meant. A lab's must be named: there is more than one. Raises UserError."""
    if target.lab and name is None:
        names = ", ".join(node.name for node in target.nodes)
        raise UserError(
            f"lab {target.lab} is up: say --node with one of {names}, or --run-dir for this machine itself;"
            f" podnet lab down removes a whole lab"
        )
    return target.only(name).nodes[0]


def _answers(node: Node) -> bool:
    """Whether the node's agent runs."""
    try:
        node.ask("status")
    except AgentAway:
        return False
    return True


def _clean(node: Node, files: list[str], dry_run: bool) -> tuple[list[str], list[str]]:
    """What was, or would be, removed; and what could not be."""
    from podnet.kernel.dataplane import KernelDataplane
    from podnet.kernel.netns import NoNamespace

    made = not os.path.isdir(node.state_dir)
    os.makedirs(node.state_dir, mode=0o700, exist_ok=True)
    try:
        dataplane = KernelDataplane(node.state_dir, node.netns, patient=False)
    except NoNamespace:
        raise UserError(f"the namespace {node.netns} does not exist: podnet lab down removes what is left") from None
    try:
        actual = dataplane.read({})
        listed = [*_described(actual), *files]
        if dry_run:
            return listed, []
        outcome = dataplane.apply(plan({}, actual))
    finally:
        dataplane.close()
        if made:
            shutil.rmtree(node.state_dir)
    failed = [str(error) for error in outcome.failed]
    for path in files if not failed else ():  # a failed step still needs what was remembered about it
        _remove(path)
    return listed, failed


def _described(actual: NodeState) -> Iterator[str]:
    """A line for everything there is of ours; the elements of a table go without saying."""
    for resource in sorted(actual.values(), key=lambda each: (RANK[each.kind], each.key)):
        if not isinstance(resource, Element):
            again = " (gets its former value)" if isinstance(resource, Sysctl) else ""
            yield describe(resource).splitlines()[0].removesuffix(" {") + again


def _files(node: Node, everything: bool, alive: bool) -> Iterator[str]:
    """The CNI configuration, the sockets that a dead agent left; with `everything` the state directory."""
    from podnet.agent.conflist import NAME

    sockets = [f"{node.run_dir}/{name}" for name in ("cni.sock", "agent.sock")] if not alive else []
    state = [node.state_dir] if everything else [f"{node.state_dir}/nft.json", f"{node.state_dir}/sysctl.json"]
    yield from filter(os.path.lexists, [f"{node.conf_dir}/{NAME}", *sockets, *state])


def _remove(path: str) -> None:
    """One of ours; a missing one is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def _text(removed: list[str], failed: list[str], dry_run: bool) -> str:
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb}  {each}" for each in removed] + [f"FAILED  {each}" for each in failed]
    return "\n".join(lines) or "there is nothing of podnet here"
