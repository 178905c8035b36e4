"""The README and docs/ point at what exists, and list the commands there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podnet.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_has_every_command() -> None:
    listed = set(re.findall(r"^\| `podnet ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == set(COMMANDS)


def test_readme_and_makefile_agree() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
