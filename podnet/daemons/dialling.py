"""The userspace proxy's connections to endpoints, which see this node, or the client itself.

For the latter the connection leaves from a port of this node that the proxy knows beforehand, so that its translation
can be made before its first packet. That port is the client's own with the highest bit set: other clients seldom have
the same, and if so, or if something else is in the way, it is any free one. Sockets of TCP share ports, or those that
wait for their time to end would soon hold all of them.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from podnet.kernel.netlink import Netlink
from podnet.kernel.source_nat import show
from podnet.network.service_port import Endpoint
from podnet.wire.conntrack import Place

UPPER = 0x8000
"""Ports from here on are seldom listened at."""

PROTOCOLS = {socket.SOCK_STREAM: 6, socket.SOCK_DGRAM: 17}
_TAKEN = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EEXIST, errno.ENOENT}


def dial(
    netlink: Netlink, kind: socket.SocketKind, endpoint: Endpoint, local: str, shown: Place | None
) -> socket.socket:
    """A non-blocking socket that is connected to the endpoint, or on its way; connecting again finds out.

    `local` is an address of this node, and `shown` the client that the endpoint is to see; None: this node.
    Raises OSError.
    """
    if shown is None:
        return _connecting(None, kind, endpoint, (local, 0), "")
    try:
        return _connecting(netlink, kind, endpoint, (local, shown[1] | UPPER), shown[0])
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    return _connecting(netlink, kind, endpoint, (local, 0), shown[0])


def _connecting(
    netlink: Netlink | None, kind: socket.SocketKind, endpoint: Endpoint, local: Place, source: str
) -> socket.socket:
    family, remote = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET, (endpoint.address, endpoint.port)
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if netlink is not None:
            shared = kind is socket.SOCK_STREAM and local[1] > 0
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
            made.bind(local)
            show(netlink, PROTOCOLS[kind], made.getsockname()[:2], remote, source, alone=not shared)
        with suppress(BlockingIOError):
            made.connect(remote)
    except OSError:
        made.close()
        raise
    return made
