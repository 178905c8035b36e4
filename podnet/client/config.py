"""Where the API server is and who we are: a kubeconfig, or what Kubernetes mounts into every pod.

`load` looks where kubectl looks and merges as kubectl merges: of several files in $KUBECONFIG the first to name a
cluster, user or context wins, a relative path belongs to the file that holds it, and the first current-context counts.
The outcome is one frozen `Credentials`; it holds file names where the configuration does, because such files are
replaced while we run, and client/auth.py reads them again.
Source: k8s.io/client-go/tools/clientcmd (api/v1/types.go, loader.go, client_config.go).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec.structs import replace

from podnet.errors import UserError

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
CLUSTER_EXTENSION = "client.authentication.k8s.io/exec"


class ConfigError(UserError, ValueError):
    """The configuration cannot be used; the message is one sentence that says where and why."""


class ExecPlugin(msgspec.Struct, frozen=True, rename="camel"):
    """A program that prints a short-lived token or certificate (an ExecCredential); never run through a shell."""

    class Variable(msgspec.Struct, frozen=True):
        """One environment variable for the program."""

        name: str
        value: str = ""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"
    cluster_config: Any = None

    def __repr__(self) -> str:
        return f"ExecPlugin({self.command!r})"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """One server and one identity.

    server            http(s) URL, without a trailing slash, possibly with a path
    namespace         used where a call names none
    ca_data, ca_file  PEM of the authorities to trust; neither: those of the system
    tls_server_name   name that the server's certificate must carry, if not the URL's host
    cert_*, key_*     client certificate and key in PEM; data goes before file
    token, token_file bearer token; the file goes before the value while it can be read
    exec              a plugin that gives a token or a client certificate
    """

    server: str
    namespace: str = "default"
    ca_data: bytes = b""
    ca_file: str = ""
    insecure: bool = False
    tls_server_name: str = ""
    cert_data: bytes = b""
    cert_file: str = ""
    key_data: bytes = b""
    key_file: str = ""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    exec: ExecPlugin | None = None

    def __repr__(self) -> str:
        """Names the server only: secrets must not reach a log."""
        return f"Credentials({self.server!r}, namespace={self.namespace!r})"


class _Struct(msgspec.Struct, frozen=True, rename="kebab"):
    """Base of a kubeconfig's parts; unknown fields are skipped."""


class _Extension(_Struct, frozen=True):
    name: str
    extension: Any = None


