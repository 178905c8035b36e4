"""`podnet lab`: a cluster on one machine, made of network namespaces, and ways into it.

The work is done in podnet/lab; here are the words: what was asked for, what is going on, what to try next. Modules that
are slow to import are imported by the commands that need them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podnet.cli.output import emit, output_option, table
from podnet.errors import UserError
from podnet.lab import registry

if TYPE_CHECKING:
    from podnet.lab.registry import Lab
    from podnet.lab.report import Report

T = TypeVar("T")

TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "umount": "mount"}
VXLAN = ("vxlan", "id", "1", "dstport", "8472")
NAME_HELP = "Which lab; several can run side by side."


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in registry.names() if name.startswith(incomplete)]


name_option = click.option(
    "--name", default=registry.DEFAULT_NAME, show_default=True, shell_complete=_complete, help=NAME_HELP
)


EXEC_EXAMPLES = """\b
Examples:
  podnet lab exec node1 -- ip -d link
  podnet lab exec demo/web-1 -c side -- cat /etc/resolv.conf
"""


def _complete_where(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from podnet.lab.entering import places

    found = registry.find(ctx.params.get("name", registry.DEFAULT_NAME))
    return [place for place in places(found) if place.startswith(incomplete)] if found else []


@click.group()
def lab() -> None:
    """A cluster of network namespaces on this machine.

    Every node is a namespace on a fabric of its own, with the real agent and the real CNI plugin; containers are
    processes of this machine. Nothing is changed outside, and `down` leaves nothing behind.

    \b
    Examples:
      podnet lab up                          three nodes and nine pods, checked
      podnet lab exec node1 -- ip route      look around on a node
      podnet lab exec demo/web-1 -- ip addr  or in a pod
      podnet lab down
    """


class Clock:
    """Says what was reached, and when."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._began:6.1f} s  {text}", err=True)


@contextmanager
def sentences() -> Iterator[None]:
    """What the lab's modules raise about a user's mistake, as UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None


def need_root() -> None:
    """Raises UserError unless everything that a lab needs of its user and machine is there."""
    if os.geteuid() != 0:
        raise UserError("a lab makes network namespaces and needs root: run it as root, or with sudo")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise UserError(f"the command {tool} is missing: install {package}")


def need_kernel(backend: str) -> None:
    """Raises UserError unless `backend` exists and this kernel has its links: tried in a namespace of their own."""
    from podnet.network.backends import BACKENDS

    if backend not in BACKENDS:
        raise UserError(f"there is no backend {backend!r}: use one of {', '.join(sorted(BACKENDS))}")
    links = {"veth": ("veth",), "bridge": ("bridge",)} | ({"vxlan": VXLAN} if backend == "vxlan" else {})
    for kind, words in links.items():
        tried = ["unshare", "--net", "ip", "link", "add", "podnet0", "type", *words]
        done = subprocess.run(tried, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[0]
            raise UserError(f"this kernel makes no {kind} links ({said}): use a kernel with it, or load its module")


def find(name: str) -> Lab:
    """The lab of this name. Raises UserError."""
    with sentences():
        return registry.load(name)


@lab.command(
    epilog="\b\nExamples:\n  podnet lab up\n  podnet lab up --name six --dual-stack --backend host-gw --nodes 2"
)
@name_option
@click.option("--nodes", type=click.IntRange(1, registry.MAX_NODES), help="How many nodes. [3]")
@click.option("--backend", help="How packets go between nodes. [vxlan]")
@click.option("--attachment", type=click.Choice(["bridge", "ptp"]), help="How pods join their node. [ptp]")
@click.option("--dual-stack/--ipv4", default=None, help="IPv6 beside IPv4, or not. [--ipv4]")
@click.option("--demo/--no-demo", default=True, help="Run nine demo pods; without them nothing is checked.")
@click.option("--dns/--no-dns", default=True, help="Run the cluster's DNS servers.")
@click.option("--check/--no-check", default=True, help="Prove the network when it is up.")
def up(
    name: str,
    nodes: int | None,
    backend: str | None,
    attachment: str | None,
    dual_stack: bool | None,
    demo: bool,
    dns: bool,
    check: bool,
) -> int:
    """Bring up a cluster, or repair it; one that is up and whole is left as it is."""
    from podnet.lab.building import Options
    from podnet.lab.building import up as bring_up

    need_root()
    say = Clock()
    need_kernel(backend or "vxlan")
    options = Options(name, nodes, backend, dual_stack, attachment, demo, dns)
    with sentences(), registry.locked(name):
        changed = _run(bring_up(options, say))
    if not changed:
        say(f"lab {name} was up already: nothing changed")
    code = _check(name, say) if check and demo else 0
    if code == 0:
        click.echo(_hints(find(name), demo))
    return code


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run what talks to the API. Raises UserError when the API refuses."""
    from podnet.client.errors import ApiError

    try:
        return asyncio.run(work)
    except ApiError as error:
        raise UserError(f"the lab's API server refused: {error}") from None


