"""The kernel keeps the contract, and what is not ours is neither seen nor touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.contract import Contract
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


class TestKernelDataplane(Contract):
    pass
