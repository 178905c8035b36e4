"""Every example of the documentation does what its page says, in a lab of the page's own."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from podnet.lab.registry import Lab, LabNode
from tests.docs import PAGES, ROOT, Example, examples, lab_options
from tests.kubectl import VERSIONS
from tests.lab.runtimes import BIN, Machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

RUN = [page for page in PAGES if lab_options(page.read_text()) is not None]
PATIENCE = 15.0


@pytest.mark.parametrize("kubectl", VERSIONS[-1:], indirect=True)
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page: Path, kubectl: Path) -> None:
    text = page.read_text()
    with Machine() as machine:
        lab = machine.lab("--no-check", *(lab_options(text) or []))
        programs = machine.outside("/run/test/bin")
        programs.mkdir()
        (programs / "kubectl").symlink_to(kubectl)
        ranges = {range_of(machine, node): str(place) for place, node in enumerate(lab.nodes)}
        for example in examples(text):
            printed = run(machine, lab, example, ranges)
            assert example.matches(printed), f"{page.name}:{example.line}: {example.command}\nprinted:\n{printed}"


def range_of(machine: Machine, node: LabNode) -> str:
    """The third number of the node's IPv4 range."""
    cidr: str = machine.ask(node, "/v1/status")["podCIDRs"][0]
    return cidr.split(".")[2]


def run(machine: Machine, lab: Lab, example: Example, ranges: Mapping[str, str]) -> str:
    """What the command prints in the end, as pages do not say that changes need a moment.

    Which node gets which range is chance; pages are written for 10.244.0.0/24 at node1, 10.244.1.0/24 at node2.
    """
    env = {"KUBECONFIG": lab.kubeconfig, "PATH": f"/run/test/bin:{BIN}:{os.environ['PATH']}", "HOME": "/run/test"}
    end = time.monotonic() + PATIENCE
    while True:
        done = machine.run("bash", "-c", f"exec 2>&1\n{example.command}", env=env, check=False)
        printed = re.sub(r"(?<=10\.244\.)\d+", lambda found: ranges.get(found[0], found[0]), done.stdout)
        if example.matches(printed) or time.monotonic() > end:
            return printed
        time.sleep(0.2)
