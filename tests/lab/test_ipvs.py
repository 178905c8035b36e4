"""Mode ipvs, in this machine's kernel if it has ip_vs, else in another one; see ipvs_inside.py for the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from podnet.kernel.facts import missing
from tests.lab import uml
from tests.lab.labs import needs_root

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("ipvs")]

INSIDE = "tests/lab/ipvs_inside.py"
MODULES = "ipv6 ip_vs ip_vs_rr dummy veth nf_conntrack_netlink xt_comment xt_mark xt_conntrack xt_addrtype xt_nat"
SECONDS = 150.0


@pytest.mark.timeout(SECONDS + 20)
def test_mode_ipvs(tmp_path: Path) -> None:
    if "ip_vs" not in missing():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", INSIDE], capture_output=True, text=True, check=False
        )
        code, said = done.returncode, done.stdout + done.stderr
    elif uml.KERNEL:
        code, said = uml.run_inside(INSIDE, tmp_path, MODULES, SECONDS)
    else:
        pytest.skip("this kernel has no ip_vs, and user-mode-linux is not installed")
    assert code == 0, said
    print(said)
