"""A cache that remembers what is missing, and what makes it forget: with a clock of our own."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.daemons.purging import AT_ONCE, FIRST, MOST, PATIENCE, Name, Purging
from tests.client.waiting import until

WEB: Name = ("web.demo.svc.cluster.local", "A")
DB: Name = ("db.demo.svc.cluster.local", "AAAA")


class Cache:
    """`there` is what upstream knows, `remembered` what is answered negatively in spite of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.there: set[Name] = set()
        self.remembered: set[Name] = set()
        self.deaf = False
        self.asked: list[Name] = []
        self.clears: list[float] = []
        self.most = self.under_way = 0

    async def ask(self, name: str, type_: str) -> bool | None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.asked.append((name, type_))
        if self.deaf:
            return None
        if (name, type_) not in self.there:
            self.remembered.add((name, type_))
        return (name, type_) not in self.remembered

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
    cache.there = {WEB, DB}
    purging = cache.purging()
    purging.add([WEB, DB])
    assert await finish(cache, purging) == []
    assert (cache.asked, cache.clears, purging.purged, len(purging)) == ([WEB, DB], [], 2, 0)


async def test_what_is_remembered_as_missing_is_cleared_once_for_all_of_them() -> None:
    cache = Cache()
    cache.there = cache.remembered = {WEB, DB}
    cache.there = {WEB, DB}
    purging = cache.purging()
    purging.add([WEB, DB])
    assert await finish(cache, purging) == [FIRST]
    assert (len(cache.clears), purging.cleared, purging.purged) == (1, 1, 2)


async def test_one_that_comes_late_is_asked_for_with_growing_waits() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add([WEB])
    waits = []
    while (wait := await purging.step()) is not None:
        waits.append(round(wait / FIRST))
        cache.now += wait
        if len(waits) == 4:
            cache.there.add(WEB)
    assert waits == [1, 2, 4, 8]
    assert purging.purged == 1


async def test_one_that_never_comes_is_given_up() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add([WEB])
    waits = await finish(cache, purging)
    assert PATIENCE <= sum(waits) < 2 * PATIENCE + 1
    assert len(cache.clears) == len(waits) < 15
    assert (purging.given_up, purging.purged) == (1, 0)


async def test_a_cache_that_does_not_answer_is_not_cleared() -> None:
    cache = Cache()
    cache.there, cache.deaf = {WEB}, True
    purging = cache.purging()
    purging.add([WEB])
    assert await purging.step() == FIRST
    cache.deaf, cache.now = False, FIRST
    assert await finish(cache, purging) == []
    assert (cache.clears, purging.purged) == ([], 1)


async def test_an_answer_that_does_not_come_holds_up_nobody() -> None:
    cache = Cache()
    cache.there = {WEB, DB}

    async def ask(name: str, type_: str) -> bool | None:
        if name == DB[0] and not cache.clears:
            await asyncio.Event().wait()
        return await cache.ask(name, type_)

    cache.remembered = {WEB}
    purging = Purging(ask, cache.clear, lambda: cache.now)
    purging.add([DB, WEB])
    assert await finish(cache, purging) == [FIRST]
    assert (len(cache.clears), purging.purged) == (1, 2)


async def test_what_is_said_again_while_it_is_asked_for_is_asked_for_again() -> None:
    cache = Cache()
    cache.there = {WEB}
    purging = cache.purging()
    purging.add([WEB])
    stepping = asyncio.create_task(purging.step())
    await asyncio.sleep(0)
    purging.add([WEB])
    assert await stepping == 0.0
    assert await finish(cache, purging) == []
    assert cache.asked == [WEB, WEB]


async def test_very_many_at_once_are_cleared_without_asking() -> None:
    cache = Cache()
    purging = cache.purging()
    purging.add((f"n{number}.demo", "A") for number in range(MOST + 1))
    assert await finish(cache, purging) == []
    assert (len(cache.asked), len(cache.clears)) == (0, 1)


async def test_questions_under_way_are_limited() -> None:
    cache = Cache()
    names: list[Name] = [(f"n{number}.demo", "A") for number in range(3 * AT_ONCE)]
    cache.there = set(names)
    purging = cache.purging()
    purging.add(names)
    await finish(cache, purging)
    assert (cache.most, purging.purged) == (AT_ONCE, 3 * AT_ONCE)


async def test_running_it_wakes_up_by_itself() -> None:
    cache = Cache()
    cache.there = cache.remembered = {WEB}
    cache.there = {WEB}
    purging = Purging(cache.ask, cache.clear, asyncio.get_running_loop().time)
    running = asyncio.create_task(purging.run())
    await asyncio.sleep(0)
    purging.add([WEB])
    await until(lambda: not len(purging))
    running.cancel()
    assert (purging.purged, purging.cleared) == (1, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 3), st.booleans()), max_size=8))
async def test_in_the_end_no_name_that_is_there_is_remembered_as_missing(story: list[tuple[int, float, bool]]) -> None:
    cache = Cache()
    purging = cache.purging()
    for number, seconds, looked_for in story:
        name = (f"n{number}.demo", "A")
        if looked_for:
            await cache.ask(*name)
        cache.there.add(name)
        purging.add([name])
        cache.now += min(seconds, await purging.step() or seconds)
    await finish(cache, purging)
    assert cache.remembered == set()
    assert purging.given_up == 0
