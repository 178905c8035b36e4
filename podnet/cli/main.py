"""The `podnet` command: it knows the names of the subcommands and imports only the one that is called.

A subcommand is a line in COMMANDS: where its click command lives and what it does. `main` is also the one place where
errors of the user become a sentence on stderr and exit code 2. A subcommand ends with another exit code by returning it
or through `ctx.exit(code)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from podnet import __version__
from podnet.cli.lazy import group
from podnet.errors import UserError

COMMANDS = {
    "lab": ("podnet.cli.lab:lab", "A cluster of namespaces on this machine: up, down, status, ..."),
    "check": ("podnet.cli.check:command", "Prove the network with real packets; --watch counts what is lost."),
    "status": ("podnet.cli.status:command", "What each node's agent says about itself."),
    "service": ("podnet.cli.service:command", "The Services, and what a packet to one would meet."),
    "plan": ("podnet.cli.plan:command", "The kernel state a node should hold; --diff: what differs."),
    "doctor": ("podnet.cli.doctor:command", "Look for what commonly breaks a network here: finding and fix."),
    "ipam": ("podnet.cli.ipam:command", "Show the pods' addresses; compare them with what is there."),
    "clean": ("podnet.cli.clean:command", "Remove everything of ours from this machine."),
    "debug-port": ("podnet.cli.debug_port:command", "Lease a node port to a pod for a time; list; release."),
    "bench": ("podnet.cli.bench:command", "Measure: cni, path, plan, ..."),
    "agent": ("podnet.agent.main:command", "Run the node agent."),
    "dns": ("podnet.cli.dns:command", "Names: the servers of cluster DNS, and what a name meets."),
    "userspace-proxy": ("podnet.cli.userspace_proxy:command", "Run the proxy of userspace mode."),
    "apiserver": ("podnet.apiserver.main:command", "Run the embedded Kubernetes API."),
    "completion": ("podnet.cli.completion:command", "Print the completion script of a shell."),
}

EXAMPLES = """\b
Examples:
  podnet lab up                     three nodes, nine pods, checked with packets
  podnet check --watch              probe until Ctrl-C, count what is lost
  podnet plan --node node1 --diff   what the kernel of node1 lacks
  kubectl --kubeconfig $(podnet lab kubeconfig) get pods -A
  source <(podnet completion bash)
"""


@click.group(
    cls=group(COMMANDS),
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="podnet")
def podnet() -> None:
    """A Kubernetes network: an address for every pod, with every scheme behind one interface.

    Each command has --help with examples. Exit codes: 0 done, 1 a difference or a failed check, 2 wrong input.
    """


def sentence(error: click.ClickException) -> str:
    """click's message as one sentence, with the command whose help tells more."""
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
    text = error.format_message().rstrip(".").replace("\n", " ")
    return f"{text} (see {where} --help)" if where else text


def main(args: Sequence[str] | None = None) -> None:
    """The console script: runs the command line and ends the process with its exit code."""
    try:
        result = podnet.main(args, prog_name="podnet", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"podnet: {sentence(error)}", err=True)
        sys.exit(2)
    except UserError as error:
        click.echo(f"podnet: {error}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
