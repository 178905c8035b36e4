"""`podnet dns`: the programs that cluster DNS is made of, each a process of its own, and the tools to look at it."""

from __future__ import annotations

import click

from podnet.cli.lazy import group

COMMANDS = {
    "kubedns": ("podnet.dns.kubedns:command", "Answer for the cluster's names from the API's watch."),
    "dnsmasq": ("podnet.dns.dnsmasq:command", "Run dnsmasq as the cache in front, and its metrics."),
    "healthz": ("podnet.dns.healthz:command", "Serve the results of commands as health checks."),
    "kube2sky": ("podnet.dns.kube2sky:command", "The older form: write the cluster's names to etcd."),
    "skydns": ("podnet.dns.skydns:command", "The older form: answer from what is in etcd."),
    "manifest": ("podnet.dns.manifest:command", "Print cluster DNS as a manifest for any cluster."),
    "ask": ("podnet.dns.ask:command", "Ask a DNS server for a name; the exit code says whether it is there."),
    "trace": ("podnet.cli.dns_trace:command", "Every step of a pod's question, and who answered."),
}

EXAMPLES = """\b
Examples:
  podnet dns trace web --from demo/web-1                  each search step, who answered, from which cache
  podnet dns kubedns --domain cluster.local --dns-port 10053
"""


@click.group(cls=group(COMMANDS), epilog=EXAMPLES)
def command() -> None:
    """Cluster DNS: its servers, and what a name meets."""
