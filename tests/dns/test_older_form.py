"""What the command lines of kube2sky and skydns refuse, in one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from podnet.cli.main import main
from podnet.client.config import Credentials
from podnet.dns.kube2sky import credentials
from podnet.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("kube2sky --etcd-server=etcd", "'etcd' is no URL of an etcd: write it as http://127.0.0.1:2379"),
        ("kube2sky -etcd_mutation_timeout=0", "--etcd-mutation-timeout and --resync must be longer than 0"),
        ("kube2sky --kubecfg_file=/nowhere", "/nowhere"),
        ("kube2sky -domain=a..b --kube_master_url=http://a", "--domain: a..b"),
        ("skydns -machines=etcd", "'etcd' is no URL of an etcd"),
        ("skydns -addr=53", "--addr 53: write it as ip:port, as in 127.0.0.1:53 or [::1]:53"),
        ("skydns -addr=localhost:53", "--addr localhost:53: write it"),
        ("skydns -domain=a..b", "--domain, --hostmaster or --local: a..b"),
        ("skydns -nameservers=dns.example.com", "--nameservers: "),
        ("skydns -machines=", "--machines names no etcd"),
    ],
)
def test_mistakes(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ETCD_MACHINES", "SKYDNS_ADDR", "SKYDNS_DOMAIN", "SKYDNS_NAMESERVERS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["dns", *arguments.split()])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_the_url_of_the_api_server_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("MASTER", "192.0.2.1:6443")
    assert credentials(None, "https://${MASTER}/") == Credentials(server="https://192.0.2.1:6443")
    with pytest.raises(UserError):
        credentials(None, "")
    (tmp_path / "config").write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],"
        " users: [{name: u, user: {token: t}}], clusters: [{name: k, cluster: {server: 'https://here'}}]}"
    )
    found = credentials(str(tmp_path / "config"), "https://there")
    assert (found.server, found.token) == ("https://there", "t")
