"""Fixtures for every test."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.kubectl"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our own options."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*/*/*.plan anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden texts are to be written instead of only compared."""
    return bool(request.config.getoption("--update-golden"))
