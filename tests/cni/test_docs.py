"""docs/cni.md and docs/ipam.md say what the code does: every error code, every finding, the conflist itself."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from podnet.agent import conflist
from podnet.cni.errors import Code
from podnet.network.ipam import audit

DOCS = Path(__file__).parents[2] / "docs"


def test_every_error_code() -> None:
    listed = re.findall(r"^\| (\d+) \|", (DOCS / "cni.md").read_text(), re.MULTILINE)
    assert list(map(int, listed)) == sorted(Code)


def test_the_conflist() -> None:
    block = re.search(r"^    \{\n(.*?)^    \}$", (DOCS / "cni.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    assert json.loads(block[0]) == json.loads(conflist.document("/run/podnet/cni.sock"))


def test_every_finding() -> None:
    made = set(re.findall(r"(?:_finding|Finding)\(\"(\w+)\"", inspect.getsource(audit)))
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "ipam.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(made)
