"""Removing links without waiting until the kernel has forgotten them.

A removed link is out of sight after a millisecond, and the kernel says so to whoever listens; but the request is
answered only when the last reader may have let go of it, some 15 ms later. So the request is made in a thread of its
own, and what is waited for is the news or the answer, whichever comes first.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from podnet.kernel.encode import Write, remove_together
from podnet.kernel.netlink import ROUTE, Netlink
from podnet.kernel.netns import inside, socket_in
from podnet.kernel.outcome import Outcome, Tally
from podnet.kernel.sysctl import Sysctls
from podnet.kernel.writing import Writing
from podnet.state.links import Link
from podnet.state.plan import Step
from podnet.wire import links
from podnet.wire.netlink import messages

_LINK_GROUP, _DELLINK = 1, 17
_READ = 1 << 16


class Reaper:
    """Removes links of the namespace at `netns` ("": that of the thread which makes this)."""

    def __init__(self, netns: str, sysctls: Sysctls) -> None:
        """Raises NoNamespace."""
        self._netns = netns
        self._sysctls = sysctls
        self._news = socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ROUTE)
        self._news.bind((0, _LINK_GROUP))
        self._threads = ThreadPoolExecutor(4, "reaper")

    def remove(self, steps: Sequence[Step], tally: Tally) -> None:
        """Carry out the deletion of links; returns when they are out of sight."""
        waiting = {step.resource.name for step in steps if isinstance(step.resource, Link)}
        self._heard()
        answered, answer = socket.socketpair()
        with answered:
            work = self._threads.submit(self._write, steps)
            work.add_done_callback(lambda _: answer.close())
            both = select.poll()  # not select.select, which knows descriptors below 1024 only
            for channel in (self._news, answered):
                both.register(channel, select.POLLIN)
            while waiting and not work.done():
                both.poll()
                waiting -= self._heard()
        if work.done():
            tally.take(work.result())
        else:
            for step in steps:
                tally.succeed(step)

    def _heard(self) -> set[str]:
        """The links that went since the last call."""
        gone: set[str] = set()
        while True:
            try:
                data = self._news.recv(_READ)
            except BlockingIOError:
                return gone
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # what was missed, the answer will tell
            # Bridges tell of their ports by the same message, in their own family: that is not the end of the link.
            gone |= {links.decode(m.body).name for m in messages(data) if m.kind == _DELLINK and m.body[0] == 0}

    def _write(self, steps: Sequence[Step]) -> Outcome:
        """Nothing may follow the request that removes the links: by then others may have the same names again."""
        tally = Tally()
        with inside(self._netns), Netlink(ROUTE) as netlink:
            together = remove_together([link for step in steps if isinstance(link := step.resource, Link)])
            if len(steps) > 1 and _carried_out(netlink, together):
                for step in steps:
                    tally.succeed(step)
            else:
                with Writing(netlink, self._sysctls, tally) as writing:
                    writing.add(steps)
        return tally.outcome()

    def close(self) -> None:
        """Let what is under way end."""
        self._threads.shutdown()
        self._news.close()


def _carried_out(netlink: Netlink, together: Sequence[Write]) -> bool:
    refused = netlink.write([write.request for write in together])
    return all(why.errno in together[place].forgive for place, why in refused.items())
