"""Watching a network made by hand while it is broken and repaired, and while pods come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from podnet.daemons.watch import Interval, Watch, Watched
from podnet.network.reach import Endpoint
from tests.lab.handmade import Handmade, handmade

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("handmade")]

Deed = Callable[[], object]


@pytest.fixture
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handmade]:
    with handmade(tmp_path_factory.mktemp("net")) as made:
        yield made


def watch(
    net: Handmade, seconds: float, *deeds: tuple[float, Deed], rate: float = 1000
) -> tuple[Watched, list[Interval]]:
    """Watch, and do things after so many seconds."""
    told: list[Interval] = []

    async def listing() -> Sequence[Endpoint]:
        return tuple(net.endpoints)

    async def all_of_it() -> Watched:
        watching = Watch(rate, listing, told.append).run(seconds, asyncio.Event())
        doing = [asyncio.create_task(after(delay, deed)) for delay, deed in deeds]
        found = await watching
        await asyncio.gather(*doing)
        return found

    async def after(delay: float, deed: Deed) -> None:
        await asyncio.sleep(delay)
        await asyncio.to_thread(deed)

    return asyncio.run(all_of_it()), told


def test_a_healthy_network_loses_nothing(net: Handmade) -> None:
    cpu = time.process_time()
    found, told = watch(net, 5.0)
    assert (found.lost, found.failed, found.longest_gap) == (0, (), 0.0)
    assert found.sent > 4500
    assert found.streams == 36
    assert len(told) in (4, 5)
    assert (time.process_time() - cpu) / 6.0 < 0.4


def test_an_outage_is_measured(net: Handmade) -> None:
    """One second without node2's pod, for everybody."""
    drop = "table inet fault { chain c { type filter hook forward priority 0; iifname b1 drop; oifname b1 drop; }; }"
    found, _ = watch(net, 4.0, (1.5, lambda: net.nft("node2", drop)), (2.5, lambda: net.nft("node2", "flush ruleset")))
    assert {(failure.source, failure.target) for failure in found.failed} == {
        *(("default/b1", name) for name in ("node1", "default/a1", "default/a2")),
        *((name, "default/b1") for name in ("node1", "default/a1", "default/a2")),
    }
    assert found.lost == sum(burst.lost for burst in found.bursts) > 100
    assert 0.8 < found.longest_gap < 1.4
    assert all(1.2 < burst.start < 2.6 for burst in found.bursts)
    outbound = {burst.reason for burst in found.bursts if burst.pair.source.name != "default/b1"}
    assert outbound == {"it never arrived"}


def test_translation_is_noticed(net: Handmade) -> None:
    masquerade = (
        "table inet fault { chain c { type nat hook postrouting priority 100; ip saddr 10.1.1.2 masquerade; }; }"
    )
    net.nft("node1", masquerade)
    found, _ = watch(net, 1.0)
    assert {failure.source for failure in found.failed} == {"default/a1"}
    assert all("arrives as" in failure.reason for failure in found.failed)
    assert found.lost == 0


def test_cut_connections_are_noticed(net: Handmade) -> None:
    """Every established flow to b1 is reset; datagrams still pass."""
    cut = (
        "table inet fault { chain c { type filter hook forward priority 0;"
        " ip daddr 10.1.2.2 tcp flags & (syn|ack) == ack reject with tcp reset; }; }"
    )
    found, _ = watch(net, 4.0, (1.0, lambda: net.nft("node2", cut)))
    assert found.lost == 0
    assert {failure.probe for failure in found.failed} == {"stream"}
    assert all("10.1.2.2" in failure.address or failure.source == "default/b1" for failure in found.failed)
    assert all("cut: ECONNRESET" in failure.reason for failure in found.failed)


def test_a_pod_that_is_deleted_is_no_loss(net: Handmade) -> None:
    """As CNI DEL does it: the record goes, then the link."""

    def delete() -> None:
        net.endpoints[:] = [each for each in net.endpoints if each.name != "default/a2"]
        net.ip("node1", "link del a2")

    found, told = watch(net, 4.0, (1.5, delete))
    assert (found.lost, found.failed) == (0, ())
    assert (told[0].endpoints, told[-1].endpoints) == (5, 4)


def test_a_pod_that_is_added_is_no_loss(net: Handmade) -> None:
    """As CNI ADD does it: the record comes first, the link a moment later."""
    net.ip("node1", "link del a2")
    net.endpoints[:] = [each for each in net.endpoints if each.name != "default/a2"]

    found, told = watch(net, 5.0, (1.0, lambda: net.pod("a2", listed_first=0.7)))
    assert (found.lost, found.failed) == (0, ())
    assert (told[0].endpoints, told[-1].endpoints) == (4, 5)


def test_fewer_probes_a_second_than_pairs(net: Handmade) -> None:
    found, _ = watch(net, 2.0, rate=20)
    assert (found.lost, found.failed) == (0, ())
    assert 30 <= found.sent <= 60
