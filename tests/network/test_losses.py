"""Counting lost probes: late answers, vanished pods, bursts; the same result in whatever order answers come."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.losses import GRACE, PATIENCE, Burst, Losses
from podnet.network.reach import Endpoint, Pair, Seen


def pod(name: str, address: str) -> Endpoint:
    return Endpoint(name, name, "pod", f"node-of-{name}", "", (address,))


A, B, C = pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3")
AB, BA, AC = Pair(A, B, "10.0.0.2"), Pair(B, A, "10.0.0.1"), Pair(A, C, "10.0.0.3")
SEEN = Seen("b", "10.0.0.1", 4000, "10.0.0.2")


@pytest.fixture
def losses() -> Losses:
    made = Losses()
    made.expect([AB, BA], 0.0, proven=True)
    return made


def send(losses: Losses, number: int, at: float, pair: Pair = AB, error: str = "") -> None:
    losses.send(number, pair, 4000, at, error)


def test_answered_probes_are_no_loss(losses: Losses) -> None:
    for number in range(10):
        send(losses, number, number / 10)
        losses.answered(number)
    assert losses.settle(5.0, 5.0) == []
    assert (losses.sent, losses.lost, losses.failures()) == (10, 0, ())


def test_a_probe_has_a_second(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(PATIENCE - 0.001, 9.0)
    assert losses.lost == 0
    losses.settle(PATIENCE, 9.0)
    assert losses.lost == 1


def test_a_late_answer_within_the_second_counts(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(0.99, 0.99)
    losses.answered(1)
    losses.settle(3.0, 3.0)
    assert losses.lost == 0


def test_an_answer_after_that_does_not_undo_the_loss(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(1.5, 1.5)
    losses.answered(1)
    assert losses.settle(3.0, 3.0) == []
    assert (losses.sent, losses.lost) == (1, 1)


def test_only_a_later_listing_makes_it_count(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(10.0, 0.5)
    assert losses.lost == 0
    losses.expect([BA], 10.0)
    losses.settle(20.0, 20.0)
    assert (losses.sent, losses.lost) == (0, 0)


def test_a_burst_ends_with_the_next_good_probe(losses: Losses) -> None:
    for number, at in enumerate((0.0, 0.1, 0.2, 0.3, 0.4)):
        send(losses, number, at)
    losses.answered(0)
    losses.answered(4)
    losses.arrived(2, SEEN)
    (burst,) = losses.settle(2.0, 2.0)
    assert (burst.pair, burst.start, burst.lost) == (AB, 0.1, 3)
    assert burst.seconds == pytest.approx(0.3)
    assert losses.longest == pytest.approx(0.3)
    assert burst.reason == "it never arrived"


@pytest.mark.parametrize(
    ("error", "arrived", "reason"),
    [("", False, "it never arrived"), ("", True, "its answer was lost"), ("ENETUNREACH", False, "ENETUNREACH")],
)
def test_reason_of_a_burst(losses: Losses, error: str, arrived: bool, reason: str) -> None:
    send(losses, 1, 0.0, error=error)
    if arrived:
        losses.arrived(1, SEEN)
    assert [burst.reason for burst in losses.finish(2.0)] == [reason]


def test_a_burst_that_goes_on_ends_with_the_watch(losses: Losses) -> None:
    send(losses, 1, 0.5)
    send(losses, 2, 0.7)
    assert losses.settle(5.0, 5.0) == []
    assert losses.finish(5.0) == [Burst(AB, 0.5, 4.5, 2, "it never arrived")]
    assert losses.longest == 4.5


def test_finish_decides_what_still_waits(losses: Losses) -> None:
    send(losses, 1, 9.9)
    send(losses, 2, 9.9, BA)
    losses.answered(2)
    losses.finish(10.0)
    assert (losses.sent, losses.lost) == (2, 1)


def test_a_new_pair_has_grace_until_its_first_answer() -> None:
    losses = Losses()
    losses.expect([AB], 10.0)
    send(losses, 1, 10.0)
    send(losses, 2, 10.0 + GRACE - 0.1)
    losses.settle(20.0, 20.0)
    assert (losses.sent, losses.lost) == (0, 0)
    send(losses, 3, 10.0 + GRACE + 0.1)
    losses.settle(30.0, 30.0)
    assert (losses.sent, losses.lost) == (1, 1)


def test_grace_ends_with_the_first_answer() -> None:
    losses = Losses()
    losses.expect([AB], 0.0)
    send(losses, 1, 0.1)
    losses.answered(1)
    send(losses, 2, 0.2)
    losses.settle(5.0, 5.0)
    assert (losses.sent, losses.lost) == (2, 1)


def test_a_listing_keeps_what_is_known_of_a_pair(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(2.0, 2.0)
    losses.expect([AC, AB], 2.0)
    send(losses, 2, 2.5)
    losses.answered(2)
    (burst,) = losses.settle(5.0, 5.0)
    assert (burst.start, burst.seconds) == (0.0, 2.5)


def test_pairs_do_not_mix(losses: Losses) -> None:
    send(losses, 1, 0.0, AB)
    send(losses, 2, 0.1, BA)
    send(losses, 3, 0.2, AB)
    losses.answered(2)
    losses.answered(3)
    (burst,) = losses.settle(5.0, 5.0)
    assert burst.pair == AB


def test_failures_name_the_pair_and_how_much_it_lost(losses: Losses) -> None:
    for number, at in enumerate((0.0, 0.25, 0.5)):
        send(losses, number, at)
    losses.answered(2)
    losses.settle(5.0, 5.0)
    (failure,) = losses.failures()
    assert (failure.source, failure.target, failure.probe) == ("a", "b", "udp")
    assert failure.reason == "lost 2 probes, for up to 500 ms in a row; first: it never arrived"


def test_failures_stay_when_the_pair_leaves(losses: Losses) -> None:
    send(losses, 1, 0.0)
    losses.settle(5.0, 5.0)
    losses.expect([], 5.0)
    assert len(losses.failures()) == 1


@pytest.mark.parametrize(
    ("seen", "translated"),
    [
        (SEEN, False),
        (Seen("b", "10.0.0.9", 4000, "10.0.0.2"), True),
        (Seen("b", "10.0.0.1", 4001, "10.0.0.2"), True),
        (Seen("c", "10.0.0.1", 4000, "10.0.0.3"), True),
    ],
)
def test_translation_is_noticed_once_a_pair(losses: Losses, seen: Seen, translated: bool) -> None:
    for number in range(3):
        send(losses, number, 0.0)
        losses.arrived(number, seen)
        losses.answered(number)
    assert len(losses.failures()) == translated


def test_a_node_may_send_from_any_of_its_addresses_but_one_port() -> None:
    losses, node = Losses(), Endpoint("n", "n", "node", "n", "", ("10.9.9.9",))
    pair = Pair(node, B, "10.0.0.2")
    losses.expect([pair], 0.0)
    losses.send(1, pair, 4000, 0.0)
    losses.arrived(1, Seen("b", "10.244.1.1", 4000, "10.0.0.2"))
    assert losses.failures() == ()
    losses.arrived(1, Seen("b", "10.244.1.1", 999, "10.0.0.2"))
    assert len(losses.failures()) == 1


def test_unknown_numbers_are_nobodys(losses: Losses) -> None:
    losses.arrived(77, SEEN)
    losses.answered(77)
    assert (losses.sent, losses.lost, losses.failures()) == (0, 0, ())


Outcome = st.sampled_from(["answered", "lost"])


@given(st.lists(Outcome, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_of_answers_gives_the_same_bursts(outcomes: list[str], order: random.Random) -> None:
    """The bursts are the runs of lost probes, whenever answers come and however often one settles."""
    losses = Losses()
    losses.expect([AB], 0.0, proven=True)
    for number, _ in enumerate(outcomes):
        send(losses, number, number / 100)
    answers = [number for number, outcome in enumerate(outcomes) if outcome == "answered"]
    order.shuffle(answers)
    found = []
    for number in answers:
        losses.answered(number)
        if order.random() < 0.5:
            found += losses.settle(0.9, 0.9)
    end = len(outcomes) / 100
    found += losses.settle(5.0, 5.0) + losses.finish(end)
    assert [(burst.start, burst.lost) for burst in found] == runs(outcomes)
    assert (losses.sent, losses.lost) == (len(outcomes), outcomes.count("lost"))
    assert losses.longest == max([burst.seconds for burst in found], default=0.0)


def runs(outcomes: list[str]) -> list[tuple[float, int]]:
    """(start, length) of each run of lost ones."""
    found: list[tuple[float, int]] = []
    for number, outcome in enumerate(outcomes):
        if outcome == "lost":
            if number and outcomes[number - 1] == "lost":
                start, length = found.pop()
                found.append((start, length + 1))
            else:
                found.append((number / 100, 1))
    return found
