"""Identities that are renewed while we run: token files, certificates, plugins."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from podnet.client.auth import Authenticator, PluginStatus, run_plugin
from podnet.client.config import ConfigError, Credentials, ExecPlugin
from tests.client.certificates import Authority

SERVER = "https://server:6443"
V1 = "client.authentication.k8s.io/v1"


def touch(path: Path, text: str | bytes) -> Path:
    """Write and make sure that the stamp differs, as if time had passed."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    return path


async def authorization(authenticator: Authenticator) -> str | None:
    return (await authenticator.headers()).get("Authorization")


async def test_static_identities() -> None:
    assert await authorization(Authenticator(Credentials(server=SERVER))) is None
    assert await authorization(Authenticator(Credentials(server=SERVER, token="t"))) == "Bearer t"
    basic = await authorization(Authenticator(Credentials(server=SERVER, username="u", password="pä")))
    assert basic == "Basic " + base64.b64encode("u:pä".encode()).decode()


async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = touch(tmp_path / "token", "one\n")
    authenticator = Authenticator(Credentials(server=SERVER, token="given", token_file=str(path)))
    assert await authorization(authenticator) == "Bearer one"
    touch(path, "two")
    assert await authorization(authenticator) == "Bearer two"


async def test_a_token_survives_its_file_being_away_or_empty(tmp_path: Path) -> None:
    path = touch(tmp_path / "token", "one")
    authenticator = Authenticator(Credentials(server=SERVER, token_file=str(path)))
    touch(path, "")
    assert await authorization(authenticator) == "Bearer one"
    path.unlink()
    assert await authorization(authenticator) == "Bearer one"


