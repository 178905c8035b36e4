"""A cache that remembers what is no longer true, and what makes it forget: with a clock of our own."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.daemons.purging import AT_ONCE, FIRST, MOST, PATIENCE, Name, Purging
from podnet.network.dns.records import Expected
from tests.client.waiting import until

WEB: Name = ("web.demo.svc.cluster.local", "A")
DB: Name = ("db.demo.svc.cluster.local", "AAAA")
NONE: Expected = ()
OLD, NEW = ("10.96.0.1",), ("10.96.0.2",)
Word = tuple[str, str, Expected]


def new(*names: Name) -> list[Word]:
    """They came to be; any answer will do."""
    return [(*name, None) for name in names]


class Cache:
    """`there` is what upstream knows, `remembered` what was answered once, which is answered in spite of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.there: dict[Name, tuple[str, ...]] = {}
        self.remembered: dict[Name, tuple[str, ...]] = {}
        self.deaf = False
        self.asked: list[Name] = []
        self.clears: list[float] = []
        self.most = self.under_way = 0

    def have(self, *names: Name, said: tuple[str, ...] = OLD) -> None:
        """These have come to be, or are this now."""
        self.there |= dict.fromkeys(names, said)

    def answer(self, name: Name) -> tuple[str, ...]:
        """As a pod hears it."""
        return self.remembered.setdefault(name, self.there.get(name, ()))

    async def ask(self, name: str, type_: str, expected: Expected) -> bool | None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.asked.append((name, type_))
        if self.deaf:
            return None
        said = self.answer((name, type_))
        return bool(said) if expected is None else said == expected

    def clear(self) -> None:
        self.clears.append(self.now)
        self.remembered.clear()

    def purging(self) -> Purging:
        return Purging(self.ask, self.clear, lambda: self.now)


async def finish(cache: Cache, purging: Purging) -> list[float]:
    """Until nothing is left; the waits."""
    waits = []
    while (wait := await purging.step()) is not None:
        waits.append(round(wait, 6))
        cache.now += wait
    return waits


async def test_what_is_answered_already_costs_a_question() -> None:
    cache = Cache()
    cache.have(WEB, DB)
    purging = cache.purging()
    purging.add(new(WEB, DB))
    assert await finish(cache, purging) == []
    assert (cache.asked, cache.clears, purging.purged, len(purging)) == ([WEB, DB], [], 2, 0)


async def test_what_is_remembered_as_missing_is_cleared_once_for_all_of_them() -> None:
    cache = Cache()
    cache.remembered = {WEB: (), DB: ()}
    cache.have(WEB, DB)
    purging = cache.purging()
    purging.add(new(WEB, DB))
    assert await finish(cache, purging) == [FIRST]
    assert (len(cache.clears), purging.cleared, purging.purged) == (1, 1, 2)


async def test_one_that_comes_late_is_asked_for_with_growing_waits() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add(new(WEB))
    waits = []
    while (wait := await purging.step()) is not None:
        waits.append(round(wait / FIRST))
        cache.now += wait
        if len(waits) == 4:
            cache.have(WEB)
    assert waits == [1, 2, 4, 8]
    assert purging.purged == 1


async def test_one_that_never_comes_is_given_up() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add(new(WEB))
    waits = await finish(cache, purging)
    assert PATIENCE <= sum(waits) < 2 * PATIENCE + 1
    assert len(cache.clears) == len(waits) < 15
    assert (purging.given_up, purging.purged) == (1, 0)


async def test_a_cache_that_does_not_answer_is_not_cleared() -> None:
    cache = Cache()
    cache.have(WEB)
    cache.deaf = True
    purging = cache.purging()
    purging.add(new(WEB))
    assert await purging.step() == FIRST
    cache.deaf, cache.now = False, FIRST
    assert await finish(cache, purging) == []
    assert (cache.clears, purging.purged) == ([], 1)


