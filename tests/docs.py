"""The examples in docs/: blocks marked `console lab` are run in a lab, and have to print what the page says.

    <!-- lab: --nodes 2 --backend vxlan -->       the lab of this page, as options of `podnet lab up --no-dns`

    ```console lab
    $ podnet lab exec node1 -- ip route show proto 112
    10.244.1.0/24 via 10.244.1.0 dev podnet.1 onlink
    ```

Runs of spaces count as one. `...` stands for anything within a line, a line that is only `...` for any lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


class Example(NamedTuple):
    """One command of a page and what it prints."""

    line: int
    command: str
    output: str

    def matches(self, printed: str) -> bool:
        """Whether that is what the page says."""
        return re.fullmatch(_pattern(self.output), _squeezed(printed), re.DOTALL) is not None


def lab_options(page: str) -> list[str] | None:
    """Options of the page's lab; None when it has no examples to run."""
    found = re.search(r"^<!-- lab: (.*) -->$", page, re.MULTILINE)
    return found[1].split() if found else None


def examples(page: str) -> list[Example]:
    """Every command of the blocks that are marked, in order."""
    found = []
    for block in re.finditer(r"^```console lab\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        line = page.count("\n", 0, block.start(1)) + 1
        for command in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE):
            found.append(Example(line + block[1].count("\n", 0, command.start()), command[1], command[2]))
    return found


def _squeezed(text: str) -> str:
    return "".join(f"{' '.join(line.split())}\n" for line in text.splitlines())


def _pattern(output: str) -> str:
    lines = []
    for line in _squeezed(output).splitlines():
        lines.append(r"(?:.*\n)?" if line == "..." else r"[^\n]*".join(map(re.escape, line.split("..."))) + r"\n")
    return "".join(lines)
