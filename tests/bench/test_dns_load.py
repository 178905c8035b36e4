"""What dnsperf prints is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from podnet.bench.dns_load import load, names, parse
from podnet.errors import UserError

SAID = """\
DNS Performance Testing Tool
[Status] Stopping after 1.000000 seconds or 5 runs through file
> NOERROR a.x.y A 0.000112
> NXDOMAIN b.x.y A 0.000048
> T c.x.y A
[Status] Testing complete (end of file)

Statistics:

  Queries sent:         3
  Queries completed:    2 (66.67%)
  Queries lost:         1 (33.33%)

  Response codes:       NOERROR 1 (50.00%), NXDOMAIN 1 (50.00%)
  Average packet size:  request 23, response 39
  Run time (s):         0.500000
  Queries per second:   4.000000
"""


def test_what_dnsperf_printed() -> None:
    run = parse(SAID)
    assert (run.answers, run.seconds, run.wrong, run.lost) == (2, 0.5, 1, 1)
    assert run.each == (0.000112, 0.000048)
    assert run.rate == 4


def test_questions(tmp_path: Path) -> None:
    path = names(str(tmp_path / "names"), ["a.b", "c.d"])
    assert Path(path).read_text() == "a.b A\nc.d A\n"


def test_without_dnsperf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install dnsperf"):
        load(53, "names", 1)
