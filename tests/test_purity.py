"""Purity is a place: nothing under objects, state, network and wire can do I/O, read a clock or log.

import-linter holds the directions between our own packages (pyproject.toml); this holds what the pure ones may use of
the standard library, and that no module escapes both by lying in a folder that is not a package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "podnet"
PURE = ["objects", "state", "network", "wire"]
FORBIDDEN = {"asyncio", "logging", "os", "pathlib", "random", "socket", "subprocess", "threading", "time"}
# The same things by another name.
ALIASES = {
    *(
        "_socket",
        "_thread",
        "aiohttp",
        "concurrent",
        "ctypes",
        "importlib",
        "io",
        "multiprocessing",
        "posix",
        "secrets",
    ),
    *("select", "selectors", "shutil", "signal", "sqlite3", "ssl", "tempfile", "uvloop"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import of a module, also inside functions: its line and the name of the top-level module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.split(".")[0]


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


def impurities(source: str) -> list[str]:
    """What makes a module impure, as `line: what`."""
    tree = ast.parse(source)
    found = [(line, f"imports {name}") for line, name in imports(tree) if name in FORBIDDEN | ALIASES]
    found += [(line, f"calls {name}()") for line, name in calls(tree) if name in IMPURE_CALLS]
    return [f"{line}: {what}" for line, what in sorted(found)]


def test_pure_folders_are_pure() -> None:
    modules = [path for folder in PURE for path in sorted((PACKAGE / folder).rglob("*.py"))]
    assert modules
    found = [f"{path.relative_to(PACKAGE.parent)}:{each}" for path in modules for each in impurities(path.read_text())]
    assert not found, "\n".join(["impure:", *found])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os", ["1: imports os"]),
        ("import os.path as p, json", ["1: imports os"]),
        ("from time import monotonic", ["1: imports time"]),
        ("def f():\n    import socket", ["2: imports socket"]),
        ("if True:\n    from asyncio.events import get_event_loop", ["2: imports asyncio"]),
        ("x = open('/etc/hosts')", ["1: calls open()"]),
        ("from podnet.state import routes\nimport ipaddress, struct, hashlib", []),
    ],
)
def test_the_search_finds(source: str, found: list[str]) -> None:
    assert impurities(source) == found


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
