"""What dnsperf prints is read, and single answers are timed."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from podnet.bench import dns_load
from podnet.bench.dns_load import load, names, parse
from podnet.errors import UserError

SAID = """\
DNS Performance Testing Tool
[Status] Stopping after 1.000000 seconds or 5 runs through file
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
    assert run.rate == 4


def test_questions(tmp_path: Path) -> None:
    path = names(str(tmp_path / "names"), ["a.b", "c.d"])
    assert Path(path).read_text() == "a.b A\nc.d A\n"


def test_without_dnsperf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install dnsperf"):
        load(53, "names", 1)


def test_single_answers_are_timed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        answering = threading.Thread(target=lambda: [server.sendto(*server.recvfrom(100)) for _ in range(2)])
        answering.start()
        taken = dns_load.sampled(server.getsockname()[1], b"question", 0.001)
        server.sendto(b"", server.getsockname())
        answering.join()
    assert 0 < min(taken) <= max(taken) < dns_load.LOST


def test_an_answer_that_does_not_come_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_load, "LOST", 0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert dns_load.sampled(server.getsockname()[1], b"question", 0.001) == [0.01]
