"""The size marks of the design: files and functions stay small, backends stay explanations, tests outweigh the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
BACKEND_FUNCTIONS = {"host_gw": 10, "vxlan": 40}


def lines(path: Path) -> int:
    return path.read_text().count("\n")


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Each function of a module, from `def` to its last line, docstring included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def modules() -> list[Path]:
    """Our modules; an empty `__init__.py` says nothing about size."""
    return [path for path in sorted((ROOT / "podnet").rglob("*.py")) if lines(path) > 1]


def check(sizes: list[tuple[int, str]], middle: int, p90: int, top: int) -> None:
    """Holds the three marks, and names what is above them when they do not hold."""
    numbers = [size for size, _ in sizes]
    largest = "\n".join(f"{size:5} {name}" for size, name in sorted(sizes, reverse=True)[:15])
    found = (median(numbers), quantiles(numbers, n=10)[-1], max(numbers))
    assert all(number <= mark for number, mark in zip(found, (middle, p90, top), strict=True)), (
        f"median, p90, max are {found}, the marks are {(middle, p90, top)}; the largest:\n{largest}"
    )


def test_files() -> None:
    check([(lines(path), str(path.relative_to(ROOT))) for path in modules()], 150, 350, 500)


def test_functions() -> None:
    check([each for path in modules() for each in functions(path)], 8, 30, 60)


def test_backends() -> None:
    backends = sorted((ROOT / "podnet/network/backends").glob("[a-z]*.py"))
    assert backends
    assert {path.name: lines(path) for path in backends if lines(path) > 150} == {}


def test_connect_of_the_simple_backends_reads_like_its_explanation() -> None:
    for backend, mark in BACKEND_FUNCTIONS.items():
        path = ROOT / f"podnet/network/backends/{backend}.py"
        size = {name.split()[-1]: size for size, name in functions(path)}["connect"]
        assert size <= mark, f"{path.name}: connect has {size} lines, its mark is {mark}"


def test_tests_outweigh_the_code() -> None:
    code = sum(map(lines, (ROOT / "podnet").rglob("*.py")))
    tests = sum(map(lines, (ROOT / "tests").rglob("*.py")))
    assert tests >= code, f"{tests} lines of tests for {code} lines of code"
