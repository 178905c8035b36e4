"""Mode ipvs, in this machine's kernel if it has ip_vs, else in another one; see ipvs_inside.py for the tests."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from podnet.kernel.facts import missing
from tests.lab import uml
from tests.lab.labs import needs_root

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("ipvs")]

INSIDE = "tests/lab/ipvs_inside.py"
MODULES = "ipv6 ip_vs ip_vs_rr dummy veth nf_conntrack_netlink xt_comment xt_mark xt_conntrack xt_addrtype xt_nat"
SECONDS = 150.0


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Exit code and output of the tests inside."""
    if "ip_vs" not in missing():
        words = [sys.executable, "-m", "pytest", "-q", "-rs", INSIDE]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    if uml.KERNEL:
        return uml.run_inside(INSIDE, tmp_path_factory.mktemp("uml"), MODULES, SECONDS)
    pytest.skip("this kernel has no ip_vs, and user-mode-linux is not installed")


@pytest.mark.timeout(SECONDS + 20)
def test_mode_ipvs(ran: tuple[int, str]) -> None:
    code, said = ran
    assert code == 0, said
    assert re.search(r"\b\d+ passed", said), said


@pytest.mark.timeout(SECONDS + 20)
def test_nothing_of_it_was_left_out(ran: tuple[int, str]) -> None:
    """Else this run says what."""
    if left := re.search(r"\b\d+ skipped", ran[1]):
        why = dict.fromkeys(re.findall(r"SKIPPED \[\d+\] \S+ (.*)", ran[1]))
        pytest.skip(f"{left[0]} of the tests inside: {'; '.join(why) or ran[1][-300:]}")
