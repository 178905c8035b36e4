"""The benches with few turns: that they measure at all, in an arena that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("bench"), pytest.mark.timeout(120)]

BENCH = """\
import sys
from podnet.bench import cni, dns, dns_change, figures, path, plan
from podnet.bench import service_change, service_load, service_path, service_retry
from podnet.cli.main import main
cni.TURNS, cni.ROUNDS, cni.AT_ONCE = 2, 1, 8
path.SECONDS = 0
dns.SERVICES, dns.TURNS, dns.SECONDS = 300, 2, 0.5
dns_change.CHANGES, dns_change.PERIOD, dns_change.HEADLESS = 200, 1.0, 20
plan.TURNS, plan.ROUTES, plan.NODES, plan.LARGE = 2, 500, 20, 100
service_load.TURNS, service_load.MANY, service_load.WIDE, service_load.CHAINED = 2, 100, 50, (20, 40)
service_change.TURNS, service_change.CHANGES, service_change.SIZES, service_change.IDLE = 2, 10, (20, 100), 0.5
service_path.SERVICES, service_path.TURNS, service_path.AT_ONCE, service_path.SECONDS = 100, 5, 10, 0
service_retry.CONNECTS = 40
main(["bench", *sys.argv[1:], "-o", "json"])
"""


def bench(*suites: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", BENCH, *suites], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: list[dict[str, Any]] = json.loads(done.stdout)["figures"]
    return figures


NAMES = ("bench", "hand-", "memory", "services", "/run/netns/reference")


def traces() -> dict[str, list[str]]:
    """What the machine would show of an arena that was not cleaned; other labs may come and go meanwhile."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    labs = os.listdir("/run/podnet/labs") if Path("/run/podnet/labs").exists() else []
    return {
        "mounts": [line for line in mounts if any(name in line for name in NAMES)],
        "labs": [lab for lab in labs if lab.startswith(NAMES)],
        "links": sorted(os.listdir("/sys/class/net")),
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = traces()
    yield
    assert traces() == before


def check(figures: list[dict[str, Any]], suite: str, ratios: int) -> None:
    assert {figure["suite"] for figure in figures} == {suite}
    assert all(0 < figure["low"] <= figure["value"] <= figure["high"] for figure in figures)
    assert all((figure["goal"] is None) == (figure["met"] is None) for figure in figures)
    assert len([figure for figure in figures if figure["unit"] == "ratio" and figure["goal"]]) == ratios
    assert len({figure["name"] for figure in figures}) == len(figures)


def test_cni() -> None:
    check(bench("cni"), "cni", 5)


def test_path() -> None:
    check(bench("path"), "path", 6)


def test_plan() -> None:
    figures = bench("plan")
    check(figures, "plan", 1)
    memory = next(figure for figure in figures if figure["unit"] == "MB")
    assert 20 < memory["value"] < 200


def test_dns() -> None:
    figures = bench("dns")
    counts = [figure for figure in figures if figure["unit"] in ("late", "answers", "questions")]
    delay = [figure for figure in figures if "to the right one" in figure["name"]]  # 0: right when first asked
    check([figure for figure in figures if figure not in counts + delay], "dns", 2)
    assert [figure["goal"] for figure in counts] == [0, 0, None]
    assert counts[1]["met"]
    values = {figure["name"]: figure["value"] for figure in figures}
    assert 20 < values["resident memory of kubedns, 300 Services x 4"] < 200
    assert 3 < values["its CPU for an answer"] < 200


def test_services() -> None:
    figures = bench("services")
    signed = [figure for figure in figures if figure["name"] == "the difference" or figure["unit"] == "connects"]
    check([figure for figure in figures if figure not in signed], "services", 3)
    assert [figure["goal"] for figure in signed] == [10, 0, None]
    assert len([figure for figure in figures if figure["goal"] is not None]) == 15
    assert signed[1]["met"]
    values = {figure["name"]: figure["value"] for figure in figures}
    for size in ("80", "400"):
        median = values[f"one endpoint among {size} endpoints, API write to kernel"]
        assert 1 < median <= values[f"p99 of that, API write to kernel, among {size} endpoints"] < 5_000
    assert 0.05 < values["TCP, userspace to nftables, one core"] < 2


def test_a_killed_bench_takes_everything_along() -> None:
    words = [sys.executable, "-c", BENCH, "path"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as started:
        inner = wait_for(lambda: children(started.pid))[0]
        wait_for(lambda: len(members(inner)) > 3)
        ours = members(inner)
        started.send_signal(signal.SIGKILL)
        started.wait()
        wait_for(lambda: not any(alive(pid) for pid in ours))


def test_an_interrupted_bench_ends() -> None:
    words = [sys.executable, "-c", BENCH, "path"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as started:
        inner = wait_for(lambda: children(started.pid))[0]
        wait_for(lambda: len(members(inner)) > 3)
        ours = members(inner)
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(45) != 0
        wait_for(lambda: not any(alive(pid) for pid in ours))


def test_without_the_reference_plugins_it_says_what_to_install() -> None:
    program = f"from podnet.bench import reference; reference.FOLDER = '/nonexistent'\n{BENCH}"
    done = subprocess.run([sys.executable, "-c", program, "cni"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "apt-get install containernetworking-plugins" in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def members(pid: int) -> list[int]:
    """Every process of a PID namespace, by its first process."""
    found = []
    try:
        wanted = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [int(process.name)] if os.readlink(process / "ns/pid") == wanted else []
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns").exists()


def wait_for(happened: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