def _check(name: str, say: Clock) -> int:
    from podnet.cli import check, matrix
    from podnet.cli.target import of_lab

    report = check.run(of_lab(name))
    click.echo(matrix.render(report))
    say("check passed" if report.ok else "check failed")
    return 0 if report.ok else 1


def _hints(made: Lab, demo: bool) -> str:
    name = "" if made.name == registry.DEFAULT_NAME else f" --name {made.name}"
    podnet = "podnet" if shutil.which("podnet") else os.path.relpath(sys.argv[0])
    lines = [
        f"kubectl --kubeconfig {made.kubeconfig} get pods -A -o wide",
        *([f"{podnet} lab exec{name} demo/web-1 -- ip addr"] if demo else []),
        f"{podnet} lab exec{name} node1 -- ip route",
        f"{podnet} lab status{name}",
        f"{podnet} lab down{name}",
    ]
    return "\nTry next:\n" + "\n".join(f"  {line}" for line in lines)


@lab.command(epilog="\b\nExamples:\n  podnet lab down\n  podnet lab down --all")
@name_option
@click.option("--all", "every", is_flag=True, help="Every lab on this machine.")
def down(name: str, every: bool) -> None:
    """Remove a cluster and everything that it made."""
    from podnet.lab import teardown

    need_root()
    say = Clock()
    for each in registry.names() if every else (name,):
        with sentences(), registry.locked(each):
            gone = teardown.down(each)
        say(f"lab {each} is gone" if gone else f"there is no lab {each}: nothing to do")


@lab.command(epilog="\b\nExample:\n  podnet lab status -o json")
@name_option
@output_option
def status(name: str, output: str) -> int:
    """The programs and nodes of a cluster; exit code 1 when something does not run."""
    from podnet.lab.report import report

    found = report(find(name))
    emit(found, output, lambda: _status_text(found))
    return 0 if found.ok else 1


def _status_text(found: Report) -> str:
    programs = [(each.name, each.state, each.pid, each.since) for each in found.programs]
    nodes = [(each.name, " ".join(each.addresses), each.ready, each.pods) for each in found.nodes]
    parts = [
        table(("PROGRAM", "STATE", "PID", "SINCE"), programs),
        table(("NODE", "ADDRESSES", "READY", "PODS"), nodes),
    ]
    return "\n\n".join([f"lab {found.name}: {found.summary}", *parts])


@lab.command(context_settings={"ignore_unknown_options": True}, epilog=EXEC_EXAMPLES)
@name_option
@click.option("-c", "--container", default="", help="Which container of a pod. [the first]")
@click.argument("where", metavar="NODE|NAMESPACE/POD", shell_complete=_complete_where)
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, container: str, where: str, command: tuple[str, ...]) -> None:  # noqa: A001
    """Run a command in a node's network, or inside a container; its exit code is ours."""
    from podnet.lab.entering import into_node, into_pod

    made = find(name)
    need_root()
    with sentences():
        entry = into_pod(made, where, container, command) if "/" in where else into_node(made, where, command)
    try:
        os.execvpe(entry.argv[0], list(entry.argv), dict(entry.env))  # noqa: S606
    except OSError as error:
        raise UserError(f"{entry.argv[0]} can't be run: {error.strerror}") from None


@lab.command(epilog="\b\nExample:\n  kubectl --kubeconfig $(podnet lab kubeconfig) get nodes")
@name_option
def kubeconfig(name: str) -> None:
    """Print the path of the admin's kubeconfig."""
    click.echo(find(name).kubeconfig)


@lab.command(epilog="\b\nExample:\n  podnet lab add-node")
@name_option
def add_node(name: str) -> None:
    """Add a node, with the next free number."""
    from podnet.lab.building import add_node as add

    need_root()
    say = Clock()
    with sentences(), registry.locked(name):
        made = find(name)
        _run(add(made, say))


@lab.command(epilog="\b\nExample:\n  podnet lab remove-node node3")
@name_option
@click.argument("node")
def remove_node(name: str, node: str) -> None:
    """Drain a node, then take it out of the cluster."""
    from podnet.lab.building import remove_node as remove

    need_root()
    say = Clock()
    with sentences(), registry.locked(name):
        made = find(name)
        _run(remove(made, node, say))


@lab.command(epilog="\b\nExamples:\n  podnet lab logs node1 -f\n  podnet lab logs supervisor")
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), help="Only the last lines of each program.")
@click.argument("what", metavar="NODE|supervisor|api")
def logs(name: str, follow: bool, tail: int | None, what: str) -> None:
    """What a node's agent and kubelet, the supervisor or the API server wrote."""
    from podnet.lab.entering import program_logs

    with sentences():
        asyncio.run(program_logs(find(name), what, follow, tail, lambda line: click.echo(line, nl=False)))
