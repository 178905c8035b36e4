"""What is made of samples and of /proc."""

from __future__ import annotations

import os
import time

import pytest

from podnet.bench.programs import cpu_seconds, resident
from podnet.bench.service_change import worst
from podnet.bench.service_load import size
from podnet.bench.service_objects import endpoint_slice, service
from podnet.bench.writing import body
from podnet.objects.codec import decode
from podnet.objects.kinds import ENDPOINTSLICES, SERVICES, Kind
from podnet.objects.meta import Object


@pytest.mark.parametrize(("count", "found"), [(1, 1), (50, 50), (100, 99), (200, 198), (1000, 990)])
def test_worst_is_what_99_of_100_do_not_exceed(count: int, found: int) -> None:
    assert worst([float(each) for each in range(count, 0, -1)]) == found


def test_worst_of_nothing_is_a_mistake() -> None:
    with pytest.raises(IndexError):
        worst([])


@pytest.mark.parametrize(
    ("kind", "made"), [(SERVICES, service(5)), (ENDPOINTSLICES, endpoint_slice(5, ("10.0.0.1",)))], ids=str
)
def test_what_is_written_is_read_again(kind: Kind, made: Object) -> None:
    assert decode(body(kind, made), kind.type) == made


def test_cpu_of_a_process_grows_by_what_it_works() -> None:
    before, start = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < start + 0.05:
        pass
    assert 0.04 < cpu_seconds(os.getpid()) - before < 0.5


def test_memory_of_a_process() -> None:
    before = resident(os.getpid())
    held = b"x" * 50_000_000
    assert 49 < resident(os.getpid()) - before < 60
    del held


def test_names_of_sizes() -> None:
    assert size(5_000, 50) == "5,000 Services x 50"
