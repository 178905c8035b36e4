"""Certificates: who they name, what they serve, who accepts them, and that keys stay private."""

from __future__ import annotations

import base64
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podnet.apiserver import pki


def load(certificate: pki.Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.cert)


def names(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str | bytes]:
    return [attribute.value for attribute in certificate.subject.get_attributes_for_oid(oid)]


@pytest.fixture(scope="module")
def authority() -> pki.Certificate:
    return pki.new_authority()


def test_a_certificate_names_its_user_and_groups(authority: pki.Certificate) -> None:
    certificate = load(
        pki.issue(authority, "system:node:n1", ("system:nodes", "extra"), ("10.0.0.1", "n1.example", "fd00::1"))
    )
    assert names(certificate, NameOID.COMMON_NAME) == ["system:node:n1"]
    assert names(certificate, NameOID.ORGANIZATION_NAME) == ["system:nodes", "extra"]
    served = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert served.get_values_for_type(x509.DNSName) == ["n1.example"]
    assert [str(address) for address in served.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fd00::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    certificate.verify_directly_issued_by(load(authority))


def test_a_certificate_is_no_authority(authority: pki.Certificate) -> None:
    for certificate, is_ca in ((authority, True), (pki.issue(authority, "admin"), False)):
        basic = load(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.value.ca, basic.critical) == (is_ca, True)


def test_an_authority_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = pki.load_authority(str(tmp_path))
    assert pki.load_authority(str(tmp_path)) == first
    assert stat.S_IMODE((tmp_path / "pki" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_an_authority_half_made_is_made_again(tmp_path: Path) -> None:
    first = pki.load_authority(str(tmp_path))
    (tmp_path / "pki" / "ca.key").unlink()
    second = pki.load_authority(str(tmp_path))
    assert second != first
    pki.server_context(second, pki.issue(second, "x", sans=("localhost",)))


def test_a_kubeconfig_holds_everything_and_is_private(tmp_path: Path, authority: pki.Certificate) -> None:
    admin = pki.issue(authority, "admin", ("system:masters",))
    path = tmp_path / "admin.kubeconfig"
    pki.write_kubeconfig(str(path), "https://10.0.0.1:6443", authority, "admin", admin)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"
    assert base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == authority.cert
    assert base64.b64decode(config["users"][0]["user"]["client-certificate-data"]) == admin.cert
    assert base64.b64decode(config["users"][0]["user"]["client-key-data"]) == admin.key
    assert config["current-context"] == config["contexts"][0]["name"]
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, hostname: str = "localhost") -> dict[str, object] | None:
    """Both ends in memory; what the server learns of the client's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=hostname),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                end.read()
            except ssl.SSLWantReadError:
                continue
    server_end = ends[1]
    assert server_end.version() is not None
    return server_end.getpeercert()  # type: ignore[return-value]


def test_both_ends_accept_each_other(authority: pki.Certificate) -> None:
    server = pki.server_context(authority, pki.issue(authority, "kube-apiserver", sans=("localhost",)))
    client = pki.client_context(authority, pki.issue(authority, "admin", ("system:masters",)))
    peer = handshake(server, client)
    assert peer is not None
    assert (("commonName", "admin"),) in peer["subject"]  # type: ignore[operator]


def test_another_clusters_certificates_are_refused(authority: pki.Certificate) -> None:
    other = pki.new_authority()
    server = pki.server_context(authority, pki.issue(authority, "kube-apiserver", sans=("localhost",)))
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(cadata=authority.cert.decode())
    pki._load(stranger, pki.issue(other, "admin", ("system:masters",)))
    with pytest.raises(ssl.SSLError):
        handshake(server, stranger)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, pki.client_context(other, pki.issue(other, "admin")))


def test_a_node_cannot_pose_as_the_api_server(authority: pki.Certificate) -> None:
    node = pki.issue(authority, "system:node:n1", ("system:nodes",), ("10.0.0.1",))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(pki.server_context(authority, node), pki.client_context(authority, pki.issue(authority, "admin")))


def test_a_client_without_a_certificate_is_let_in_to_be_told_so(authority: pki.Certificate) -> None:
    server = pki.server_context(authority, pki.issue(authority, "kube-apiserver", sans=("localhost",)))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=authority.cert.decode())
    assert not handshake(server, client)
