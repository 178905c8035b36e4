"""Taking a lab or a node away, in whatever state it is.

Nothing but the lab's folder is needed: every shim that writes there and every process that lives in one of the
namespaces mounted there is killed; then the mounts go, and then the files. So it works after any kill -9.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from podnet.errors import UserError
from podnet.kernel import netns
from podnet.lab import fabric, process, registry
from podnet.lab.registry import Lab, LabNode

LOOK_SECONDS = 0.005


def down(name: str) -> bool:
    """Remove a lab; False when there was none. Raises ValueError for what can't be a name."""
    folder = registry.folder(name)
    if not os.path.isdir(folder):
        return False
    kill_shims(folder)
    kill_members(point for point in fabric.mounted_below(folder) if fabric.exists(point))
    fabric.unmount_below(folder)
    shutil.rmtree(folder)
    return True


def kill_shims(folder: str) -> None:
    """SIGKILL every shim that writes below a folder, its command with it; the supervisor's first: it starts others."""
    supervisor = f"{folder}/programs/supervisor/pid"
    while shims := process.shims(folder):
        for pid in sorted(shims, key=lambda pid: shims[pid] != supervisor):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def kill_members(paths: Iterable[str]) -> None:
    """SIGKILL every process in these namespaces, until there is none."""
    namespaces = frozenset(filter(None, map(process.identity, paths)))
    while pids := process.members(namespaces) if namespaces else []:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def unplug(lab: Lab, node: LabNode) -> None:
    """Remove a node's namespace, whatever still lives there, and its files."""
    kill_members([node.netns])
    with suppress(UserError):  # gone already with the namespace
        fabric.configure(lab.fabric_netns, [f"link delete {node.name}"])
    fabric.unmount_below(node.folder)
    netns.remove(node.netns)
    shutil.rmtree(node.folder, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.unlink(node.kubeconfig)
