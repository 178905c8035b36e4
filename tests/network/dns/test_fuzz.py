"""A few thousand bad packets, other ones each day; `python -m tests.fuzz_dns` throws millions."""

from __future__ import annotations

import time

from tests.fuzz_dns import block


def test_bad_packets() -> None:
    found = block(int(time.time()) // 86_400, 30_000)
    assert found.keys() >= {"silence", "FORMERR", "NOTIMP", "REFUSED", "NOERROR", "NXDOMAIN", "SERVFAIL", "elsewhere"}
    assert found["NOERROR"] > 3_000
