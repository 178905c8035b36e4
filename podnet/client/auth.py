"""From `Credentials` to what each request carries: a TLS context and an Authorization header.

Tokens and certificates are short-lived: a pod's token is replaced hourly, a kubelet's certificate yearly, a plugin's
token every few minutes. So nothing is read only once. Before each request the files' stamps are compared (a few
microseconds) and what changed is loaded again; half-written files leave the last good state in use. A plugin runs again
when its token has expired or the server has answered 401.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from podnet.client.config import ConfigError, Credentials, ExecPlugin

log = logging.getLogger(__name__)

PLUGIN_SECONDS = 60.0
EXPIRY_MARGIN = timedelta(seconds=10)

Stamp = tuple[tuple[int, int, int], ...]


class PluginStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What an exec plugin gives: a token, a client certificate, or both, and until when."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def valid(self, now: datetime) -> bool:
        """Whether it can still be used; without an expiry it is good until the server refuses it."""
        return self.expiration_timestamp is None or now + EXPIRY_MARGIN < self.expiration_timestamp

    def __repr__(self) -> str:
        return f"PluginStatus(expires {self.expiration_timestamp})"


class _ExecCredential(msgspec.Struct, frozen=True):
    status: PluginStatus


def _stamp(*paths: str) -> Stamp:
    """Changes when one of the files does; a missing file has the stamp of zeros."""
    stamps = []
    for path in filter(None, paths):
        try:
            status = os.stat(path)
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            stamps.append((0, 0, 0))
    return tuple(stamps)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


class Authenticator:
    """Keeps the identity of one `Credentials` fresh. Raises ConfigError when made from unusable ones."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._plugin_lock = asyncio.Lock()
        self._plugin: PluginStatus | None = None
        self._token = ""
        self._token_stamp: Stamp = ()
        self._context: ssl.SSLContext | None = None
        self._context_stamp: tuple[Stamp, str] | None = None
        self.tls()
        self._file_token()

    async def headers(self) -> dict[str, str]:
        """The Authorization header, empty for an anonymous or certificate identity. Raises ConfigError."""
        await self._run_plugin()
        token = self._file_token() or self.credentials.token or (self._plugin.token if self._plugin else "")
        if token:
            return {"Authorization": f"Bearer {token}"}
        if self.credentials.username:
            pair = f"{self.credentials.username}:{self.credentials.password}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}

    def tls(self) -> ssl.SSLContext | None:
        """The context for the next connection, None for plain http. The same object as long as no file changed."""
        c = self.credentials
        if not c.server.startswith("https://"):
            return None
        plugin_certificate = self._plugin.client_certificate_data if self._plugin else ""
        stamp = (_stamp(c.ca_file, c.cert_file, c.key_file), plugin_certificate)
        if stamp != self._context_stamp:
            try:
                self._context = self._make_context()
                self._context_stamp = stamp
            except ConfigError as error:
                if self._context is None:
                    raise
                log.warning("keeping the previous certificates: %s", error)
        return self._context

    def refused(self) -> bool:
        """The server said 401: forget what can be had anew; True when trying again may help."""
        renewable = self.credentials.exec is not None or bool(self.credentials.token_file)
        self._plugin, self._token_stamp = None, ()
        return renewable

    def _file_token(self) -> str:
        path = self.credentials.token_file
        if path and (stamp := _stamp(path)) != self._token_stamp:
            try:
                self._token = _read(path).decode("latin-1").strip() or self._token
                self._token_stamp = stamp
            except ConfigError:
                if not (self._token or self.credentials.token):
                    raise
        return self._token

    def _make_context(self) -> ssl.SSLContext:
        c = self.credentials
        authorities = c.ca_data or (_read(c.ca_file) if c.ca_file else b"")
        try:
            context = ssl.create_default_context(cadata=authorities.decode("latin-1") or None)
        except ssl.SSLError as error:
            raise ConfigError(f"certificate-authority {c.ca_file or 'data'} is not PEM: {error.reason}") from None
        # Python 3.13 turned this on; Go never asks it, and the CAs of kubeadm, k3s and kind do not pass it.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if c.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = c.cert_data or (_read(c.cert_file) if c.cert_file else b"")
        key = c.key_data or (_read(c.key_file) if c.key_file else b"")
        if self._plugin and self._plugin.client_certificate_data:
            certificate, key = self._plugin.client_certificate_data.encode(), self._plugin.client_key_data.encode()
        if certificate:
            _present(context, certificate, key)
        return context

    async def _run_plugin(self) -> None:
        plugin = self.credentials.exec
        if plugin is None:
            return
        async with self._plugin_lock:
            if self._plugin is None or not self._plugin.valid(datetime.now(UTC)):
                self._plugin = await run_plugin(plugin, self.credentials)


def _present(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a client certificate. OpenSSL reads files only, so it gets one that lives in memory: no key on a disk."""
    descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the client certificate and key are no matching PEM pair: {error}") from None
    finally:
        os.close(descriptor)


async def run_plugin(plugin: ExecPlugin, credentials: Credentials) -> PluginStatus:
    """Run an exec plugin and return its answer; raises ConfigError.

    The protocol is client-go's (pkg/apis/clientauthentication): the request is in $KUBERNETES_EXEC_INFO, the answer an
    ExecCredential on standard output.
    """
    environment = os.environ | {variable.name: variable.value for variable in plugin.env}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(_exec_info(plugin, credentials))
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command, *plugin.args, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        hint = f"{error.strerror}. {plugin.install_hint}".strip()
        raise ConfigError(f"exec plugin {plugin.command} cannot start: {hint}") from None
    try:
        output, complaint = await asyncio.wait_for(process.communicate(), PLUGIN_SECONDS)
    except TimeoutError:
        raise ConfigError(f"exec plugin {plugin.command} gave no answer within {PLUGIN_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise ConfigError(f"exec plugin {plugin.command} failed with exit code {process.returncode}: {last}")
    return _plugin_answer(plugin, output)


def _plugin_answer(plugin: ExecPlugin, output: bytes) -> PluginStatus:
    try:
        status = msgspec.json.decode(output, type=_ExecCredential).status
    except msgspec.MsgspecError as error:
        raise ConfigError(f"exec plugin {plugin.command} printed no ExecCredential: {error}") from None
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise ConfigError(f"exec plugin {plugin.command} gave neither a token nor a certificate and key")
    return status


def _exec_info(plugin: ExecPlugin, credentials: Credentials) -> dict[str, Any]:
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        authorities = credentials.ca_data or (_read(credentials.ca_file) if credentials.ca_file else b"")
        spec["cluster"] = {
            "server": credentials.server,
            "tls-server-name": credentials.tls_server_name,
            "insecure-skip-tls-verify": credentials.insecure,
            "certificate-authority-data": base64.b64encode(authorities).decode(),
            "config": plugin.cluster_config,
        }
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
