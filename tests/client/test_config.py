"""Kubeconfigs as kubectl reads them, pods' credentials, and one clear sentence for everything else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from podnet.client.config import ConfigError, Credentials, in_cluster, load

B64 = base64.b64encode(b"pem").decode()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration but the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def config(
    name: str = "a", cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **context: str
) -> dict[str, Any]:
    """A kubeconfig in which everything is called `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443"} | (cluster or {})}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name} | context}],
    }


def write(path: Path, document: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return str(path)


def loaded(tmp_path: Path, **parts: Any) -> Credentials:
    return load(write(tmp_path / "k" / "config", config(**parts)))


def test_token_and_namespace(tmp_path: Path) -> None:
    credentials = loaded(tmp_path, user={"token": "secret"}, namespace="team")
    assert credentials == Credentials(server="https://a:6443", namespace="team", token="secret")


def test_data_is_decoded_and_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    credentials = loaded(
        tmp_path,
        cluster={"certificate-authority-data": B64, "tls-server-name": "kubernetes"},
        user={"client-certificate": "pki/me.crt", "client-key": "/abs/me.key", "tokenFile": "t"},
    )
    assert credentials.ca_data == b"pem"
    assert credentials.tls_server_name == "kubernetes"
    assert credentials.cert_file == str(tmp_path / "k/pki/me.crt")
    assert credentials.key_file == "/abs/me.key"
    assert credentials.token_file == str(tmp_path / "k/t")


def test_certificate_data_basic_auth_and_insecure(tmp_path: Path) -> None:
    user = {"client-certificate-data": B64, "client-key-data": B64, "username": "u", "password": "p"}
    credentials = loaded(tmp_path, cluster={"insecure-skip-tls-verify": True, "server": "https://h/k8s/"}, user=user)
    assert credentials.server == "https://h/k8s"
    assert (credentials.cert_data, credentials.key_data, credentials.insecure) == (b"pem", b"pem", True)
    assert (credentials.username, credentials.password) == ("u", "p")


def test_exec_plugin(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/login", "args": ["--region", "x y"],
        "env": [{"name": "A", "value": "1"}], "provideClusterInfo": True, "interactiveMode": "Never",
    }  # fmt: skip
    extensions = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "me"}}]
    credentials = loaded(tmp_path, cluster={"extensions": extensions}, user={"exec": plugin})
    assert credentials.exec is not None
    assert credentials.exec.command == f"{tmp_path}/k/./bin/login"
    assert credentials.exec.args == ("--region", "x y")
    assert credentials.exec.cluster_config == {"audience": "me"}
    bare = loaded(tmp_path, user={"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "login"}})
    assert bare.exec is not None
    assert bare.exec.command == "login"


def test_nulls_are_absent_values(tmp_path: Path) -> None:
    document = config(user={"token": None}) | {"preferences": None, "extensions": None}
    document["contexts"][0]["context"]["namespace"] = None
    assert load(write(tmp_path / "c", document)).namespace == "default"


def test_a_context_by_name_and_one_without_a_user(tmp_path: Path) -> None:
    document = config("a")
    document["contexts"].append({"name": "anonymous", "context": {"cluster": "a"}})
    document["current-context"] = "missing"
    assert load(write(tmp_path / "c", document), "anonymous").server == "https://a:6443"


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".kube/config", config("home"))
    assert load().server == "https://home:6443"
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "env", config("env")))
    assert load().server == "https://env:6443"
    assert load(write(tmp_path / "given", config("given"))).server == "https://given:6443"


def test_files_of_the_environment_are_merged_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config("a", user={"tokenFile": "token"})
    first["current-context"] = ""
    second = config("a", cluster={"server": "https://never:1"}, user={"token": "never"}, namespace="never")
    third = config("b", user={"tokenFile": "token"})
    third["current-context"] = "b"
    second["current-context"] = "a"
    paths = [write(tmp_path / name / "c", each) for name, each in (("1", first), ("2", second), ("3", third))]
    monkeypatch.setenv("KUBECONFIG", ":".join([str(tmp_path / "absent"), *paths, ""]))
    expected = Credentials(server="https://a:6443", token_file=str(tmp_path / "1/token"))
    assert load() == expected
    assert load(context="b") == Credentials(server="https://b:6443", token_file=str(tmp_path / "3/token"))


def test_a_merged_context_may_name_what_another_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_context = {"contexts": [{"name": "x", "context": {"cluster": "a", "user": "a"}}], "current-context": "x"}
    paths = [write(tmp_path / "1", only_context), write(tmp_path / "2", config("a", user={"token": "t"}))]
    monkeypatch.setenv("KUBECONFIG", ":".join(paths))
    assert load().token == "t"


def account(directory: Path) -> Path:
    directory.mkdir()
    for name, text in (("token", "t"), ("ca.crt", "pem"), ("namespace", "kube-system\n")):
        (directory / name).write_text(text)
    return directory


def test_in_cluster(tmp_path: Path) -> None:
    directory = account(tmp_path / "sa")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(str(directory), environ) == Credentials(
        server="https://[fd00::1]:443",
        namespace="kube-system",
        ca_file=str(directory / "ca.crt"),
        token_file=str(directory / "token"),
    )


def test_in_cluster_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podnet.client.config.in_cluster", lambda: Credentials(server="https://pod"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert load().server == "https://pod"
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "empty", "apiVersion: v1\nclusters: null\n"))
    assert load().server == "https://pod"
    write(tmp_path / "full", config("a"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "full"))
    assert load().server == "https://a:6443"


def test_in_cluster_without_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not inside a pod"):
        in_cluster(str(tmp_path), {})
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        in_cluster(str(tmp_path), {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"})


BAD: list[tuple[dict[str, Any], str]] = [
    ({"cluster": {"server": "host:6443"}}, "must start with https://"),
    ({"cluster": {"insecure-skip-tls-verify": True, "certificate-authority": "ca"}}, "exclude each other"),
    ({"cluster": {"proxy-url": "http://p"}}, "proxy-url is not supported"),
    ({"cluster": {"certificate-authority-data": "%%%"}}, "certificate-authority-data is not base64"),
    ({"cluster": {"insecure-skip-tls-verify": "yes"}}, "malformed: Expected `bool`"),
    ({"user": {"client-certificate": "c"}}, "certificate and its key must be given together"),
    ({"user": {"auth-provider": {"name": "gcp"}}}, "auth-provider is not supported"),
    ({"user": {"as": "root"}}, "as is not supported"),
    ({"user": {"exec": {"apiVersion": "v0", "command": "x"}}}, "exec apiVersion 'v0' is none of"),
    ({"user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}}, "missing required field `command`"),
    (
        {
            "user": {
                "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x", "interactiveMode": "Always"}
            }
        },
        "wants a terminal",
    ),
    ({"user": {}, "cluster_": "b"}, "no cluster named 'b'"),
    ({"user": {}, "user_": "b"}, "no user named 'b'"),
]


@pytest.mark.parametrize(("parts", "message"), BAD)
def test_bad_fields(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    document = config(**{key: value for key, value in parts.items() if not key.endswith("_")})
    for key in ("cluster", "user"):
        document["contexts"][0]["context"][key] = parts.get(key + "_", "a")
    path = write(tmp_path / "c", document)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "malformed: Expected `object`"),
        ("clusters: 1", r"malformed: Expected `array`, got `int` - at `\$.clusters`"),
        ("", "describes no cluster"),
        (yaml.safe_dump(config("a") | {"current-context": ""}), "no current-context: pass --context"),
        (yaml.safe_dump(config("a") | {"current-context": "z"}), "no context named 'z'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "c", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert path in str(caught.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent cannot be read: No such file"):
        load(str(tmp_path / "absent"))


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no kubeconfig found in .*/.kube/config: pass --kubeconfig"):
        load()


def test_secrets_do_not_show() -> None:
    credentials = Credentials(server="https://a", token="hush", password="hush", key_data=b"hush")
    assert "hush" not in repr(credentials)
    assert "https://a" in f"{credentials}"
