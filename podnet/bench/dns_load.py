"""dnsperf (Debian's) as the one who asks, and how long single answers take meanwhile.

Source: dnsperf(1). It would tell of each answer (-v), but then it is itself what the answers wait for.
"""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence

import msgspec

from podnet.bench.programs import on_cpu
from podnet.errors import UserError

CLIENTS, OUTSTANDING = 4, 100
ASKERS_CPU = 1
SAMPLE, LOST = 0.001, 1.0
"""Seconds between two single questions, and after which one counts as lost."""

_SO_TIMESTAMPNS = 35


class Run(msgspec.Struct, frozen=True):
    """What dnsperf saw: answers and the seconds they took, and those that were not as they should be."""

    answers: int
    seconds: float
    wrong: int
    lost: int

    @property
    def rate(self) -> float:
        """Answers in a second."""
        return self.answers / self.seconds


def names(path: str, wanted: Sequence[str]) -> str:
    """Write the file of questions: the A records of these names, in this order, again and again."""
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{each} A\n" for each in wanted)
    return path


def load(port: int, questions: str, seconds: float, rate: float = 0) -> Run:
    """Ask 127.0.0.1 for so long, as quickly as it answers or at a rate. Raises UserError without dnsperf."""
    if not shutil.which("dnsperf"):
        raise UserError("the suite dns asks with dnsperf: apt-get install dnsperf")
    words = ["taskset", "-c", str(on_cpu(ASKERS_CPU)), "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", questions]
    words += ["-c", str(CLIENTS), "-q", str(OUTSTANDING), "-l", f"{seconds:g}", "-t", "2"]
    words += ["-Q", f"{rate:.0f}"] if rate else []
    with tempfile.TemporaryFile("w+") as said:  # a pipe would have a reader, who takes the server's CPU
        subprocess.run(words, stdout=said, check=True)
        said.seek(0)
        return parse(said.read())


def sampled(port: int, question: bytes, seconds: float) -> list[float]:
    """The seconds that single answers take while others ask, one question every SAMPLE. The kernel says when an answer
    came, so that a wait of ours for a CPU is none of the server's. One that did not come took LOST."""
    taken, end = [], time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        asker.settimeout(LOST)
        asker.connect(("127.0.0.1", port))
        while time.monotonic() < end:
            sent = time.time()
            asker.send(question)
            try:
                _, stamps, _, _ = asker.recvmsg(4096, 64)
                whole, nano = struct.unpack("qq", stamps[0][2])
                taken.append(whole + nano / 1e9 - sent)
            except TimeoutError:
                taken.append(LOST)
            time.sleep(SAMPLE)
    return taken


def parse(said: str) -> Run:
    """What dnsperf printed."""
    codes = {
        code: int(count) for code, count in re.findall(r"([A-Z]+) (\d+) \([\d.]+%\)", _line(said, "Response codes"))
    }
    return Run(
        answers=int(_line(said, "Queries completed").split()[0]),
        seconds=float(_line(said, "Run time (s)")),
        wrong=sum(count for code, count in codes.items() if code != "NOERROR"),
        lost=int(_line(said, "Queries lost").split()[0]),
    )


def _line(said: str, of: str) -> str:
    found = re.search(rf"^\s*{re.escape(of)}:\s*(.*)$", said, re.MULTILINE)
    return found[1] if found else ""
