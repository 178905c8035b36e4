"""Cluster DNS as objects: the API takes them, a lab and a manifest say the same, and its programs take their flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from podnet.cli.dns import command as dns
from podnet.dns import manifest
from podnet.dns.manifest import Setting
from podnet.lab import cluster_dns, registry
from podnet.network.dns.dnsmasq import plan
from podnet.objects.kinds import PODS, Kind
from tests.apiserver.test_validation import judge

Json = dict[str, Any]
DUAL = ("10.96.0.10", "fd00:10:96::a")


def lab(nodes: int = 3, dual_stack: bool = False) -> registry.Lab:
    made = tuple(registry.make_node("/l", number, dual_stack) for number in range(1, nodes + 1))
    return registry.Lab("x", "/l", 1, made, dual_stack)


def objects(of: registry.Lab) -> list[tuple[Kind, Json]]:
    return [*cluster_dns.front(of), *cluster_dns.servers(of)]


def printed(*options: str) -> dict[str, Json]:
    done = CliRunner().invoke(manifest.command, ["--image", "example.org/podnet:1", *options])
    assert done.exit_code == 0, done.output
    return {each["kind"]: each for each in yaml.safe_load_all(done.output)}


def container(spec: Json, name: str) -> Json:
    return next(each for each in spec["containers"] if each["name"] == name)


@pytest.mark.parametrize("dual_stack", [False, True])
def test_the_api_takes_what_a_lab_makes(dual_stack: bool) -> None:
    for kind, document in objects(lab(dual_stack=dual_stack)):
        named = {"apiVersion": kind.api_version, "kind": kind.kind} | document
        assert judge(named) == [], named


@pytest.mark.parametrize(("nodes", "pods"), [(1, 1), (2, 2), (5, 2)])
def test_how_many_pods_a_lab_has(nodes: int, pods: int) -> None:
    assert [kind for kind, _ in objects(lab(nodes))].count(PODS) == pods


@pytest.mark.parametrize(("dual_stack", "addresses"), [(False, DUAL[:1]), (True, DUAL)])
def test_where_a_labs_pods_ask(dual_stack: bool, addresses: tuple[str, ...]) -> None:
    service = objects(lab(dual_stack=dual_stack))[0][1]
    assert service["spec"]["clusterIPs"] == [*addresses]
    assert service["metadata"]["labels"]["k8s-app"] == "kube-dns"


def test_a_manifest_is_what_a_lab_runs() -> None:
    """But for what differs between a lab's pods and images: the program, who it is, temporary files."""
    shown = printed("--cluster-ip", DUAL[0], "--cluster-ip", DUAL[1])
    (_, service), (_, config), (_, pod), _ = objects(lab(dual_stack=True))
    assert shown["Service"] == service
    assert shown["ConfigMap"] == config
    template = shown["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"] == pod["metadata"]["labels"]
    spec = template["spec"]
    for only in ("serviceAccountName", "priorityClassName", "affinity"):
        del spec[only]
    assert spec == manifest.pod_spec(Setting(DUAL, image="example.org/podnet:1"))
    text = yaml.safe_dump(pod["spec"]).replace(f"{registry.Lab('x', '/l', 1).dns_kubeconfig}", "KUBECONFIG")
    for mine, theirs in ((cluster_dns.setting(lab()).program, "podnet"), ("podnet-dns", "example.org/podnet:1")):
        text = text.replace(mine, theirs)
    ours: Json = yaml.safe_load(text)
    for each in ours["containers"]:
        each["args"] = [word for word in each["args"] if word != "--kubecfg-file=KUBECONFIG"]
        each["env"] = [one for one in each.pop("env") if one["name"] not in dict(cluster_dns.setting(lab()).variables)]
        if not each["env"]:
            del each["env"]
    assert ours == spec


def test_who_it_is_may_read_what_it_answers_from() -> None:
    shown = printed()
    verbs = {resource: rule["verbs"] for rule in shown["ClusterRole"]["rules"] for resource in rule["resources"]}
    assert verbs.keys() == {"services", "pods", "namespaces", "configmaps", "endpointslices", "events"}
    assert "namespace" not in shown["ClusterRole"]["metadata"]
    assert shown["ClusterRoleBinding"]["roleRef"]["name"] == shown["ClusterRole"]["metadata"]["name"]
    account = shown["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert shown["ClusterRoleBinding"]["subjects"][0]["name"] == account == shown["ServiceAccount"]["metadata"]["name"]


@pytest.mark.parametrize("setting", [Setting(), Setting(kubeconfig="/k", domain="example.org")], ids=["usual", "other"])
@pytest.mark.parametrize("name", ["kubedns", "dnsmasq", "healthz"])
def test_the_programs_take_their_flags(setting: Setting, name: str) -> None:
    found = container(manifest.pod_spec(setting), name)
    assert found["command"] == ["podnet", "dns", name]
    assert isinstance(dns, click.Group)
    program = dns.get_command(click.Context(dns), name)
    assert program is not None
    given: Mapping[str, Any] = program.make_context(name, [*found["args"]]).params
    match name:
        case "kubedns":
            assert given["purge"] == "http://127.0.0.1:10054/purge"
            assert (given["domain"], given["kubeconfig"] or "") == (setting.domain, setting.kubeconfig)
        case "dnsmasq":
            assert plan(given["dnsmasq_args"], "/f").port == 53
            assert given["prometheus_port"] == 10054
        case "healthz":
            assert [*given["urls"]] == ["/healthz-dnsmasq", "/healthz-kubedns"]