async def test_an_answer_that_does_not_come_holds_up_nobody() -> None:
    cache = Cache()
    cache.have(WEB, DB)

    async def ask(name: str, type_: str, expected: Expected) -> bool | None:
        if name == DB[0] and not cache.clears:
            await asyncio.Event().wait()
        return await cache.ask(name, type_, expected)

    cache.remembered = {WEB: ()}
    purging = Purging(ask, cache.clear, lambda: cache.now)
    purging.add(new(DB, WEB))
    assert await finish(cache, purging) == [FIRST]
    assert (len(cache.clears), purging.purged) == (1, 2)


async def test_what_is_said_again_while_it_is_asked_for_is_asked_for_again() -> None:
    cache = Cache()
    cache.have(WEB)
    purging = cache.purging()
    purging.add(new(WEB))
    stepping = asyncio.create_task(purging.step())
    await asyncio.sleep(0)
    purging.add(new(WEB))
    assert await stepping == 0.0
    assert await finish(cache, purging) == []
    assert cache.asked == [WEB, WEB]


async def test_very_many_at_once_are_cleared_without_asking() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add((f"n{number}.demo", "A", None) for number in range(MOST + 1))
    assert await finish(cache, purging) == []
    assert (len(cache.asked), len(cache.clears)) == (0, 1)


async def test_questions_under_way_are_limited() -> None:
    cache = Cache()
    names: list[Name] = [(f"n{number}.demo", "A") for number in range(3 * AT_ONCE)]
    cache.have(*names)
    purging = cache.purging()
    purging.add(new(*names))
    await finish(cache, purging)
    assert (cache.most, purging.purged) == (AT_ONCE, 3 * AT_ONCE)


async def test_running_it_wakes_up_by_itself() -> None:
    cache = Cache()
    cache.remembered = {WEB: ()}
    cache.have(WEB)
    purging = Purging(cache.ask, cache.clear, asyncio.get_running_loop().time)
    running = asyncio.create_task(purging.run())
    await asyncio.sleep(0)
    purging.add(new(WEB))
    await until(lambda: not len(purging))
    running.cancel()
    assert (purging.purged, purging.cleared) == (1, 1)


async def test_an_answer_that_changed_and_one_that_is_gone() -> None:
    cache = Cache()
    cache.remembered = {WEB: OLD, DB: OLD}
    cache.have(WEB, said=NEW)
    purging = cache.purging()
    purging.add([(*WEB, NEW), (*DB, NONE)])
    assert await finish(cache, purging) == [FIRST]
    assert (len(cache.clears), purging.purged) == (1, 2)
    assert (cache.answer(WEB), cache.answer(DB)) == (NEW, ())


async def test_gone_and_there_again_with_another_answer_before_anybody_asked() -> None:
    cache = Cache()
    cache.remembered = {WEB: OLD}
    cache.have(WEB, said=NEW)
    purging = cache.purging()
    purging.add([(*WEB, NONE)])
    purging.add([(*WEB, NEW)])
    assert await finish(cache, purging) == [FIRST]
    assert (cache.asked, len(cache.clears), cache.answer(WEB)) == ([WEB, WEB], 1, NEW)


async def test_a_storm_of_changes_of_what_nobody_asked_for_clears_nothing() -> None:
    cache = Cache()
    names: list[Name] = [(f"n{number}.demo", "A") for number in range(1000)]
    cache.have(*names, said=NEW)
    cache.remembered = {WEB: OLD}
    purging = cache.purging()
    purging.add((*name, NEW) for name in names)
    assert await finish(cache, purging) == []
    assert (cache.clears, purging.purged) == ([], 1000)


STORY = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0, 3), st.booleans(), st.sampled_from([OLD, NEW, NONE])), max_size=8
)


@settings(max_examples=40, deadline=None)
@given(STORY)
async def test_in_the_end_what_is_remembered_is_true(story: list[tuple[int, float, bool, tuple[str, ...]]]) -> None:
    cache = Cache()
    purging = cache.purging()
    for number, seconds, looked_for, said in story:
        name = (f"n{number}.demo", "A")
        if looked_for:
            cache.answer(name)
        cache.have(name, said=said)
        purging.add([(*name, said)])
        cache.now += min(seconds, await purging.step() or seconds)
    await finish(cache, purging)
    assert all(cache.there[name] == said for name, said in cache.remembered.items())
    assert purging.given_up == 0
