"""The migration oracle: a cluster of agents that hear of things late, stop, start, and are told to change their mind.

Each agent acts on the part of two event streams (all nodes' words, all configurations) that has reached it, in three
separate moments: it looks, it applies what it has seen to be right, it writes its words. At every moment, whatever any
node sends with, the receiver must be able to receive; and when everybody is left alone, only the wanted scheme is
left. "Can receive" is judged by the kernel states alone: by device, VNI, port, address and MAC, not by words.

Not modelled, because it is excluded: an agent that reads the API backwards, and Node objects that lose their words.
"""

from __future__ import annotations

from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.backends.vxlan import vtep_mac
from podnet.network.migration import connect, published, schemes
from podnet.network.viewing import view
from podnet.state.resource import state
from tests.kernel_stub import State, undelivered
from tests.worlds import BACKENDS, cluster, config, facts, node

NODES = (1, 2, 3)
Words = tuple[tuple[str, ...], tuple[str, ...]]
History = tuple[Words, ...]


@cache
def decision(i: int, words: History, backend: int, said: Words | None) -> tuple[State, Words, int]:
    """What node i makes of all nodes' words: its kernel's state, its own words, the number of schemes it accepts."""
    world = cluster([node(j, False, *words[j - 1]) for j in NODES], config(BACKENDS[backend]))
    seen = view(world, facts(i), said=said)
    assert seen is not None
    return state(connect(seen)), published(seen), len(schemes(seen))


class Agent(msgspec.Struct):
    """One node: how much it has heard, what it decided, what its kernel holds, what it will write."""

    i: int
    up: bool = True
    nodes_heard: int = 0
    configs_heard: int = 0
    said: Words | None = None
    decided: tuple[State, Words] | None = None
    unwritten: Words | None = None
    kernel: State = {}


class Simulation:
    """The cluster: two streams of events and some agents."""

    def __init__(self) -> None:
        self.words: list[History] = [tuple(((), ()) for _ in NODES)]
        self.configs = [0]
        self.agents = {i: Agent(i) for i in NODES}
        self.calm()

    def calm(self) -> None:
        """Everybody runs and hears everything, until nothing changes any more."""
        for _ in range(10):
            before = self.words[-1]
            for i in self.agents:
                self.start(i)
                self.hear(i, len(self.words))
                self.told(i, len(self.configs))
                self.act(i)
                self.write(i)
            if self.words[-1] == before:
                return
        pytest.fail(f"the words never settle: {self.words[-3:]}")

    # -- what can happen

    def change(self, backend: int) -> None:
        """Somebody changes the configuration."""
        self.configs.append(backend)

    def hear(self, i: int, events: int = 99) -> None:
        """Some more of the nodes' words reach an agent, its own among them."""
        agent = self.agents[i]
        agent.nodes_heard = min(agent.nodes_heard + events, len(self.words) - 1)

    def told(self, i: int, events: int = 99) -> None:
        """Some more configurations reach an agent."""
        agent = self.agents[i]
        agent.configs_heard = min(agent.configs_heard + events, len(self.configs) - 1)

    def look(self, i: int) -> None:
        """An agent decides on what it has heard, and on what it tried to say last."""
        agent = self.agents[i]
        agent.unwritten = None  # what was not sent by now never will be
        if agent.up:
            decided = decision(i, self.words[agent.nodes_heard], self.configs[agent.configs_heard], agent.said)
            agent.decided = decided[:2]

    def apply(self, i: int) -> None:
        """And makes it so; only then it has something to write."""
        agent = self.agents[i]
        if agent.decided:
            (agent.kernel, agent.unwritten), agent.decided = agent.decided, None
            self.check()

    def act(self, i: int) -> None:
        """Both at once."""
        self.look(i)
        self.apply(i)

    def write(self, i: int) -> None:
        """Its words reach the API."""
        agent, now = self.agents[i], list(self.words[-1])
        if agent.unwritten:
            agent.said, agent.unwritten = agent.unwritten, None
            now[i - 1] = agent.said
            if tuple(now) != self.words[-1]:
                self.words.append(tuple(now))

    def stop(self, i: int) -> None:
        """Killed: what was not done will not be done; the kernel stays as it is."""
        agent = self.agents[i]
        agent.up, agent.decided, agent.unwritten, agent.said = False, None, None, None

    def start(self, i: int) -> None:
        """Begins with a fresh list."""
        agent = self.agents[i]
        if not agent.up:
            agent.up, agent.nodes_heard, agent.configs_heard = True, len(self.words) - 1, len(self.configs) - 1

    # -- what must hold

    def check(self) -> None:
        """Everybody can receive what anybody sends."""
        for a in self.agents.values():
            for b in self.agents.values():
                if a is not b and a.kernel and b.kernel:
                    why = undelivered(a.kernel, b.i, b.kernel)
                    assert not why, f"n{a.i} to n{b.i}: {why}"


