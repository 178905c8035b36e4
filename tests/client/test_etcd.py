"""The client of etcd, as far as it needs none; tests/lab/test_etcd.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from podnet.client.etcd import Change, apply
from podnet.client.etcd_dialects import Etcd2, Etcd3, connect
from podnet.errors import UserError


def test_changes_bring_a_copy_up_to_date() -> None:
    values = {"/a/b": "1", "/a/b/c": "2", "/a/bc": "3"}
    apply(values, [Change("/a/d", "4"), Change("/a/bc", "5"), Change("/never", None)])
    assert values == {"/a/b": "1", "/a/b/c": "2", "/a/bc": "5", "/a/d": "4"}
    apply(values, [Change("/a/b", None)])
    assert values == {"/a/b/c": "2", "/a/bc": "5", "/a/d": "4"}
    apply(values, [Change("/a/b", None, below=True)])
    assert values == {"/a/bc": "5", "/a/d": "4"}


def test_flags_choose_a_language() -> None:
    assert isinstance(connect("2", ["http://127.0.0.1:2379/"], 1), Etcd2)
    assert isinstance(connect("3", ["https://[::1]:2379", "http://etcd-0.etcd:2379"], 1), Etcd3)


@pytest.mark.parametrize("url", ["127.0.0.1:2379", "http://", "http://a,http://b", "ftp://a:1", "http://a:1/v2/keys"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(UserError, match="write it as http://"):
        connect("3", [url], 1)


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pem: No such file or directory; give PEM files"):
        connect("3", ["https://127.0.0.1:2379"], 1, ca=str(tmp_path / "none.pem"))
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(UserError, match=r"bad\.pem: .*; give PEM files"):
        connect("3", ["https://127.0.0.1:2379"], 1, certificate=str(tmp_path / "bad.pem"))
