"""The node's DNS cache under watch: whether it answers decides where queries go; changes leave it no old answers.

Every PERIOD it is asked for one of its own counters, by packets that come to it wherever queries are led. When it
missed MISSES times in a row it has fallen: the next pass leads queries to the Service. When it answers again RISES
times, they come back. A process that died is started again at once by the reconciler, as anything that is missing, with
the sockets of the dead one; one that lives but does not answer for HUNG seconds is killed, so that the same becomes of
it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import time
from collections.abc import Callable

import msgspec

from podnet.agent import metrics
from podnet.agent.agent import Agent
from podnet.daemons.purging import Purging
from podnet.network.dns import node_cache
from podnet.network.dns.outdated import OutdatedNames
from podnet.network.dns.records import Expected, as_expected
from podnet.network.proxy.feature import mode_name
from podnet.network.view import NodeView, Problem, is_v6
from podnet.objects.cluster import Cluster
from podnet.state.host import SignalDaemon
from podnet.wire import dns

log = logging.getLogger(__name__)

PERIOD = 0.2
"""Seconds between two questions, and for which an answer is awaited. With MISSES this is 0.6 s at most."""

MISSES, RISES = 2, 2
HUNG = 3.0
LEAVE = 0.5
"""Seconds for which one that is no longer wanted stays, so that what it was asked before is answered."""

PATIENCE = 5.0
"""Seconds for which an answer to a pod's question is awaited."""

COUNTERS = ("hits", "misses", "evictions")


class State(msgspec.Struct, frozen=True):
    """What is known of a cache: whether it answers, and how many answers in a row said the contrary."""

    answers: bool = False
    contrary: int = 0

    def heard(self, answered: bool) -> State:
        """After one more question."""
        if answered == self.answers:
            return State(self.answers)
        if self.contrary + 1 >= (RISES if answered else MISSES):
            return State(answered)
        return State(self.answers, self.contrary + 1)


class DnsCache:
    """`tell` is given each fall, as an incident on the Node."""

    def __init__(self, node: str, tell: Callable[[Problem], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State | None = None
        """None while there is to be no cache, or it was not asked yet."""
        self.agent: Agent | None = None
        """Set before `run`."""
        self._node = node
        self._tell = tell
        self._clock = clock
        self._answered = 0.0
        self._left = 0.0
        self._turn = 0
        self._outdated: OutdatedNames | None = None
        self._seen = Cluster()
        self.purging = Purging(self._has, self._clear, clock)
        self._signals: set[asyncio.Task[None]] = set()

    async def answers(self, view: NodeView) -> bool:
        """Whether queries can be led to it; asks when nothing is known yet, as after an agent's start. When it is no
        longer wanted that is said once more, and soon taken back: see node_cache.keep."""
        places = _places(view)
        if not places.asked:
            leaving = self.state is not None and self.state.answers
            self.state = None
            if leaving and self.agent is not None:
                self._left = self._clock() + LEAVE
                asyncio.get_running_loop().call_later(LEAVE + 0.01, self.agent.wake)
            return self._clock() < self._left
        if self.state is None:
            self.state = State(await self._ask_counter(places.asked[0]))
            self._answered = self._clock()
            if self.state.answers:
                self._clear()  # who knows which names changed while nobody watched
        return self.state.answers

    def follow(self, cluster: Cluster) -> None:
        """A new snapshot: what the cache remembers of names that changed is no longer true."""
        before, self._seen = self._seen, cluster
        if cluster.network is None or self.state is None:
            self._outdated = None
            return
        domain = cluster.network.spec.dns.domain
        if self._outdated is None:
            self._outdated = OutdatedNames()
            self._outdated.follow(before, domain)
        found = self._outdated.follow(cluster, domain)
        self.purging.add((dns.text(name), dns.TYPE_NAMES[type_], expected) for name, type_, expected in found)

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.purging.run())
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(0.0, PERIOD - (time.monotonic() - began)))

    async def look(self) -> None:
        """Ask once, and draw the conclusions."""
        agent = self.agent
        places = _places(agent.view) if agent is not None and agent.view is not None else node_cache.Places()
        before = self.state
        if agent is None or not places.asked or before is None:
            return
        answered = await self._ask_counter(places.asked[0])
        self.state = before.heard(answered)
        if answered:
            self._answered = self._clock()
        if self.state.answers != before.answers:
            self._note(self.state.answers)
            agent.wake()
        metrics.DNS_CACHE.set(self.state.answers)
        if self._clock() - self._answered > HUNG:
            self._answered = self._clock()  # its successor gets as long
            self._signal(signal.SIGKILL)

    def _note(self, answers: bool) -> None:
        if answers:
            log.warning("the node's DNS cache answers: queries are led to it")
            return
        metrics.DNS_CACHE_FALLS.inc()
        message = "the node's DNS cache does not answer; queries are led to the DNS Service until it does"
        log.warning(message)
        self._tell(Problem(f"Node/{self._node}", "DnsCacheFell", message))

    async def _ask_counter(self, address: str) -> bool:
        name = COUNTERS[self._turn % len(COUNTERS)]
        self._turn += 1
        query = dns.question(secrets.randbits(16), dns.name(f"{name}.bind"), dns.TXT, cls=dns.CHAOS, size=0)
        said = await exchange(address, query, PERIOD)
        if said is None:
            return False
        for record in said.answers:
            for text in dns.strings(record.data):
                if text.isdigit():
                    metrics.DNS_CACHE_COUNTERS[name].set(int(text))
        return True

    async def _has(self, name: str, type_: str, expected: Expected) -> bool | None:
        """See Purging."""
        view = self.agent.view if self.agent is not None else None
        places = _places(view) if view is not None else node_cache.Places()
        if not places.asked:
            return True  # there is no cache any more
        query = dns.question(secrets.randbits(16), dns.name(name), dns.TYPES[type_])
        said = await exchange(places.asked[0], query, PATIENCE)
        return None if said is None else as_expected(said, expected)

    def _clear(self) -> None:
        metrics.DNS_CACHE_CLEARED.inc()
        self._signal(signal.SIGHUP)

    def _signal(self, number: int) -> None:
        """Beside the thread of the kernel, which may be at work for long."""
        if self.agent is None:
            return
        act = self.agent.reconciler.dataplane.act
        task = asyncio.create_task(asyncio.to_thread(act, (SignalDaemon(node_cache.NAME, number),)))
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)


async def exchange(address: str, query: bytes, seconds: float) -> dns.Message | None:
    """Ask the cache itself at one of its addresses, also when queries are led elsewhere; None when nothing was said."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if is_v6(address) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, node_cache.PROBE_MARK)
            channel.connect((address, node_cache.PORT))
            async with asyncio.timeout(seconds):
                await loop.sock_sendall(channel, query)
                while True:
                    said = await loop.sock_recv(channel, 65535)
                    if said[:2] == query[:2]:
                        return dns.read(said)
        except (OSError, TimeoutError, dns.Malformed):
            return None


def _places(view: NodeView) -> node_cache.Places:
    return node_cache.places(view, mode_name(view))
