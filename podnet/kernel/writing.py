"""Writing one namespace through rtnetlink: many steps, few sends.

Steps are collected and sent together. A send goes out early only when a step needs the ifindex of a link that is not
known yet, since that link may be among what is collected. Each step ends as done, failed with the kernel's reason, or
held: what it stands on (a link, a namespace) is not there, so it waits instead of failing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Self

from podnet.kernel.encode import Lookup, NoLink, Write, writes
from podnet.kernel.netlink import Netlink, NetlinkError
from podnet.kernel.netns import NoNamespace, open_namespace
from podnet.kernel.outcome import Tally
from podnet.state.links import Link
from podnet.state.plan import Step
from podnet.wire import links
from podnet.wire.netlink import Failure

_HELD = frozenset({errno.ENODEV, errno.ENETDOWN})


class Writing(Lookup):
    """The steps of one namespace. Use as a context; leaving it sends what is left."""

    def __init__(self, netlink: Netlink, tally: Tally) -> None:
        self.netlink = netlink
        self.tally = tally
        self._known: dict[str, int] = {}
        self._collected: list[tuple[Step, Write]] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def index(self, name: str) -> int:
        """The ifindex of a link, asked for once. Raises NoLink."""
        if name not in self._known:
            self.flush()
            try:
                self._known[name] = links.decode(self.netlink.get(links.get(name))).index
            except NetlinkError as error:
                raise NoLink(name) from error
        return self._known[name]

    def namespace(self, path: str) -> int:
        """Open until the next flush."""
        descriptor = open_namespace(path)
        self._open.callback(os.close, descriptor)
        return descriptor

    def add(self, steps: Iterable[Step]) -> None:
        """Take steps on, in order."""
        for step in steps:
            if isinstance(step.resource, Link):
                self._known.pop(step.resource.name, None)
            try:
                found = list(writes(step, self))  # may flush, so it comes before what is collected now
                self._collected.extend((step, write) for write in found)
            except (NoLink, NoNamespace):
                self.tally.absent(step)
            except ValueError as error:
                self.tally.fail(step, Failure(errno.EINVAL, str(error)))

    def flush(self) -> None:
        """Send what is collected."""
        collected, self._collected = self._collected, []
        if not collected:
            return
        with self._open.pop_all():
            refused = self._send([write for _, write in collected])
        reasons: dict[int, Failure] = {}
        for place, (step, _) in enumerate(collected):
            if place in refused:
                reasons.setdefault(id(step), refused[place])
        for step in {id(step): step for step, _ in collected}.values():
            self._judge(step, reasons.get(id(step)))

    def _send(self, batch: list[Write]) -> dict[int, Failure]:
        """What failed for good, by position."""
        try:
            refused = self.netlink.write([write.request for write in batch])
        except OSError as error:
            return dict.fromkeys(range(len(batch)), Failure(error.errno or errno.EIO))
        refused = {place: why for place, why in refused.items() if why.errno not in batch[place].forgive}
        for place, why in tuple(refused.items()):
            instead = batch[place].instead
            if why.errno == errno.EEXIST and instead is not None:
                again = self.netlink.write([instead]).get(0)
                if again is None:
                    del refused[place]
                elif again.errno != errno.ENODEV:  # ENODEV: it was the other end of the pair that exists
                    refused[place] = again
        return refused

    def _judge(self, step: Step, why: Failure | None) -> None:
        if why is None:
            self.tally.succeed(step)
        elif why.errno in _HELD:
            self.tally.absent(step)
        else:
            self.tally.fail(step, why)
