"""Which cluster a command means: a lab of this machine, or the agent that runs on it.

Without options it is the lab `default`, or the only one there is; on a machine without labs it is the agent at
/run/podnet. Both come down to nodes, each with the namespace it lives in ("": this process's own) and an agent that
answers questions on a unix socket in its run directory. A socket in a folder is reached from any namespace.
"""

from __future__ import annotations

import functools
import http.client
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import click
import msgspec

from podnet.errors import UserError
from podnet.lab import registry
from podnet.network.reach import Endpoint, pods_of
from podnet.network.view import Attachment

Decorated = TypeVar("Decorated", bound=Callable[..., object])

RUN_DIR, STATE_DIR, CONF_DIR = "/run/podnet", "/var/lib/podnet", "/etc/cni/net.d"
SECONDS = 5.0
"""How long an agent may take to answer."""


class AgentAway(Exception):
    """The agent does not answer; the text says why."""


class Node(msgspec.Struct, frozen=True):
    """One node a command deals with. `addresses` and `pods_dir` are known of a lab's nodes only; `name` may be ""."""

    name: str
    netns: str
    run_dir: str
    state_dir: str
    conf_dir: str
    addresses: tuple[str, ...] = ()
    pods_dir: str = ""

    def ask(self, what: str) -> dict[str, Any]:
        """The agent's answer to GET /v1/WHAT. Raises AgentAway."""
        return _get(f"{self.run_dir}/agent.sock", f"/v1/{what}")


class Target(msgspec.Struct, frozen=True):
    """The nodes that a command means; `lab` is "" when it is this machine itself, `kubeconfig` None for the usual."""

    lab: str
    nodes: tuple[Node, ...]
    kubeconfig: str | None = None

    def only(self, name: str | None) -> Target:
        """Reduced to the node of this name; None changes nothing. Raises UserError."""
        if name is None:
            return self
        found = [node for node in self.nodes if name in (node.name, self._named(node))]
        if not found:
            have = ", ".join(filter(None, map(self._named, self.nodes)))
            where = f"lab {self.lab} has" if self.lab else "this machine is"
            raise UserError(f"there is no node {name} here: {where} {have or 'no node whose agent answers'}")
        return msgspec.structs.replace(self, nodes=tuple(found))

    def _named(self, node: Node) -> str:
        if node.name:
            return node.name
        with suppress(AgentAway):
            return str(node.ask("status").get("node", ""))
        return ""


def target_options(command: Decorated) -> Decorated:
    """Adds --lab, --run-dir, --state-dir, --kubeconfig; what the command gets as `target` returns their Target."""

    @functools.wraps(command)
    def resolved(**given: Any) -> object:
        chosen = {name: given.pop(name) for name in ("lab", "run_dir", "state_dir", "kubeconfig")}
        return command(target=functools.partial(resolve, **chosen), **given)

    for option in (
        click.option("--kubeconfig", default=None, metavar="FILE", help="How to reach the API, if not as usual."),
        click.option("--state-dir", default=None, metavar="DIR", help=f"This machine's agent's, if not {STATE_DIR}."),
        click.option("--run-dir", default=None, metavar="DIR", help=f"This machine's agent's, if not {RUN_DIR}."),
        click.option("--lab", default=None, metavar="NAME", shell_complete=_complete, help="A lab of this machine."),
    ):
        option(resolved)
    return resolved  # type: ignore[return-value]


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in registry.names() if name.startswith(incomplete)]


def node_option(text: str) -> Callable[[Decorated], Decorated]:
    """Adds --node, which completes to the nodes of the lab that is meant."""
    return click.option("--node", default=None, metavar="NAME", shell_complete=_complete_node, help=text)


def _complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    with suppress(UserError):
        nodes = resolve(ctx.params.get("lab"), ctx.params.get("run_dir"), ctx.params.get("state_dir")).nodes
        return [node.name for node in nodes if node.name.startswith(incomplete)]
    return []


