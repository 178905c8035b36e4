"""The reference plugins as a cluster runs them: bridge with host-local, then portmap, in a node of their own."""

from __future__ import annotations

import os

import msgspec

from podnet.bench import arena
from podnet.bench.chain import Chain
from podnet.errors import UserError
from podnet.kernel import netns
from podnet.lab import fabric
from podnet.lab.libcni import parse

FOLDER = "/usr/lib/cni"
PLUGINS = ("bridge", "host-local", "portmap")


def chain() -> Chain:
    """A fresh node with the reference plugins. Raises UserError when they are not installed."""
    missing = [name for name in PLUGINS if not os.access(f"{FOLDER}/{name}", os.X_OK)]
    if missing:
        raise UserError(f"{FOLDER} lacks {', '.join(missing)}: apt-get install containernetworking-plugins iptables")
    node = f"{arena.NETNS}/reference"
    netns.create(node)
    fabric.configure(node, ["link set lo up"])
    return Chain(node, parse(msgspec.json.encode(_conflist())), FOLDER)


def _conflist() -> dict[str, object]:
    """What flannel delegates to bridge, and portmap behind it."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "mtu": 1450,
        "hairpinMode": True,
        "isDefaultGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/reference",
            "ranges": [[{"subnet": "10.98.0.0/24"}]],
            "routes": [{"dst": "10.98.0.0/16"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "reference", "plugins": [bridge, portmap]}
