"""One node's loop: whenever the cluster, the pods or the kernel changed, bring the kernel to what they mean.

Events only set "dirty"; a pass takes the newest of everything, so bursts collapse. The loop owns the decisions, one
worker thread owns the kernel, and the pure core in between knows neither. Until every informer has listed once, and
the node's own facts are known, nothing is planned at all: an agent that knows nothing deletes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import msgspec

from podnet.agent import metrics
from podnet.cni.errors import CniError, Code
from podnet.kernel.monitor import Event
from podnet.kernel.reconciler import Pass, Reconciler
from podnet.network.desired import Desired, Unit, after, desired
from podnet.network.memo import Memo
from podnet.network.proxy.algorithms import LEAST, Loads
from podnet.network.proxy.bridged import unfiltered
from podnet.network.proxy.feature import least_loaded, refusal
from podnet.network.view import Attachment, LocalFacts, NodeView, Problem, Words, base_address
from podnet.network.viewing import problems, view
from podnet.objects.cluster import Cluster
from podnet.state.host import ForgetFlows
from podnet.state.plan import ORDER, Plan
from podnet.state.text import describe

log = logging.getLogger(__name__)
SPARED = ("pod", "service", "services", "together", "announce", "dns-cache")
"""Units without which another pod can be attached."""

T = TypeVar("T")

RESYNC = 60.0
"""Seconds between full readings of the kernel, for drift that sends no event."""

LISTED = frozenset({"NftTable", "Element", "IptablesChain", "IptablesJump"})
SELDOM = 10
"""What takes long to list is read every so many times only: of nftables every change is told, and CANARY looks at
the rest."""

CANARY = 5.0
"""Seconds between looks whether somebody flushed iptables, or another kube-proxy's rules came or went."""

POLL = 0.4
"""Seconds between looks at the kernel parameters, which send no events; drift is to be repaired within 1 s."""

BALANCE = 3.0
"""Seconds between countings of connections, while a Service is balanced by them."""

BACKOFF = (0.1, 5.0)
"""First and longest wait in seconds before a pass that failed is tried again."""

Facts = Callable[[NodeView], LocalFacts | str]


async def _nothing(_: NodeView) -> None:
    pass


async def _no(_: NodeView) -> bool:
    return False


