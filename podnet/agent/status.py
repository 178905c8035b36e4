"""What an agent tells of itself: the answer behind `podnet status`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from podnet.agent.agent import Agent
from podnet.kernel.outcome import summed
from podnet.state.text import describe


def status(agent: Agent, version: str) -> dict[str, object]:
    """What `podnet status` shows of this node."""
    seen, done = agent.view, agent.last
    facts: Mapping[str, object] = {}
    if seen is not None:
        facts = {
            "addresses": seen.me.addresses,
            "podCIDRs": seen.me.pod_cidrs,
            "uplink": seen.facts.uplink,
            "backend": dict(seen.network.backend),
            "proxy": seen.network.proxy.mode,
        }
    return {
        "node": agent.node,
        "version": version,
        "ready": agent.not_ready() is None,
        "reason": agent.not_ready(),
        **facts,
        "attachments": len(agent.attachments),
        "problems": msgspec.to_builtins(agent.problems),
        "passes": agent.passes,
        "lastPass": done
        and {
            "steps": len(done.plan.steps),
            "failed": summed(done.failed),
            "held": [describe(step.resource) for step in done.held],
            "seconds": round(agent.seconds, 4),
        },
    }