class _Cluster(_Struct, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    extensions: tuple[_Extension, ...] = ()


class _User(_Struct, frozen=True):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    exec: ExecPlugin | None = None
    auth_provider: Any = None
    impersonate: str = msgspec.field(default="", name="as")


class _Context(_Struct, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(_Struct, frozen=True):
    name: str
    cluster: _Cluster = _Cluster()


class _NamedUser(_Struct, frozen=True):
    name: str
    user: _User = _User()


class _NamedContext(_Struct, frozen=True):
    name: str
    context: _Context = _Context()


class _Kubeconfig(_Struct, frozen=True):
    current_context: str = ""
    clusters: tuple[_NamedCluster, ...] = ()
    users: tuple[_NamedUser, ...] = ()
    contexts: tuple[_NamedContext, ...] = ()


def load(kubeconfig: str | None = None, context: str | None = None) -> Credentials:
    """Find the credentials: `kubeconfig`, else $KUBECONFIG, else ~/.kube/config, else those of a pod.

    kubeconfig  path of the one file to use; None searches
    context     name of the context to use; None takes the file's current one
    Raises ConfigError.
    """
    paths = [kubeconfig] if kubeconfig else _default_paths()
    files = [_read(path) for path in paths if kubeconfig or os.path.exists(path)]
    if any(file.contexts or file.clusters for file in files):
        return _resolve(files, context, ":".join(paths))
    if not kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
        return in_cluster()
    where = f"{kubeconfig} describes no cluster" if kubeconfig else f"no kubeconfig found in {' or '.join(paths)}"
    raise ConfigError(f"{where}: pass --kubeconfig, set $KUBECONFIG, or run inside a pod")


def in_cluster(directory: str = SERVICE_ACCOUNT, environ: Mapping[str, str] | None = None) -> Credentials:
    """The service account of the pod we run in; raises ConfigError outside of one."""
    environ = os.environ if environ is None else environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConfigError("not inside a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    token_file = os.path.join(directory, "token")
    if not os.path.exists(token_file):
        raise ConfigError(f"the pod has no service account token at {token_file}: set automountServiceAccountToken")
    ca_file = os.path.join(directory, "ca.crt")
    return Credentials(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=_first_line(os.path.join(directory, "namespace")) or "default",
        ca_file=ca_file if os.path.exists(ca_file) else "",
        token_file=token_file,
    )


def _default_paths() -> list[str]:
    listed = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    return listed or [os.path.expanduser("~/.kube/config")]


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _read(path: str) -> _Kubeconfig:
    """Parse one file and make its paths absolute."""
    try:
        with open(path, "rb") as file:
            document = yaml.safe_load(file)
        config = msgspec.convert(_without_nulls(document or {}), _Kubeconfig)
    except OSError as error:
        raise ConfigError(f"kubeconfig {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"kubeconfig {path} is not YAML: {' '.join(str(error).split())}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"kubeconfig {path} is malformed: {error}") from None
    base = os.path.dirname(os.path.abspath(path))
    clusters = tuple(replace(item, cluster=_anchor_cluster(item.cluster, base)) for item in config.clusters)
    users = tuple(replace(item, user=_anchor_user(item.user, base)) for item in config.users)
    return replace(config, clusters=clusters, users=users)


def _without_nulls(value: Any) -> Any:
    """Go reads `field: null` as "not set"; so do we."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _anchor(path: str, base: str) -> str:
    return os.path.join(base, path) if path else ""


def _anchor_cluster(cluster: _Cluster, base: str) -> _Cluster:
    return replace(cluster, certificate_authority=_anchor(cluster.certificate_authority, base))


def _anchor_user(user: _User, base: str) -> _User:
    """A plugin's command is looked up in $PATH unless it holds a slash."""
    plugin = user.exec
    if plugin and "/" in plugin.command:
        plugin = replace(plugin, command=_anchor(plugin.command, base))
    return replace(
        user,
        client_certificate=_anchor(user.client_certificate, base),
        client_key=_anchor(user.client_key, base),
        token_file=_anchor(user.token_file, base),
        exec=plugin,
    )


N = TypeVar("N", _NamedCluster, _NamedUser, _NamedContext)


def _find(items: Iterable[N], name: str, what: str, where: str) -> N:
    for item in items:
        if item.name == name:
            return item
    raise ConfigError(f"kubeconfig {where} has no {what} named {name!r}")


def _resolve(files: list[_Kubeconfig], wanted: str | None, where: str) -> Credentials:
    name = wanted or next((file.current_context for file in files if file.current_context), "")
    if not name:
        raise ConfigError(f"kubeconfig {where} has no current-context: pass --context")
    context = _find((item for file in files for item in file.contexts), name, "context", where).context
    cluster = _find((item for file in files for item in file.clusters), context.cluster, "cluster", where).cluster
    user = _User()
    if context.user:
        user = _find((item for file in files for item in file.users), context.user, "user", where).user
    where = f"kubeconfig {where}, context {name!r}"
    _check(cluster, user, where)
    return Credentials(
        server=cluster.server.rstrip("/"),
        namespace=context.namespace or "default",
        ca_data=_decoded(cluster.certificate_authority_data, "certificate-authority-data", where),
        ca_file=cluster.certificate_authority,
        insecure=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name,
        cert_data=_decoded(user.client_certificate_data, "client-certificate-data", where),
        cert_file=user.client_certificate,
        key_data=_decoded(user.client_key_data, "client-key-data", where),
        key_file=user.client_key,
        token=user.token,
        token_file=user.token_file,
        username=user.username,
        password=user.password,
        exec=_with_cluster_config(user.exec, cluster),
    )


def _with_cluster_config(plugin: ExecPlugin | None, cluster: _Cluster) -> ExecPlugin | None:
    """The plugin, told what the cluster's entry has for it."""
    for item in cluster.extensions if plugin else ():
        if plugin and item.name == CLUSTER_EXTENSION:
            return replace(plugin, cluster_config=item.extension)
    return plugin


def _check(cluster: _Cluster, user: _User, where: str) -> None:
    """Refuse what we would otherwise silently do differently from kubectl."""
    if not cluster.server.startswith(("http://", "https://")):
        raise ConfigError(f"{where}: server {cluster.server!r} must start with https:// or http://")
    if cluster.insecure_skip_tls_verify and (cluster.certificate_authority or cluster.certificate_authority_data):
        raise ConfigError(f"{where}: insecure-skip-tls-verify and a certificate-authority exclude each other")
    unsupported = {"proxy-url": cluster.proxy_url, "auth-provider": user.auth_provider, "as": user.impersonate}
    for field, value in unsupported.items():
        if value:
            raise ConfigError(f"{where}: {field} is not supported")
    has_cert = user.client_certificate or user.client_certificate_data
    if bool(has_cert) != bool(user.client_key or user.client_key_data):
        raise ConfigError(f"{where}: a client certificate and its key must be given together")
    if user.exec and user.exec.api_version not in EXEC_VERSIONS:
        raise ConfigError(f"{where}: exec apiVersion {user.exec.api_version!r} is none of {', '.join(EXEC_VERSIONS)}")
    if user.exec and user.exec.interactive_mode == "Always":
        raise ConfigError(f"{where}: exec plugin {user.exec.command} wants a terminal (interactiveMode: Always)")


def _decoded(text: str, field: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        raise ConfigError(f"{where}: {field} is not base64") from None
