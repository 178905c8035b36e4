"""Fixtures for every test."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.kubectl"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our own options."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*/*/*.plan anew")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep an xdist_group on one worker: xdist 3.8 writes its name where pytest 9.2 does not look any more."""
    if not config.getoption("loadgroup", default=False):
        return
    for item in items:
        group = "_".join(sorted(str(mark.args[0]) for mark in item.iter_markers("xdist_group")))
        if group and not item.nodeid.endswith(f"@{group}"):
            item._id = item.id.parse(f"{item.nodeid}@{group}")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden texts are to be written instead of only compared."""
    return bool(request.config.getoption("--update-golden"))
