"""dnsperf (Debian's) as the one who asks: so many answers in a second, and how long each took.

Source: dnsperf(1).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import msgspec

from podnet.bench.programs import on_cpu
from podnet.errors import UserError

CLIENTS, OUTSTANDING = 4, 100
ASKERS_CPU = 1


class Run(msgspec.Struct, frozen=True):
    """What dnsperf saw: answers and the seconds they took, those that were not as they should be, and with `each` the
    seconds of every one."""

    answers: int
    seconds: float
    wrong: int
    lost: int
    each: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """Answers in a second."""
        return self.answers / self.seconds


def names(path: str, wanted: Sequence[str]) -> str:
    """Write the file of questions: the A records of these names, in this order, again and again."""
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{each} A\n" for each in wanted)
    return path


def load(port: int, questions: str, seconds: float, rate: float = 0, each: bool = False) -> Run:
    """Ask 127.0.0.1 for so long, as quickly as it answers or at a rate. Raises UserError without dnsperf."""
    if not shutil.which("dnsperf"):
        raise UserError("the suite dns asks with dnsperf: apt-get install dnsperf")
    words = ["taskset", "-c", str(on_cpu(ASKERS_CPU)), "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", questions]
    words += ["-c", str(CLIENTS), "-q", str(OUTSTANDING), "-l", f"{seconds:g}", "-t", "2"]
    words += ["-Q", f"{rate:.0f}"] if rate else []
    words += ["-v"] if each else []
    with tempfile.TemporaryFile("w+") as said:  # a pipe would have a reader, who takes the server's CPU
        subprocess.run(words, stdout=said, check=True)
        said.seek(0)
        return parse(said.read())


def parse(said: str) -> Run:
    """What dnsperf printed."""
    codes = {
        code: int(count) for code, count in re.findall(r"([A-Z]+) (\d+) \([\d.]+%\)", _line(said, "Response codes"))
    }
    taken = re.findall(r"^> \S+ \S+ \S+ (\d+\.\d+)$", said, re.MULTILINE)
    return Run(
        answers=int(_line(said, "Queries completed").split()[0]),
        seconds=float(_line(said, "Run time (s)")),
        wrong=sum(count for code, count in codes.items() if code != "NOERROR"),
        lost=int(_line(said, "Queries lost").split()[0]),
        each=tuple(map(float, taken)),
    )


def _line(said: str, of: str) -> str:
    found = re.search(rf"^\s*{re.escape(of)}:\s*(.*)$", said, re.MULTILINE)
    return found[1] if found else ""
