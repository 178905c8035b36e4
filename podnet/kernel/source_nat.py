"""Source NAT of one connection, said to connection tracking before its first packet: no rule, no mark, no route.

The kernel then treats the flow like any that a rule has translated. Answers are translated back before they are routed,
so they find the socket whatever reverse path filters, bridges and addresses of others there are on the way.
"""

from __future__ import annotations

import errno

from podnet.kernel.netlink import Netlink, NetlinkError
from podnet.wire import conntrack
from podnet.wire.conntrack import Place

SECONDS = 10
"""How long a flow that was announced waits for its first packet, which is sent at once."""


def show(netlink: Netlink, protocol: int, local: Place, remote: Place, source: str, alone: bool) -> None:
    """Let packets from `local` to `remote` leave as if they came from `source`, whoever that is. `alone`: no other
    socket has `local`, so what the kernel remembers of it is over; otherwise only flows that ended are forgotten.

    Raises NetlinkError: EEXIST when there is such a flow already, ENOENT when one with the same answers is.
    """
    new = conntrack.translated(protocol, local, remote, source, SECONDS)
    problem = netlink.write([new]).get(0)
    if problem is not None and problem.errno == errno.EEXIST:
        old = netlink.get(conntrack.named(protocol, local, remote))
        flow = conntrack.decode(old)
        if flow is not None and (alone or not conntrack.lives(old)):
            netlink.write([conntrack.delete(flow)])
            problem = netlink.write([new]).get(0)
    if problem is not None:
        raise NetlinkError(problem.errno, problem.text or "cannot translate a connection's source")
