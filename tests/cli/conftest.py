"""Fixtures of the commands' tests: the command line itself, and a machine with nothing on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podnet.cli.main import main
from podnet.lab import registry
from tests.cli.fakes import FakeAgent

Podnet = Callable[..., tuple[int, str, str]]
Agent = Callable[..., FakeAgent]


@pytest.fixture
def podnet(capsys: pytest.CaptureFixture[str]) -> Podnet:
    """Runs `podnet ARGS`: exit code, stdout, stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(args)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without labs, agent or kubeconfig, on which we are root; gives a folder for everything.

    Its path is short, since that of a unix socket may have no more than 107 bytes.
    """
    folder = tempfile.TemporaryDirectory(prefix="podnet-")
    tmp_path = Path(folder.name)
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "labs"))
    for name in ("RUN_DIR", "STATE_DIR", "CONF_DIR"):
        monkeypatch.setattr(f"podnet.cli.target.{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    yield tmp_path
    folder.cleanup()


@pytest.fixture
def agent(bare: Path) -> Iterator[Agent]:
    """Starts an agent at a run directory (this machine's by default) with answers of one's own."""
    made: list[FakeAgent] = []

    def start(run_dir: Path | str = bare / "run_dir", **answers: object) -> FakeAgent:
        made.append(FakeAgent(Path(run_dir)))
        made[-1].answers |= answers
        return made[-1]

    yield start
    for each in made:
        each.close()
