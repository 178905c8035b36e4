"""The README and docs/ point at what exists, and list the commands there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podnet.cli.main import COMMANDS
from podnet.network.backends import BACKENDS
from tests.docs import Example, examples, lab_options

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_has_every_command() -> None:
    listed = set(re.findall(r"^\| `podnet ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert listed == set(COMMANDS)


def test_readme_and_makefile_agree() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_commands_that_exist(page: Path) -> None:
    named = re.findall(r"(?:^    |^\$ |`|\.venv/bin/)podnet ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_with_examples_say_in_which_lab(page: Path) -> None:
    text = page.read_text()
    assert bool(examples(text)) == (lab_options(text) is not None)
    assert text.count("```console lab") == len(re.findall(r"^```console lab$", text, re.MULTILINE))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_a_page(backend: str) -> None:
    text = (ROOT / f"docs/backends/{backend}.md").read_text()
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert {"How a packet walks", "What the kernel holds", "When to use it", "Limits", "Options", "MTU"} <= set(parts)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


PAGE = """\
<!-- lab: --nodes 2 --dual-stack -->
text
```console lab
$ one --flag 'a b'
first ... line
...
last
$ two
$ three
x
```
```console
$ not run
```
"""


def test_examples_are_found_with_their_lines() -> None:
    assert lab_options(PAGE) == ["--nodes", "2", "--dual-stack"]
    assert examples(PAGE) == [
        Example(4, "one --flag 'a b'", "first ... line\n...\nlast\n"),
        Example(8, "two", ""),
        Example(9, "three", "x\n"),
    ]


@pytest.mark.parametrize(
    ("output", "printed", "same"),
    [
        ("a b\n", "a   b \n", True),
        ("a b\n", "a c\n", False),
        ("a b\n", "a b\nc\n", False),
        ("a ... d\n", "a b c d\n", True),
        ("a ... d\n", "a b\nc d\n", False),
        ("a...\n", "abc\n", True),
        ("...\nc\n", "a\nb\nc\n", True),
        ("...\nc\n", "c\n", True),
        ("...\nc\n", "bc\n", False),
        ("a\n...\n", "a\n", True),
        ("", "", True),
        ("", "x\n", False),
        ("1.2\n", "1x2\n", False),
    ],
)
def test_how_an_example_is_compared(output: str, printed: str, same: bool) -> None:
    assert Example(1, "command", output).matches(printed) == same
