"""One of several agents holds the Lease: never two, the next one when it is gone, the same one when it returns."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from podnet.agent.election import DEADLINE, DURATION, Election, bid
from podnet.client.errors import ApiError

NOW = datetime(2024, 1, 1, tzinfo=UTC)
HELD = {"holderIdentity": "n1", "leaseDurationSeconds": 15, "renewTime": "then", "acquireTime": "x", "custom": 1}


class Api:
    """One Lease, with versions; `meanwhile` is called between a reading and the write that follows."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.writes = 0
        self.away = False
        self.meanwhile = lambda: None

    async def get(self, kind: object, name: str, namespace: str, into: object) -> dict[str, Any]:
        if self.away:
            raise ApiError(503, "ServiceUnavailable")
        if self.lease is None:
            raise ApiError(404, "NotFound")
        found = copy.deepcopy(self.lease)
        self.meanwhile()
        return found

    async def create(self, kind: object, body: dict[str, Any], into: object) -> None:
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists")
        self._put(body)

    async def replace(self, kind: object, body: dict[str, Any], into: object) -> None:
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict")
        self._put(body)

    def _put(self, body: dict[str, Any]) -> None:
        self.writes += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.writes)}}


class Race:
    """Two agents and one clock."""

    def __init__(self) -> None:
        self.api, self.time, self.elected = Api(), 0.0, 0
        self.one, self.two = self.agent("n1"), self.agent("n2")

    def agent(self, name: str) -> Election:
        return Election(self.api, "conditions", name, elected=self._won, clock=lambda: self.time)  # type: ignore[arg-type]

    def _won(self) -> None:
        self.elected += 1

    def leaders(self) -> str:
        return " ".join(name for name, each in (("one", self.one), ("two", self.two)) if each.leading)

    async def pass_(self, seconds: float, *who: Election) -> None:
        """Time goes by, and these look in between."""
        end = self.time + seconds
        while self.time < end:
            self.time += 5
            for each in who:
                await each.look()
            assert self.leaders() != "one two"


async def test_the_first_holds_it_as_long_as_it_lives_and_then_the_next() -> None:
    race = Race()
    await race.one.look()
    assert (race.leaders(), race.elected) == ("one", 1)
    await race.pass_(200, race.one, race.two)
    assert race.leaders() == "one"
    await race.pass_(DURATION - 5, race.two)
    assert race.leaders() == ""
    await race.pass_(10, race.two)
    assert race.leaders() == "two"
    assert race.api.lease is not None
    assert race.api.lease["spec"]["leaseTransitions"] == 1
    await race.pass_(100, race.one, race.two)
    assert race.leaders() == "two", "who returns does not take it back"


async def test_a_restarted_holder_goes_on_at_once() -> None:
    race = Race()
    await race.one.look()
    again = race.agent("n1")
    await again.look()
    assert again.leading


async def test_who_cannot_renew_gives_up_before_another_takes_it() -> None:
    race = Race()
    await race.one.look()
    race.api.away = True
    with pytest.raises(ApiError):
        await race.one.look()
    race.time = DEADLINE - 1
    assert race.leaders() == "one"
    race.time = DEADLINE
    assert race.leaders() == ""
    assert DEADLINE < DURATION


async def test_a_lost_race_is_none() -> None:
    race = Race()
    race.api.lease = {"metadata": {"resourceVersion": "0"}, "spec": {}}

    def first() -> None:
        race.api.meanwhile = lambda: None
        race.api._put({"metadata": {}, "spec": {"holderIdentity": "n2"}})

    race.api.meanwhile = first
    await race.one.look()
    assert not race.one.leading


def test_bids() -> None:
    assert bid(HELD, "n2", 14.9, NOW) is None
    mine = bid(HELD, "n1", 0, NOW)
    assert mine == {**HELD, "renewTime": "2024-01-01T00:00:00.000000Z"}
    taken = bid(HELD, "n2", 15, NOW)
    assert taken is not None
    assert (taken["holderIdentity"], taken["leaseTransitions"], taken["custom"]) == ("n2", 1, 1)
    fresh = bid({"leaseTransitions": 4}, "n2", 0, NOW)
    assert fresh is not None
    assert fresh["leaseTransitions"] == 4, "nobody held it"
