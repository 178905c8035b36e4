"""The CNI configuration that container runtimes find: there while the agent can attach pods, gone while it can't.

A runtime reports its node as ready when it finds a network configuration, and starts no pods without one; that is all
the coordination there is. cniVersion is 1.0.0, which every runtime of today reads; newer ones pick 1.1.0 (GC and
STATUS) from cniVersions.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

import msgspec

from podnet.cni.errors import VERSIONS
from podnet.errors import UserError

log = logging.getLogger(__name__)

NAME = "10-podnet.conflist"
CAPABILITIES = ("portMappings", "bandwidth", "ips", "mac", "ipRanges", "dns")


def document(socket: str) -> bytes:
    """The conflist's text, for an agent that listens on `socket`."""
    plugin = {"type": "podnet-cni", "capabilities": dict.fromkeys(CAPABILITIES, True), "agentSocket": socket}
    conflist = {"cniVersion": "1.0.0", "cniVersions": VERSIONS, "name": "podnet", "plugins": [plugin]}
    return msgspec.json.format(msgspec.json.encode(conflist), indent=2) + b"\n"


class Conflist:
    """The file 10-podnet.conflist in a directory that belongs to others too: no other file is ever touched."""

    def __init__(self, conf_dir: str, socket: str) -> None:
        """Raises UserError when the directory is none that can be written to."""
        self.path = os.path.join(conf_dir, NAME)
        self._text = document(socket)
        try:
            os.makedirs(conf_dir, mode=0o755, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't make {conf_dir}: {error.strerror}; choose another directory") from None
        if not os.access(conf_dir, os.W_OK | os.X_OK):
            raise UserError(f"can't write to {conf_dir}; run as root, or choose another directory")

    def publish(self) -> None:
        """Write the file unless it is there as it should be. A full disk is logged; the next call tries again."""
        if _read(self.path) == self._text:
            return
        try:
            _replace(self.path, self._text)
        except OSError as error:
            log.error("can't write %s, so container runtimes start no pods: %s", self.path, error.strerror)

    def withdraw(self) -> None:
        """Remove the file; runtimes start no pods from now on."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            _sync(os.path.dirname(self.path))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _replace(path: str, text: bytes) -> None:
    """The new text whole or not at all, whenever the power goes. The dot hides the unfinished file from runtimes."""
    unfinished = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    with open(unfinished, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    _sync(os.path.dirname(path))


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
