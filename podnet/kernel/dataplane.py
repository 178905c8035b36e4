"""The port to a node's kernel, and the kernel behind it.

`read` says what is there that is ours, `apply` carries out a plan, `act` does what is not a state. The same port is
implemented in memory by kernel/fake.py, and one suite of tests holds for both. A plan's steps are grouped by
namespace, so that each is entered once: the node's links first, then the inside of each pod, then the rest of the
node, whose routes thereby come last; and the other way round for what is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Protocol

from podnet.kernel import announcing, conntrack, iptables, ipvs, nft, reading, recent
from podnet.kernel.conntrack import Translated
from podnet.kernel.daemons import Daemons
from podnet.kernel.iptables import Iptables
from podnet.kernel.ipvs import Ipvs
from podnet.kernel.netlink import NETFILTER, ROUTE, Netlink
from podnet.kernel.netns import NoNamespace, inside
from podnet.kernel.nft import Nft, NftError
from podnet.kernel.outcome import ApplyError, Outcome, Tally
from podnet.kernel.own import INSIDE, Own
from podnet.kernel.reading import Reading
from podnet.kernel.reaping import Reaper
from podnet.kernel.sysctl import Sysctls
from podnet.kernel.writing import Writing
from podnet.state.host import Action, Announce, ForgetFlows, SignalDaemon, Sysctl
from podnet.state.iptables import RECENT
from podnet.state.ipvs import Balanced
from podnet.state.plan import ORDER, Plan, Step
from podnet.state.resource import Key, NodeState, Resource

__all__ = ["ApplyError", "Dataplane", "KernelDataplane", "Outcome"]

NFT_KINDS = frozenset({"NftTable", "Element"})
ELSEWHERE = NFT_KINDS | iptables.KINDS | ipvs.KINDS | {"Daemon"}
"""What goes its own way, past the links and what is on them."""


class Dataplane(Protocol):
    """What the reconciler needs of a node. Blocking; every call comes from one thread."""

    def read(self, desired: NodeState, kinds: frozenset[str] | None = None) -> dict[Key, Resource]:
        """What is there of `kinds` (None: of all): everything with our mark on the node; in the pods that `desired`
        names, what is ours or wanted there; the values of the kernel parameters it names or we have changed. What
        stands where `desired` wants something is reported, with our mark or without."""

    def apply(self, plan: Plan) -> Outcome:
        """Carry out a plan. May be repeated: adding what exists makes it so, deleting what is missing is done."""

    def act(self, actions: Iterable[Action]) -> None:
        """Do what is not a state."""

    def intact(self, desired: NodeState) -> bool:
        """Whether the canaries among these iptables chains stand: a cheap look for what sends no event."""

    def remembered(self, family: str, table: str, name: str) -> tuple[str, ...]:
        """What the kernel itself has put into one of our sets, `name` with its sort ("set ejected"), or, with RECENT
        for the table, into a list of iptables ("ADDRESS : SECONDS" ago). Raises OSError."""

    def forget(self, family: str, table: str, name: str, elements: Iterable[str]) -> None:
        """Take some of these out again. Raises OSError."""

    def translated(self) -> Mapping[Translated, int]:
        """How many flows were led elsewhere (kernel/conntrack.py); for any thread. Raises OSError."""

    def balanced(self) -> Balanced:
        """What our virtual servers do. Raises OSError."""

    def close(self) -> None:
        """Give back every handle. Leaves the kernel as it is."""


class KernelDataplane:
    """The kernel of this machine, in the namespace at `netns` ("": that of the thread which makes this)."""

    def __init__(self, state_dir: str, netns: str = "", patient: bool = True) -> None:
        """`state_dir` exists and outlives the process; `patient`: whether connections are waited for (ipvs.py). Raises
        NoNamespace, OSError when libnftables is missing."""
        self.netns = netns
        self.netlink = Netlink(ROUTE, netns)
        self.nft = Nft(state_dir, netns)
        self.iptables = Iptables(netns)
        self.ipvs = Ipvs(netns, patient)
        self.sysctls = Sysctls(state_dir)
        self.reaper = Reaper(netns, self.sysctls)
        self.daemons = Daemons(state_dir, netns)
        self.own = Own(self.netlink.port, self.nft.library.port)
        """For the Monitor of the same namespace."""

    def read(self, desired: NodeState, kinds: frozenset[str] | None = None) -> dict[Key, Resource]:
        """See Dataplane."""
        wanted = frozenset(ORDER) if kinds is None else kinds
        found: dict[Key, Resource] = {}
        if wanted & reading.KINDS:
            _collect(found, Reading(self.netlink, "", desired).read(wanted))
            found = ipvs.unkept(found, desired, self.ipvs)
        if wanted & NFT_KINDS:
            _collect(found, self.nft.read(wanted))
        if wanted & iptables.KINDS:
            _collect(found, self.iptables.read(wanted, desired))
        if wanted & ipvs.KINDS:
            _collect(found, self.ipvs.read(wanted, desired))
        if "Daemon" in wanted:
            _collect(found, self.daemons.read(desired))
        sysctls = _sysctls(desired) if "Sysctl" in wanted else {}
        with inside(self.netns):
            _collect(found, self.sysctls.read(self.sysctls.remembered() if "Sysctl" in wanted else ()))
            _collect(found, self.sysctls.read(sysctls.pop("", ())))
        kinds_of_pods = wanted & reading.POD_KINDS
        for path in sorted({key[1] for key in desired if key[1] and key[0] in wanted}):
            with suppress(NoNamespace), inside(path):
                _collect(found, self.sysctls.read(sysctls.get(path, ())))
                if kinds_of_pods:
                    with Netlink(ROUTE) as netlink:
                        _collect(found, Reading(netlink, path, desired).read(kinds_of_pods))
        return found

    def apply(self, plan: Plan) -> Outcome:
        """See Dataplane."""
        tally = Tally()
        self.own.announce(plan.steps)
        first, last = nft.split(plan.steps)
        self.nft.apply(first, tally)
        self.iptables.apply((step for step in plan.steps if step.resource.kind in iptables.KINDS), tally)
        made, gone = ipvs.split(plan.steps)
        self.ipvs.apply(made, tally)
        for path, steps in stages(plan.steps):
            try:
                self._write(path, steps, tally)
            except NoNamespace:
                for step in steps:
                    tally.absent(step)
        for step in plan.steps:
            if step.resource.kind == "Daemon":
                self.daemons.apply(step, tally)
        self.ipvs.apply(gone, tally)
        self.nft.apply(last, tally)
        return tally.outcome()

    def _write(self, path: str, steps: list[Step], tally: Tally) -> None:
        steps = ipvs.without_kept(steps, self.ipvs, tally)
        links = [step for step in steps if step.verb == "delete" and step.resource.kind == "Link"]
        if links:
            steps = [step for step in steps if step not in links]
        with inside(path or self.netns), ExitStack() as stack:
            netlink = stack.enter_context(Netlink(ROUTE, port=INSIDE)) if path else self.netlink
            stack.enter_context(Writing(netlink, self.sysctls, tally)).add(steps)
        if links:
            self.reaper.remove(links, tally)

    def act(self, actions: Iterable[Action]) -> None:
        """See Dataplane."""
        actions = tuple(actions)
        if flows := [action for action in actions if isinstance(action, ForgetFlows)]:
            with Netlink(NETFILTER, self.netns) as netlink:
                conntrack.forget(netlink, flows)
        for action in actions:
            if isinstance(action, Announce):
                announcing.announce(action, self.netns)
            elif isinstance(action, SignalDaemon):
                self.daemons.signal(action.name, action.number)

    def intact(self, desired: NodeState) -> bool:
        """See Dataplane."""
        return self.iptables.intact(desired)

    def remembered(self, family: str, table: str, name: str) -> tuple[str, ...]:
        """See Dataplane."""
        if table == RECENT:
            return recent.remembered(name, self.netns)
        try:
            return self.nft.remembered(family, table, name)
        except NftError as error:
            raise OSError(error.failure.errno, error.failure.text) from None

    def forget(self, family: str, table: str, name: str, elements: Iterable[str]) -> None:
        """See Dataplane."""
        try:
            self.nft.forget(family, table, name, elements)
        except NftError as error:
            raise OSError(error.failure.errno, error.failure.text) from None

    def translated(self) -> Mapping[Translated, int]:
        """See Dataplane."""
        with Netlink(NETFILTER, self.netns) as netlink:
            return conntrack.translated(netlink)

    def balanced(self) -> Balanced:
        """See Dataplane."""
        return self.ipvs.balanced()

    def close(self) -> None:
        """See Dataplane."""
        self.reaper.close()
        self.daemons.close()
        self.netlink.close()
        self.nft.close()


def stages(steps: Iterable[Step]) -> Iterator[tuple[str, list[Step]]]:
    """Steps by namespace ("": the node's), in an order that keeps to what each kind needs; see above."""
    steps = [step for step in steps if step.resource.kind not in ELSEWHERE]
    made = [step for step in steps if step.verb != "delete"]
    yield from _grouped(step for step in made if step.resource.kind == "Link")
    yield from _grouped(step for step in made if step.resource.key[1])
    yield from _grouped(step for step in made if not step.resource.key[1] and step.resource.kind != "Link")
    removed = [step for step in steps if step.verb == "delete"]
    yield from _grouped(step for step in removed if step.resource.key[1])
    yield from _grouped(step for step in removed if not step.resource.key[1])


def _grouped(steps: Iterable[Step]) -> Iterator[tuple[str, list[Step]]]:
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.resource.key[1], []).append(step)
    return iter(groups.items())


def _collect(found: dict[Key, Resource], resources: Iterator[Resource]) -> None:
    found.update((resource.key, resource) for resource in resources)


def _sysctls(desired: NodeState) -> dict[str, list[Sysctl]]:
    """The kernel parameters of a state, by namespace."""
    found: dict[str, list[Sysctl]] = {}
    for resource in desired.values():
        if isinstance(resource, Sysctl):
            found.setdefault(resource.netns, []).append(resource)
    return found
