"""What the lab's unit tests share: a freshly compiled shim, a lab root of their own, values in short."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hatch_build import recipe
from podnet.lab import process, registry

SOURCE = Path(__file__).parents[2] / "native" / "podnet-shim.c"


@pytest.fixture(scope="session")
def shim_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """podnet-shim, compiled by the build's own recipe, but with a log that turns over soon."""
    target, command = recipe(SOURCE, tmp_path_factory.mktemp("shim"))
    subprocess.run([*command, "-DMAX_LOG=4096"], check=True)
    return target


@pytest.fixture
def shim(shim_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes are started by the compiled shim."""
    monkeypatch.setattr(process, "SHIM", str(shim_path))
    return shim_path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for labs."""
    folder = tmp_path / "podnet" / "labs"
    monkeypatch.setattr(registry, "ROOT", str(folder))
    return folder