class Agent:
    """Implements what the CNI server asks for (agent/cni_server.py) on top of one reconciler.

    `cluster()` gives the newest snapshot, or None before every informer has listed once; `facts(view)` reads the node's
    own facts, or says in a sentence why they can't be had; `applied(view, reason)` is told of every pass, with a view
    when it was clean, and `looking()` before it; `said()` gives the newest words that were published (see
    network/migration.py), `unusable()` the documents that could not be decoded; `prepare(view)` is awaited before the
    kernel is led there; `cached(view)` tells whether the node's DNS cache answers.
    """

    def __init__(
        self,
        node: str,
        reconciler: Reconciler,
        kernel: ThreadPoolExecutor,
        cluster: Callable[[], Cluster | None],
        facts: Facts,
        attachments: Iterable[Attachment] = (),
        applied: Callable[[NodeView | None, str | None], None] = lambda view, reason: None,
        looking: Callable[[], None] = lambda: None,
        said: Callable[[], tuple[Words, Words] | None] = lambda: None,
        unusable: Callable[[], tuple[Problem, ...]] = lambda: (),
        prepare: Callable[[NodeView], Awaitable[None]] = _nothing,
        cached: Callable[[NodeView], Awaitable[bool]] = _no,
    ) -> None:
        self.node = node
        self.reconciler = reconciler
        self.attachments = {attachment.id: attachment for attachment in attachments}
        self.view: NodeView | None = None
        self.problems: tuple[Problem, ...] = ()
        self.last: Pass | None = None
        self.seconds = 0.0
        self.passes = 0
        self.current = False
        """Whether the last pass was one over the newest of everything; it goes on with the last usable view."""
        self._kernel = kernel
        self._cluster = cluster
        self._read_facts = facts
        self._applied = applied
        self._looking = looking
        self._said = said
        self._unusable = unusable
        self._prepare = prepare
        self._cached = cached
        self._loads: Loads = {}
        self._facts = LocalFacts(node)
        self._facts_known = False
        self._memo: Memo = {}
        self._units: Desired = {}
        self._reason: str | None = "the agent is starting"
        self._events: list[Event] = []
        self._flows: list[ForgetFlows] = []
        self._walk = asyncio.Lock()
        self._waiters: list[asyncio.Future[Pass | None]] = []
        self._wake = asyncio.Event()

    # -- what others tell the loop

    def wake(self) -> None:
        """Something changed; a pass follows."""
        self._wake.set()

    def kernel_events(self, events: list[Event]) -> None:
        """What the monitor saw."""
        if ("dirty", "facts") in events:
            self._facts_known = False
        self._events += events
        self._wake.set()

    # -- what the CNI server asks

    def not_ready(self) -> str | None:
        """Why no pod can be attached now; None when one can."""
        return self._reason

    def template(self) -> NodeView | None:
        """The view that a new attachment's addresses and mode come from."""
        return self.view

    async def attach(self, attachment: Attachment) -> None:
        """Bring an attachment into the kernel and wait for it; raises CniError."""
        if self._reason is not None:
            raise _not_ready(self._reason)
        self.attachments[attachment.id] = attachment
        done = await self._next_pass()
        unit: Unit = ("pod", *attachment.id)
        if done is None or unit not in self._units:
            raise _not_ready(self._reason)
        if unit in done.unsettled:
            held = any(step.resource.key[1].startswith(attachment.netns) for step in done.held)
            message = f"{attachment.netns} is no network namespace" if held else "the kernel refused the pod's network"
            raise CniError(Code.NETNS if held else Code.NOT_APPLIED, message, done.unsettled[unit])

    async def detach(self, attachment: Attachment) -> None:
        """Remove an attachment from the kernel; nothing to remove is fine. Raises CniError."""
        self.attachments.pop(attachment.id, None)
        done = await self._next_pass()
        if done is None:
            raise _not_ready(self._reason)
        left = [str(error) for error in done.failed if error.verb == "delete"]
        if left:
            raise CniError(Code.TRY_AGAIN, "the pod's network could not be removed", "; ".join(left))

    async def forget(self, attachment: Attachment) -> None:
        """Remove the flows of an attachment from connection tracking; raises CniError.

        The kernel walks its whole table for that, so it is done beside the thread that reconciles, and whoever comes
        meanwhile shares the next walk.
        """
        self._flows += (forget for address in attachment.addresses for forget in _flows(base_address(address)))
        async with self._walk:
            flows, self._flows = self._flows, []
            try:
                await asyncio.to_thread(self.reconciler.dataplane.act, flows)
            except OSError as error:
                self._flows += flows
                raise CniError(Code.IO, "the pod's flows could not be forgotten", str(error)) from None

    async def verify(self, attachment: Attachment) -> tuple[str, ...]:
        """How the kernel differs from what the attachment needs; empty when all is there."""
        unit: Unit = ("pod", *attachment.id)
        if unit not in self._units:
            return (f"the agent has no desired state for {'/'.join(attachment.id)} yet",)
        wanted = {unit: self._units[unit]}
        plan = await self.in_kernel(lambda: self.reconciler.difference(wanted, only=True))
        return tuple(f"{step.verb} {describe(step.resource)}" for step in plan.steps)

    async def difference(self) -> Plan:
        """The plan against a fresh reading of the whole kernel."""
        return await self.in_kernel(lambda: self.reconciler.difference(self._units))

    @property
    def cluster(self) -> Cluster | None:
        """The newest snapshot; None before every informer has listed once."""
        return self._cluster()

    @property
    def attached(self) -> tuple[Attachment, ...]:
        """The attachments that the kernel holds since the last pass; one that is being made is not among them."""
        unsettled = self.last.unsettled if self.last else {}
        units = {("pod", *entry.id): entry for entry in self.attachments.values()}
        return tuple(entry for unit, entry in units.items() if unit in self._units and unit not in unsettled)

    @property
    def units(self) -> Desired:
        """The desired state of the last pass."""
        return self._units

    # -- the loop

    async def run(self) -> None:
        """Reconcile for ever; cancel it to stop. What is in the kernel stays there."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll())
            tasks.create_task(self._canary())
            tasks.create_task(self._balance())
            tasks.create_task(self._resync())
            delay = BACKOFF[0]
            while True:
                await self._wake.wait()
                self._wake.clear()
                done = await self._pass()
                if done is None or not (done.failed or done.held):
                    delay = BACKOFF[0]
                else:
                    asyncio.get_running_loop().call_later(delay, self.wake)
                    delay = min(delay * 2, BACKOFF[1])

    async def in_kernel(self, work: Callable[[], T]) -> T:
        """Run `work` in the one thread that owns the kernel's handles."""
        return await asyncio.get_running_loop().run_in_executor(self._kernel, work)

    async def _next_pass(self) -> Pass | None:
        """Wait for a pass that starts from now on; None when it could not be made."""
        waiter: asyncio.Future[Pass | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        return await waiter

    async def _pass(self) -> Pass | None:
        waiters, self._waiters = self._waiters, []
        events, self._events = self._events, []
        self._looking()
        reason, done = await self._look(), None
        self.current = reason is None
        if (cluster := self._cluster()) is not None:
            self._report(cluster, self.view)
        if self.view is not None:
            pods = tuple(map(self._present, self.attachments.values()))
            self.view = msgspec.structs.replace(self.view, attachments=pods)
            done = await self._reconcile(self.view, events)
            reason = reason or _unsettled(done)
        self._reason = reason
        metrics.READY.set(reason is None)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(done)
        self._applied(self.view if reason is None else None, reason)
        return done

    @staticmethod
    def _present(attachment: Attachment) -> Attachment:
        """An attachment whose namespace's path leads to another namespace by now must not be carried in there."""
        with suppress(OSError):
            if attachment.inode and os.stat(attachment.netns).st_ino != attachment.inode:
                return msgspec.structs.replace(attachment, netns=f"{attachment.netns} (of before)")
        return attachment

    async def _look(self) -> str | None:
        """Take the newest cluster and facts into `view`, or say why that can't be done and keep the last one."""
        cluster = self._cluster()
        if cluster is None:
            return "the API server was not heard yet"
        seen = view(cluster, self._facts, memo=self._memo)
        if seen is None:
            return f"the API has no NetworkConfig/default that can be used, or no Node/{self.node}"
        if not seen.me.pod_cidrs:
            return f"Node/{self.node} has no podCIDR yet"
        if not self._facts_known or self.view is None or self.view.network.proxy.mode != seen.network.proxy.mode:
            facts = await self.in_kernel(lambda: self._read_facts(seen))
            if isinstance(facts, str):
                return facts
            self._facts, self._facts_known = facts if facts != self._facts else self._facts, True
        cached = await self._cached(seen)
        self.view = view(cluster, self._facts, memo=self._memo, said=self._said(), loads=self._loads, cached=cached)
        return None

    async def _reconcile(self, seen: NodeView, events: list[Event]) -> Pass:
        start = time.monotonic()
        units = desired(seen, self._memo)
        await self._prepare(seen)
        done, drifted = await self.in_kernel(lambda: self._in_kernel(units, seen, events))
        self._units = units
        self.last, self.seconds, self.passes = done, time.monotonic() - start, self.passes + 1
        metrics.count(done, drifted, self.seconds, seen)
        return done

    def _in_kernel(self, units: Desired, seen: NodeView, events: list[Event]) -> tuple[Pass, bool]:
        drifted = self.reconciler.observe(events) and self.passes > 0
        done = self.reconciler.reconcile(units, lambda plan: after(seen, plan))
        return done, drifted and bool(done.plan)

    def _report(self, cluster: Cluster, seen: NodeView | None) -> None:
        here = filter(None, (refusal(seen), unfiltered(seen))) if seen is not None else ()
        self.problems = (*problems(cluster, self._memo, self._facts), *self._unusable(), *here)
        metrics.PROBLEMS.set(len(self.problems))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            drifted = await self.in_kernel(lambda: bool(self._units) and self.reconciler.poll("Sysctl", self._units))
            if drifted:
                self.wake()

    async def _canary(self) -> None:
        while True:
            await asyncio.sleep(CANARY)
            if await self.in_kernel(lambda: self.reconciler.canaries(self._units)):
                self.wake()
            seen = self.view
            if seen is None or seen.network.proxy.mode != "iptables":
                continue
            if await self.in_kernel(lambda seen=seen: self._read_facts(seen)) != self._facts:  # type: ignore[misc]
                self._facts_known = False
                self.wake()

    async def _balance(self) -> None:
        """Weights of Services whose connections are counted, which takes at most a twentieth of the time."""
        took = 0.0
        while True:
            await asyncio.sleep(max(BALANCE, 20 * took))
            if self.view is None or LEAST not in self.view.algorithms:
                continue
            began = time.monotonic()
            with suppress(OSError):
                flows = await asyncio.to_thread(self.reconciler.dataplane.translated)
                found = least_loaded(self.view, flows)
                if found != self._loads:
                    self._loads = found
                    self.wake()
            took = time.monotonic() - began

    async def _resync(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(RESYNC)
            kinds = None if turn % SELDOM == 0 else frozenset(ORDER) - LISTED
            await self.in_kernel(lambda kinds=kinds: self.reconciler.distrust(kinds))  # type: ignore[misc]
            self._facts_known = False
            self.wake()


def _not_ready(reason: str | None) -> CniError:
    return CniError(Code.TRY_AGAIN, "the node's network is not ready", reason or "")


def _flows(pod: str) -> tuple[ForgetFlows, ...]:
    return ForgetFlows(source=pod), ForgetFlows(answered_by=pod)


def _unsettled(done: Pass) -> str | None:
    """A pod that waits, or a Service, does not make the node unready; a feature that pods need does."""
    return next((f"{unit[0]}: {why}" for unit, why in done.unsettled.items() if unit[0] not in SPARED), None)