def resolve(
    lab: str | None = None, run_dir: str | None = None, state_dir: str | None = None, kubeconfig: str | None = None
) -> Target:
    """What the options mean. Raises UserError when they contradict each other or there is nothing."""
    if lab is not None and (run_dir or state_dir):
        raise UserError("--lab and --run-dir or --state-dir exclude each other: a lab knows its own folders")
    if lab is None and not run_dir and not state_dir:
        lab = _usual_lab()
    if lab is None:
        return machine(run_dir or RUN_DIR, state_dir or STATE_DIR, kubeconfig)
    return of_lab(lab, kubeconfig)


def _usual_lab() -> str | None:
    names = registry.names()
    if not names or registry.DEFAULT_NAME in names:
        return registry.DEFAULT_NAME if names else None
    if len(names) > 1:
        raise UserError(f"there are several labs: say --lab with one of {', '.join(names)}")
    return names[0]


def of_lab(name: str, kubeconfig: str | None = None) -> Target:
    """The nodes of a lab. Raises UserError."""
    try:
        lab = registry.load(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    nodes = tuple(
        Node(each.name, each.netns, each.run_dir, each.state_dir, each.conf_dir, each.addresses, each.pods_dir)
        for each in lab.nodes
    )
    return Target(lab.name, nodes, kubeconfig or lab.kubeconfig)


def machine(run_dir: str, state_dir: str, kubeconfig: str | None) -> Target:
    """This machine as a node."""
    return Target("", (Node("", "", run_dir, state_dir, CONF_DIR),), kubeconfig)


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(path: str, url: str) -> dict[str, Any]:
    connection = _Connection(path)
    try:
        connection.request("GET", url)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise AgentAway(f"the agent at {path} answered {response.status} {response.reason}")
        return msgspec.json.decode(body, type=dict[str, Any])
    except FileNotFoundError:
        raise AgentAway(f"no agent runs at {path}") from None
    except PermissionError:
        raise UserError(f"only root may talk to the agent at {path}: use sudo") from None
    except (OSError, http.client.HTTPException) as error:
        raise AgentAway(f"the agent at {path} does not answer: {error}") from None
    except msgspec.MsgspecError as error:
        raise AgentAway(f"the agent at {path} answered something else: {error}") from None
    finally:
        connection.close()


def need_root(why: str) -> None:
    """Raises UserError unless this is root."""
    if os.geteuid() != 0:
        raise UserError(f"{why} needs root: use sudo")


def endpoints(node: Node) -> list[Endpoint]:
    """The node itself, if its address is known, and its pods, as its agent knows them. Raises AgentAway."""
    status = node.ask("status")
    name = node.name or str(status["node"])
    pods = msgspec.convert(node.ask("attachments")["attachments"], tuple[Attachment, ...])
    return _endpoints(node, name, pods, tuple(status.get("addresses", ())), str(status.get("uplink", "")))


def endpoints_on_record(node: Node) -> list[Endpoint]:
    """The same from what a node's agent left on disk. Raises UserError when there is nothing."""
    from podnet.agent.attachments_file import read

    return _endpoints(node, node.name or socket.gethostname(), read(node.state_dir)[0])


def _endpoints(
    node: Node, name: str, pods: Iterable[Attachment], addresses: tuple[str, ...] = (), uplink: str = ""
) -> list[Endpoint]:
    own = node.addresses or addresses
    me = [Endpoint(name, name, "node", name, node.netns, own, uplink)] if own else []
    inside = _containers(node.pods_dir) if node.pods_dir else {}
    return me + [msgspec.structs.replace(pod, containers=inside.get(pod.netns, ())) for pod in pods_of(name, pods)]


def _containers(pods_dir: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Of a lab's pods, by the path of their namespace: each running container and the namespace it really is in."""
    from podnet.lab.sandbox import read_all

    return {sandbox.netns: tuple(_running(f"{sandbox.folder}/containers")) for sandbox in read_all(pods_dir)}


def _running(folder: str) -> Iterator[tuple[str, str]]:
    from podnet.lab.process import Running, look

    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        for run in os.listdir(f"{folder}/{name}"):
            found = look(f"{folder}/{name}/{run}")
            if isinstance(found, Running) and found.pid:
                yield name, f"/proc/{found.pid}/ns/net"
