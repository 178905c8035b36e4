"""Telling a link that an address is here now."""

from __future__ import annotations

import errno
import socket

from podnet.kernel.netns import socket_in
from podnet.state.host import Announce
from podnet.wire.announcing import frame

TIMES = 3
"""So often it is said: nobody confirms it, and the neighbours of a node that died find out by themselves only later."""

_NO_LINK = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETDOWN})


def announce(action: Announce, netns: str = "") -> None:
    """Send the frame in the namespace at `netns`; a link that is not there, or down, has nobody to be told."""
    try:
        with socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW) as channel:
            channel.bind((action.dev, 0))
            said = frame(channel.getsockname()[4].hex(":"), action.address)
            for _ in range(TIMES):
                channel.send(said)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
