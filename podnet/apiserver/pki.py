"""The cluster's certificates: one authority, made at first start and kept, which issues everything else.

Keys are EC P-256 and readable by their owner only. A certificate's common name is the user, its organizations are the
groups, as Kubernetes reads them. Every certificate serves for both ends of a connection; what a server may claim to be
is bounded by its subject alternative names.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
_BACKDATED = timedelta(hours=1)  # clocks differ


class Certificate(msgspec.Struct, frozen=True):
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes


def new_authority(common_name: str = "podnet-ca") -> Certificate:
    """A fresh cluster CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _pem(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Certificate, common_name: str, organizations: Sequence[str] = (), sans: Iterable[str] = ()
) -> Certificate:
    """A certificate for user `common_name` in groups `organizations`; `sans`: names and addresses it may serve."""
    issuer = x509.load_pem_x509_certificate(authority.cert)
    signer = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _builder(subject, issuer.subject, key, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    names = [_general_name(name) for name in dict.fromkeys(sans)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pem(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Certificate:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(cert.public_bytes(serialization.Encoding.PEM), private)


def load_authority(data_dir: str) -> Certificate:
    """The cluster CA kept in DATA_DIR/pki, made now if there is none. Raises OSError."""
    folder = os.path.join(data_dir, "pki")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    cert, key = os.path.join(folder, "ca.crt"), os.path.join(folder, "ca.key")
    if not os.path.exists(key):
        authority = new_authority()
        _write(cert, authority.cert, 0o644)
        _write(key, authority.key, 0o600)  # last: with a key there is always a certificate
    with open(cert, "rb") as public, open(key, "rb") as private:
        return Certificate(public.read(), private.read())


def _write(path: str, content: bytes, mode: int) -> None:
    """All of it or nothing, and never readable by others in between."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(handle, mode)
        os.fsync(handle)
    os.replace(temporary, path)


def write_kubeconfig(path: str, server: str, authority: Certificate, user: str, client: Certificate) -> None:
    """A kubeconfig with everything in it, readable by its owner only."""
    _write(path, kubeconfig(server, authority, user, client).encode(), 0o600)


def kubeconfig(server: str, authority: Certificate, user: str, client: Certificate) -> str:
    """The text of a kubeconfig that reaches `server` as `user`."""
    ca, cert, key = (base64.b64encode(pem).decode() for pem in (authority.cert, client.cert, client.key))
    return f"""apiVersion: v1
kind: Config
clusters:
- name: podnet
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: podnet
  context:
    cluster: podnet
    user: {user}
current-context: podnet
"""


def server_context(authority: Certificate, server: Certificate) -> ssl.SSLContext:
    """TLS for the API server: clients may show a certificate of the CA, and then it must be right."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority.cert.decode())
    _load(context, server)
    return context


def client_context(authority: Certificate, client: Certificate, check_hostname: bool = True) -> ssl.SSLContext:
    """TLS towards a server of this cluster, with a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    context.load_verify_locations(cadata=authority.cert.decode())
    _load(context, client)
    return context


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Python's ssl reads certificates from files only; this one is gone again at once."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.cert + certificate.key)
        file.flush()
        context.load_cert_chain(file.name)