NODE = st.sampled_from(NODES)
VERBS = ["hear", "told", "look", "apply", "act", "act", "act", "write", "write", "stop", "start"]
STEP = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["hear", "told"]), NODE, st.integers(1, 3)),
    *(st.tuples(st.just(verb), NODE) for verb in VERBS),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(STEP, min_size=40, max_size=80))
def test_no_interleaving_loses_a_packet_and_all_ends_in_the_wanted_scheme(steps: list[tuple[str | int, ...]]) -> None:
    run(steps)


def run(steps: list[tuple[str | int, ...]]) -> None:
    simulation = Simulation()
    for verb, *arguments in steps:
        getattr(simulation, str(verb))(*arguments)
    simulation.calm()
    wanted = BACKENDS[simulation.configs[-1]]
    fresh = cluster([node(j) for j in NODES], config(wanted))
    for i, agent in simulation.agents.items():
        alone = view(fresh, facts(i))
        assert alone is not None
        assert agent.kernel == state(connect(alone))
        assert len(simulation.words[-1][i - 1][0]) == 1


def passes(*turns: tuple[int, ...]) -> list[tuple[str | int, ...]]:
    """Whole passes of these nodes, turn by turn, each having heard everything."""
    return [(verb, i) for turn in turns for i in turn for verb in ("hear", "told", "act", "write")]


ROUND = NODES
HISTORIES: dict[str, list[tuple[str | int, ...]]] = {
    "one change": [("change", 1), *passes(ROUND, ROUND, ROUND)],
    "changed back at once": [("change", 1), ("change", 0), *passes(ROUND, ROUND)],
    "changed back at every turn": [each for i in range(8) for each in (("change", i % 2), *passes((i % 3 + 1,)))],
    "one stays behind": [("change", 1), ("stop", 3), *passes((1, 2), (1, 2), (1, 2)), ("change", 2), *passes((1, 2))],
    "one comes back in the middle": [("change", 1), ("stop", 3), *passes((1, 2)), ("start", 3), *passes((3,), (1,))],
    "all are restarted": [("change", 1), *passes(ROUND), *(("stop", i) for i in NODES), ("change", 3)],
    "an old word is used again while its end is coming": [
        ("change", 1), *passes(ROUND, ROUND), ("hear", 2), ("look", 2), ("change", 0), *passes((1,), (3,)),
        ("apply", 2), ("write", 2), *passes((1,), (2,)), ("change", 1), *passes((3,), (1,)),
    ],
    "taken back before anybody else had read it": [("change", 2), *passes((2,)), ("change", 0), *passes((2,))],
    "taken back before even the writer had read it": [
        ("change", 2), *passes((2,)), ("change", 0), ("told", 2), ("act", 2), ("hear", 1), ("act", 1),
    ],
    "taken back while the words were about to be sent": [
        ("change", 2), ("told", 2), ("act", 2), ("change", 0), ("told", 2), ("look", 2), ("write", 2), ("apply", 2),
        ("hear", 1), ("act", 1),
    ],
    "taken back after a restart": [
        ("change", 2), *passes((2,)), ("stop", 2), ("change", 0), ("start", 2), ("act", 2), ("hear", 1), ("act", 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_histories_that_broke_simpler_rules(name: str) -> None:
    run(HISTORIES[name])


def test_nothing_to_change_is_never_written_twice() -> None:
    simulation = Simulation()
    assert simulation.words[-1] == tuple((("vxlan",), ("vxlan",)) for _ in NODES)
    before = len(simulation.words)
    simulation.calm()
    assert len(simulation.words) == before


def test_a_change_takes_three_waves_and_few_words() -> None:
    """Each node writes: I accept both; I send the new; I accept the new only. Not more, since every write wakes all."""
    simulation = Simulation()
    before = len(simulation.words)
    simulation.change(1)
    simulation.calm()
    assert len(simulation.words) - before <= 4 * len(NODES)
    assert simulation.words[-1] == tuple((("host-gw@1",), ("host-gw@1",)) for _ in NODES)


def test_the_oracle_sees_a_loss() -> None:
    """Without the tunnel's end, with another VNI, or with another MAC, nothing arrives."""
    both, _, _ = decision(1, ((("vxlan",), ("vxlan",)),) * 3, 0, None)
    other, _, _ = decision(2, ((("vxlan",), ("vxlan",)),) * 3, 0, None)
    assert undelivered(both, 2, other) == ""
    assert undelivered({}, 2, other) == "no route"
    assert "meets []" in undelivered(both, 2, {})
    far, _, _ = decision(2, ((("vxlan:vni=5",), ("vxlan:vni=5",)),) * 3, 2, None)
    assert "meets [(5" in undelivered(both, 2, far)
    assert "meets" in undelivered(both, 2, both)
    assert vtep_mac("n2") in undelivered(both, 2, {})
