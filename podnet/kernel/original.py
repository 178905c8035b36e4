"""Where a packet was going before it was led to a local socket: connection tracking remembers.

TCP has a socket option for it. UDP has none, so the flow is looked up by how its answers look, which is what the
local socket knows: its own address and its peer's. One lookup costs some 30 us.
"""

from __future__ import annotations

import errno
import socket
import struct

from podnet.kernel.netlink import Netlink, NetlinkError
from podnet.wire import conntrack
from podnet.wire.spelling import ip_text

_ORIGINAL = 80  # SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST
_IPV6 = 41  # SOL_IPV6
_UDP = 17


def of_stream(accepted: socket.socket) -> tuple[str, int] | None:
    """The address and port an accepted TCP connection was made to; None when it is not tracked."""
    try:
        if accepted.family == socket.AF_INET6:
            port, address = struct.unpack("!2xH4x16s4x", accepted.getsockopt(_IPV6, _ORIGINAL, 28))
        else:
            port, address = struct.unpack("!2xH4s8x", accepted.getsockopt(socket.SOL_IP, _ORIGINAL, 16))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOPROTOOPT, errno.ENOTCONN):
            return None
        raise
    return ip_text(address), port


def of_datagram(netlink: Netlink, local: tuple[str, int], peer: tuple[str, int]) -> tuple[str, int] | None:
    """The address and port that a datagram from `peer`, received at `local`, was sent to; None when untracked.

    `netlink` is of the family NETFILTER. Raises NetlinkError.
    """
    try:
        flow = conntrack.decode(netlink.get(conntrack.original(local, peer, _UDP)))
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return (flow.destination, flow.to_port) if flow else None
