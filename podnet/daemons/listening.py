"""Sockets bound to addresses that need not be there yet: a node's address may come later than its programs."""

from __future__ import annotations

import socket

_FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (41, 78)}  # IP_FREEBIND, IPV6_FREEBIND


def bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket; streams may bind again at once after a restart. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(*_FREEBIND[family], 1)
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
