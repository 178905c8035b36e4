"""The kubectl that the API tests use is the upstream one of the version that it says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.kubectl import VERSIONS, path_of, requirement


@pytest.mark.timeout(180)
def test_fixture_runs(kubectl: Path) -> None:
    done = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["clientVersion"]["major"] == "1"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("minor", VERSIONS)
def test_each_version_is_what_it_says(minor: str) -> None:
    try:
        path = path_of(minor)
    except LookupError as error:
        pytest.skip(str(error))
    done = subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, check=True)
    version = json.loads(done.stdout)["clientVersion"]["gitVersion"]
    assert version.startswith(f"v1.{minor}.")


def test_lock_names_an_old_and_a_new_one_by_hash() -> None:
    assert VERSIONS[0] == "27"
    assert int(VERSIONS[-1]) >= 33
    assert all("--hash=sha256:" in requirement(minor) for minor in VERSIONS)
    assert len({requirement(minor) for minor in VERSIONS}) == len(VERSIONS)
