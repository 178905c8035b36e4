"""CNI calls as the shim frames them, for the tests of everything that answers them."""

from __future__ import annotations

import json
from typing import Any

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=0a-1",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = {"cniVersion": "1.0.0", "name": "podnet", "type": "podnet-cni"}


def frame(stdin: Any = None, /, **env: str | None) -> bytes:
    """A frame: keys of `env` without CNI_, None removes one; stdin is bytes, or a configuration's additions."""
    variables = ENV | {f"CNI_{name}": value for name, value in env.items()}
    if env.get("COMMAND") in ("GC", "STATUS"):
        variables = {"CNI_COMMAND": env["COMMAND"], "CNI_PATH": "/opt/cni/bin"}
    head = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items() if value is not None)
    config: bytes = stdin if isinstance(stdin, bytes) else json.dumps(CONFIG | (stdin or {})).encode()
    return head + b"\0" + config