async def test_a_missing_token_file_needs_a_token(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    with pytest.raises(ConfigError, match="absent cannot be read: No such file"):
        Authenticator(Credentials(server=SERVER, token_file=absent))
    assert await authorization(Authenticator(Credentials(server=SERVER, token_file=absent, token="t"))) == "Bearer t"


def test_refused_says_whether_trying_again_may_help(tmp_path: Path) -> None:
    path = touch(tmp_path / "token", "one")
    assert not Authenticator(Credentials(server=SERVER, token="t")).refused()
    assert Authenticator(Credentials(server=SERVER, token_file=str(path))).refused()


async def test_refused_reads_the_token_file_even_with_the_same_stamp(tmp_path: Path) -> None:
    path = touch(tmp_path / "token", "one")
    status = path.stat()
    authenticator = Authenticator(Credentials(server=SERVER, token_file=str(path)))
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await authorization(authenticator) == "Bearer one"
    authenticator.refused()
    assert await authorization(authenticator) == "Bearer two"


def test_plain_http_needs_no_context() -> None:
    assert Authenticator(Credentials(server="http://server")).tls() is None


def test_the_context_is_kept_until_a_file_changes(tmp_path: Path) -> None:
    authority = Authority()
    ca = touch(tmp_path / "ca", authority.certificate)
    authenticator = Authenticator(Credentials(server=SERVER, ca_file=str(ca)))
    first = authenticator.tls()
    assert authenticator.tls() is first
    touch(ca, Authority().certificate)
    assert authenticator.tls() is not first


def test_half_written_certificates_leave_the_last_good_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority()
    certificate, key = authority.issue("me")
    cert_file, key_file = touch(tmp_path / "c", certificate), touch(tmp_path / "k", key)
    authenticator = Authenticator(Credentials(server=SERVER, cert_file=str(cert_file), key_file=str(key_file)))
    first = authenticator.tls()
    certificate, key = authority.issue("me")
    touch(cert_file, certificate)
    assert authenticator.tls() is first
    assert "keeping the previous certificates" in caplog.text
    touch(key_file, key)
    assert authenticator.tls() is not first


def test_unusable_certificates_are_one_sentence(tmp_path: Path) -> None:
    certificate, _ = Authority().issue("me")
    _, other = Authority().issue("me")
    with pytest.raises(ConfigError, match="no matching PEM pair"):
        Authenticator(Credentials(server=SERVER, cert_data=certificate, key_data=other))
    with pytest.raises(ConfigError, match="no matching PEM pair"):
        Authenticator(Credentials(server=SERVER, cert_data=b"junk", key_data=b"junk"))
    with pytest.raises(ConfigError, match="certificate-authority data is not PEM"):
        Authenticator(Credentials(server=SERVER, ca_data=b"junk"))
    with pytest.raises(ConfigError, match="absent cannot be read"):
        Authenticator(Credentials(server=SERVER, ca_file=str(tmp_path / "absent")))


def plugin(tmp_path: Path, script: str, **fields: object) -> ExecPlugin:
    """A plugin that is a shell script of the test's."""
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return ExecPlugin(api_version=V1, command=str(path), **fields)  # type: ignore[arg-type]


def answer(**status: str) -> str:
    return f"echo '{json.dumps({'apiVersion': V1, 'kind': 'ExecCredential', 'status': status})}'"


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


async def test_a_plugin_gives_a_token_until_it_expires_or_is_refused(tmp_path: Path) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    authenticator = Authenticator(
        Credentials(server=SERVER, exec=plugin(tmp_path, answer(token="t", expirationTimestamp=later)))
    )
    assert await authorization(authenticator) == "Bearer t"
    assert await authorization(authenticator) == "Bearer t"
    assert runs(tmp_path) == 1
    assert authenticator.refused()
    assert await authorization(authenticator) == "Bearer t"
    assert runs(tmp_path) == 2


async def test_an_expired_token_is_asked_for_again(tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    authenticator = Authenticator(
        Credentials(server=SERVER, exec=plugin(tmp_path, answer(token="t", expirationTimestamp=soon)))
    )
    await authorization(authenticator)
    await authorization(authenticator)
    assert runs(tmp_path) == 2


async def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    certificate, key = Authority().issue("me")
    script = answer(clientCertificateData=certificate.decode(), clientKeyData=key.decode()).replace("\\n", "\\\\n")
    authenticator = Authenticator(Credentials(server=SERVER, exec=plugin(tmp_path, script)))
    first = authenticator.tls()
    assert await authorization(authenticator) is None
    assert authenticator.tls() is not first


async def test_a_plugin_sees_its_request_and_no_shell(tmp_path: Path) -> None:
    script = f'printf "%s" "$KUBERNETES_EXEC_INFO" > {tmp_path}/info; printf "%s|" "$A" "$@" > {tmp_path}/args\n'
    made = plugin(
        tmp_path,
        script + answer(token="t"),
        args=("$(reboot)", "a b"),
        env=(ExecPlugin.Variable("A", "`x`"),),
        provide_cluster_info=True,
        cluster_config={"audience": "me"},
    )
    await run_plugin(made, Credentials(server=SERVER, ca_data=b"pem", tls_server_name="kube"))
    assert (tmp_path / "args").read_text() == "`x`|$(reboot)|a b|"
    info = json.loads((tmp_path / "info").read_text())
    assert info["apiVersion"] == V1
    assert info["spec"] == {
        "interactive": False,
        "cluster": {
            "server": SERVER,
            "tls-server-name": "kube",
            "insecure-skip-tls-verify": False,
            "certificate-authority-data": base64.b64encode(b"pem").decode(),
            "config": {"audience": "me"},
        },
    }


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo oops >&2; echo no network >&2; exit 3", "failed with exit code 3: no network"),
        ("echo hello", "printed no ExecCredential"),
        (answer(), "neither a token nor a certificate"),
        (answer(clientCertificateData="x"), "neither a token nor a certificate"),
        (answer(token="t", expirationTimestamp="2030-01-01T00:00:00"), "printed no ExecCredential"),
    ],
)
async def test_failing_plugins(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run_plugin(plugin(tmp_path, script), Credentials(server=SERVER))


async def test_a_missing_plugin_says_how_to_install_it() -> None:
    missing = ExecPlugin(api_version=V1, command="/absent/login", install_hint="Run: apt install login")
    with pytest.raises(ConfigError, match=r"cannot start: No such file or directory. Run: apt install login"):
        await run_plugin(missing, Credentials(server=SERVER))


async def test_a_plugin_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podnet.client.auth.PLUGIN_SECONDS", 0.3)
    with pytest.raises(ConfigError, match="gave no answer within"):
        await run_plugin(plugin(tmp_path, "exec sleep 60"), Credentials(server=SERVER))


def test_expiry_has_a_margin_and_secrets_do_not_show() -> None:
    now = datetime.now(UTC)
    assert PluginStatus(token="hush").valid(now)
    assert PluginStatus(expiration_timestamp=now + timedelta(seconds=11)).valid(now)
    assert not PluginStatus(expiration_timestamp=now + timedelta(seconds=9)).valid(now)
    assert "hush" not in repr(PluginStatus(token="hush", client_key_data="hush"))
