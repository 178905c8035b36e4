"""Forgetting flows: a connection that was translated to an address that is gone must not stay in the kernel's memory.

The kernel filters while it lists, and what it lists is looked at again before it is deleted. Deleting with a filter
would be one request less, but kernels before 6.11 refuse it, those before 5.8 take it as "delete everything", and all
of them misread filters on IPv6 addresses (wire/conntrack.py).
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Sequence

from podnet.kernel.netlink import Netlink, NetlinkError
from podnet.state.host import ForgetFlows
from podnet.wire import conntrack
from podnet.wire.conntrack import Index, Pattern
from podnet.wire.spelling import IPV4, IPV6, family_of

Translated = tuple[int, str, int, str]
"""Protocol, address and port that a flow was meant for, and the address that answers."""

FEW = 6
"""So many patterns are looked for one by one; each walk costs the kernel some 15 ms, however few flows there are."""


def forget(netlink: Netlink, actions: Iterable[ForgetFlows]) -> int:
    """Delete the flows that match; returns how many. A flow that goes by itself meanwhile is no error.

    Raises NetlinkError when there is no connection tracking.
    """
    wanted = [pattern for action in actions for pattern in patterns(action)]
    if len(wanted) <= FEW:
        return sum(_forget(netlink, pattern, [pattern]) for pattern in wanted)
    groups: dict[Pattern, list[Pattern]] = {}
    for pattern in wanted:
        groups.setdefault(Pattern(pattern.family, pattern.protocol), []).append(pattern)
    return sum(_forget(netlink, listed, group) for listed, group in groups.items())


def translated(netlink: Netlink) -> Counter[Translated]:
    """How many flows in use were led somewhere else, by where they meant to go and who answers; one walk."""
    found: Counter[Translated] = Counter()
    for body in netlink.dump(conntrack.dump(Pattern(0))):
        flow = conntrack.decode(body)
        if flow is not None and flow.answered_by != flow.destination and conntrack.lives(body):
            found[flow.protocol, flow.destination, flow.to_port, flow.answered_by] += 1
    return found


def patterns(action: ForgetFlows) -> list[Pattern]:
    """One for each address family that the action can mean; none when it names addresses of both."""
    places = (action.source, action.destination, action.answered_by, action.unserved.partition("/")[0])
    families = {family_of(ip) for ip in places if ip}
    if len(families) > 1 or action == ForgetFlows():
        return []
    return [
        Pattern(
            family,
            action.protocol,
            action.to_port,
            action.source,
            action.destination,
            action.answered_by,
            action.reply_port,
            action.unserved,
        )
        for family in sorted(families or {IPV4, IPV6})
    ]


def _forget(netlink: Netlink, listed: Pattern, wanted: Sequence[Pattern]) -> int:
    index, found = Index(wanted), map(conntrack.decode, netlink.dump(conntrack.dump(listed)))
    meant = [flow for flow in found if flow is not None and index.matches(flow)]
    refused = netlink.write([conntrack.delete(flow) for flow in meant])
    for failure in refused.values():
        if failure.errno != errno.ENOENT:
            raise NetlinkError(failure.errno, failure.text or "cannot forget a flow")
    return len(meant) - len(refused)
