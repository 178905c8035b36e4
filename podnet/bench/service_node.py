"""A node without an agent: namespaces, and the pure core joined to the kernel edge in this process.

What an agent does between a snapshot of the cluster and the kernel, it does here in the same order and by the same
functions; there is no network and no thread in between, so that time and CPU are those of the work itself.
"""

from __future__ import annotations

import os

from podnet.bench import arena, synthetic
from podnet.kernel import netns
from podnet.kernel.dataplane import KernelDataplane
from podnet.kernel.reconciler import Pass, Reconciler, Units
from podnet.lab import fabric
from podnet.network.desired import desired
from podnet.network.memo import Memo
from podnet.network.view import Attachment, LocalFacts, NodeView
from podnet.network.viewing import view
from podnet.objects.cluster import Cluster

UPLINK = "lo"
"""Nothing leaves these nodes."""


class Unsettled(Exception):
    """The kernel does not hold what was wanted; the text says why."""


class Node:
    """synthetic.node(1), in a namespace of this name; it lives as long as the arena."""

    def __init__(self, name: str, pods: tuple[Attachment, ...] = ()) -> None:
        self.netns = f"{arena.NETNS}/{name}"
        self.folder = f"/run/{name}"
        self.pods = pods
        netns.create(self.netns)
        os.mkdir(self.folder)
        (prefix,) = synthetic.facts().prefixes
        fabric.configure(self.netns, ["link set lo up", f"address add {prefix.partition('/')[0]}/32 dev lo"])
        self.dataplane = KernelDataplane(self.folder, self.netns)
        self.reconciler = Reconciler(self.dataplane)
        self.facts = LocalFacts(synthetic.facts().node, UPLINK, fabric.MTU)
        self.memo: Memo = {}
        self.seen: NodeView | None = None

    def see(self, cluster: Cluster) -> NodeView:
        """What the node sees of a cluster."""
        seen = view(cluster, self.facts, self.pods, self.memo)
        assert seen is not None, "synthetic clusters are usable"
        return seen

    def take(self, cluster: Cluster) -> Pass:
        """Bring a snapshot to the kernel. Raises Unsettled."""
        self.seen = self.see(cluster)
        return self.hold(desired(self.seen, self.memo))

    def hold(self, units: Units) -> Pass:
        """Bring these units to the kernel. Raises Unsettled."""
        done = self.reconciler.reconcile(units)
        if done.unsettled:
            raise Unsettled("; ".join(done.unsettled.values()))
        return done
