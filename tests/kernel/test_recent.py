"""The kernel's lists of who was seen when: its words, and its clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from podnet.kernel.recent import decode, remembered

START = (1 << 32) - 300 * 250
LINES = """\
src=10.244.1.9 ttl: 64 last_seen: {} oldest_pkt: 2 {}, {}
src=fd00:0010:0244:0001:0000:0000:0000:0009 ttl: 0 last_seen: {} oldest_pkt: 1 {}
"""


def test_ages_count_from_the_clock_that_ticks_with_the_kernels() -> None:
    seen = [START + 250 * second for second in (1000, 990, 1000, 1004, 1004)]
    found = decode(LINES.format(*seen), 250, 1003.5)
    assert found == ("10.244.1.9 : 3.5", "fd00:10:244:1::9 : 0.0"), "nobody was seen later than now"


def test_a_list_is_read_and_none_is_empty(tmp_path: Path) -> None:
    (tmp_path / "KUBE-SEP-A").write_text(LINES.format(*[START] * 5))
    assert [each.partition(" : ")[0] for each in remembered("KUBE-SEP-A", folder=str(tmp_path))] == [
        "10.244.1.9",
        "fd00:10:244:1::9",
    ]
    assert remembered("KUBE-SEP-B", folder=str(tmp_path)) == ()
    with pytest.raises(OSError, match="KUBE-SEP-A"):
        remembered("x", folder=str(tmp_path / "KUBE-SEP-A"))
