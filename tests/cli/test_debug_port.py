"""`podnet debug-port`: what it takes for a time and for a pod, and what it prints (with packets: test_leases.py)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from podnet.cli import debug_port
from podnet.errors import UserError
from podnet.objects.leases import DebugPort, DebugPortSpec, DebugPortStatus
from podnet.objects.meta import ObjectMeta
from tests.cli.conftest import Podnet


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400)])
def test_times(text: str, seconds: int) -> None:
    assert debug_port.length(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "soon", "30m!", "-5m", "1.5h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="write one such as"):
        debug_port.length(text)


def lease(seconds: int = 60, address: str = "10.0.0.1") -> DebugPort:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = ObjectMeta("l", "default", creation_timestamp=now)
    status = DebugPortStatus("n1" if address else "", address)
    return DebugPort(metadata, DebugPortSpec("web", 80, "TCP", seconds, 30001), status)


def test_the_table() -> None:
    assert debug_port._table([]) == "no debug ports are leased"
    head, row = debug_port._table([lease(7200)]).splitlines()
    assert head.split() == ["NAMESPACE", "POD", "PORT", "ADDRESS", "LEFT", "NODE"]
    words = row.split()
    assert (*words[:4], words[5]) == ("default", "web", "80/TCP", "10.0.0.1:30001", "n1")
    assert words[4] in ("120m00s", "119m59s", "119m58s")
    assert "[fd00::1]:30001" in debug_port._table([lease(address="fd00::1")])
    assert "<pending>:30001" in debug_port._table([lease(address="")])


def test_a_lease_that_is_over_has_nothing_left() -> None:
    assert debug_port._left(lease(-10)) == 0
    assert debug_port._left(DebugPort()) is None


def test_without_a_cluster_it_is_a_sentence(podnet: Podnet, bare: Path) -> None:
    for words in (("web", "80"), ("list",), ("release", "web")):
        code, out, err = podnet("debug-port", *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert podnet("debug-port", "web")[0] == 2
    assert podnet("debug-port", "web", "70000")[0] == 2
