"""Unmodified kubectl and Services: columns, descriptions, expose, apply twice, and mistakes in upstream's words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podnet.objects.kinds import SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, serving, until
from tests.apiserver.test_kubectl import Kubectl, manifest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.xdist_group("kubectl")]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    pools = ("192.0.2.10-192.0.2.20",)
    async with serving(tmp_path, advertise_address="192.0.2.7", load_balancer_pool=pools) as api:
        yield api


@pytest.fixture
def k(kubectl: Path, api: Api) -> Kubectl:
    return Kubectl(kubectl, api)


async def test_columns_and_descriptions(k: Kubectl, api: Api) -> None:
    await api.create(SERVICES, make.service("plain", clusterIP="10.96.0.5", externalIPs=["198.51.100.1"]))
    await api.create(SERVICES, make.service("front", type="LoadBalancer", ports=[{"port": 80, "nodePort": 30001}]))
    await api.create(SERVICES, make.service("name", type="ExternalName", externalName="a.example", ports=[]))

    async def served() -> bool:
        return "192.0.2.10" in await k("get", "svc", "front")

    await until(served, 30)
    rows = {line.split()[0]: line.split()[1:] for line in (await k("get", "svc")).splitlines()}
    assert rows["NAME"][:4] == ["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)"]
    assert rows["kubernetes"][:4] == ["ClusterIP", "10.96.0.1", "<none>", "443/TCP"]
    assert rows["plain"][:4] == ["ClusterIP", "10.96.0.5", "198.51.100.1", "80/TCP"]
    assert (rows["front"][0], rows["front"][2:4]) == ("LoadBalancer", ["192.0.2.10", "80:30001/TCP"])
    assert rows["name"][:4] == ["ExternalName", "<none>", "a.example", "<none>"]
    port = api.url.rpartition(":")[2]
    header, row = (await k("get", "endpoints", "kubernetes", "--warnings-as-errors=false")).splitlines()[-2:]
    assert header.split() == ["NAME", "ENDPOINTS", "AGE"]
    assert row.split()[:2] == ["kubernetes", f"192.0.2.7:{port}"]
    described = await k("describe", "svc", "front")
    assert "LoadBalancer Ingress:" in described
    assert "NodePort:" in described
    assert f"192.0.2.7:{port}" in await k("describe", "svc", "kubernetes")
    assert "192.0.2.7" in await k("describe", "endpoints", "kubernetes")
    assert "192.0.2.7" in await k("describe", "endpointslice", "kubernetes")


async def test_expose_apply_and_change_the_type(k: Kubectl) -> None:
    await k("run", "web", "--image=nginx", "--port=80", "--labels=app=web")
    await k("expose", "pod", "web", "--type=NodePort", "--name=exposed")
    spec = (await k.object("get", "svc", "exposed"))["spec"]
    assert (spec["selector"], spec["type"], bool(spec["ports"][0]["nodePort"])) == ({"app": "web"}, "NodePort", True)
    await k("create", "service", "loadbalancer", "front", "--tcp=80:8080")
    await k("create", "service", "nodeport", "wished", "--tcp=80:8080", "--node-port=30055")
    assert (await k.object("get", "svc", "wished"))["spec"]["ports"][0]["nodePort"] == 30055
    await k("create", "service", "clusterip", "headless", "--clusterip=None", "--tcp=80")
    assert (await k.object("get", "svc", "headless"))["spec"]["clusterIPs"] == ["None"]
    await k("create", "service", "externalname", "name", "--external-name=a.example")
    document = make.service("applied", type="LoadBalancer")
    assert "created" in await k("apply", "-f", "-", stdin=manifest(document))
    assert "unchanged" in await k("apply", "-f", "-", stdin=manifest(document))
    first = (await k.object("get", "svc", "applied"))["spec"]
    changed = await k("apply", "-f", "-", stdin=manifest(make.service("applied", type="ClusterIP")))
    assert "configured" in changed
    spec = (await k.object("get", "svc", "applied"))["spec"]
    assert (spec["clusterIP"], "nodePort" in spec["ports"][0]) == (first["clusterIP"], False)
    await k("delete", "svc", "applied", "front", "name", "exposed")


async def test_what_is_wrong_is_said_as_upstream_says_it(k: Kubectl) -> None:
    wrong = manifest(make.service(clusterIP="10.96.0.1", type="NodePort"))
    assert (
        'The Service "web" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.1"]: '
        "failed to allocate IP 10.96.0.1: provided IP is already allocated"
    ) in await k("create", "-f", "-", stdin=wrong, code=1)
    wrong = manifest(make.service(externalIPs=["127.0.0.1"], ports=[{"port": 80, "targetPort": 0, "nodePort": 30000}]))
    said = await k("create", "-f", "-", stdin=wrong, code=1)
    assert "* spec.externalIPs[0]: Invalid value" in said
    assert "* spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'" in said
