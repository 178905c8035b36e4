"""Writing one namespace: many steps, few sends.

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
from podnet.kernel.sysctl import Sysctls
from podnet.state.host import Sysctl
from podnet.state.links import Link
from podnet.state.plan import Step
from podnet.wire import links
from podnet.wire.netlink import Failure

_HELD = frozenset({errno.ENODEV, errno.ENETDOWN})
_OTHERWISE = frozenset({errno.EEXIST, errno.EINVAL})


class Writing(Lookup):
    """The steps of one namespace. Use as a context; leaving it sends what is left."""

    def __init__(self, netlink: Netlink, sysctls: Sysctls, tally: Tally) -> None:
        """The thread is in the namespace of `netlink`."""
        self.netlink = netlink
        self.sysctls = sysctls
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
            if isinstance(step.resource, Sysctl):
                self._set(step, step.resource)
                continue
            try:
                found = list(writes(step, self))  # may flush, so it comes before what is collected now
                self._collected.extend((step, write) for write in found)
            except (NoLink, NoNamespace):
                self.tally.absent(step)
            except ValueError as error:
                self.tally.fail(step, Failure(errno.EINVAL, str(error)))

    def _set(self, step: Step, sysctl: Sysctl) -> None:
        self.flush()
        try:
            self.sysctls.apply(step)
        except FileNotFoundError:
            if sysctl.dev:
                self.tally.absent(step)
            else:
                self.tally.fail(step, Failure(errno.ENOENT, "this kernel has no such parameter"))
        except OSError as error:
            self.tally.fail(step, Failure(error.errno or errno.EIO))
        else:
            self.tally.succeed(step)

    def flush(self) -> None:
        """Send what is collected."""
        collected, self._collected = self._collected, []
        if not collected:
            return
        with self._open.pop_all():
            refused = self._send([write for _, write in collected])
            problems: dict[int, list[tuple[Write, Failure]]] = {id(step): [] for step, _ in collected}
            for place, why in refused.items():
                step, write = collected[place]
                problems[id(step)].append((write, why))
            for step in {id(step): step for step, _ in collected}.values():
                self._judge(step, self._instead(problems[id(step)]))

    def _send(self, batch: list[Write]) -> dict[int, Failure]:
        """What failed, by position."""
        try:
            refused = self.netlink.write([write.request for write in batch])
        except OSError as error:
            return dict.fromkeys(range(len(batch)), Failure(error.errno or errno.EIO))
        return {place: why for place, why in refused.items() if why.errno not in batch[place].forgive}

    def _instead(self, problems: list[tuple[Write, Failure]]) -> Failure | None:
        """Why a step failed after all: what could not be made as it should is made or brought into shape otherwise."""
        for write, why in problems:
            if write.instead and why.errno in _OTHERWISE:
                again = next(iter(self.netlink.write(write.instead).values()), None)
                # ENODEV: not this link exists but the other end of the pair, in the pod.
                return why if again is not None and again.errno == errno.ENODEV else again
        return problems[0][1] if problems else None

    def _judge(self, step: Step, why: Failure | None) -> None:
        if why is None:
            self.tally.succeed(step)
        elif why.errno in _HELD:
            self.tally.absent(step)
        else:
            self.tally.fail(step, why)
