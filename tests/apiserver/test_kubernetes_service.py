"""The Service by which pods find the API server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from podnet.apiserver import kubernetes_service, pki
from podnet.apiserver.kubernetes_service import Address, advertised
from podnet.objects.kinds import ENDPOINTS, ENDPOINTSLICES, SERVICES
from tests.apiserver import documents as make
from tests.apiserver.conftest import Api, serving, until

SERVICE, SLICE, ENDPOINT = (kind.path("default", "kubernetes") for kind in (SERVICES, ENDPOINTSLICES, ENDPOINTS))
HERE = "192.0.2.7"


@pytest.fixture
async def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(kubernetes_service, "KEEP_SECONDS", 0.05)
    async with serving(tmp_path, advertise_address=HERE) as api:
        yield api


async def test_it_is_there_from_the_start(known: Api) -> None:
    port = int(known.url.rpartition(":")[2])
    spec = (await known.get(SERVICE))[1]["spec"]
    assert (spec["clusterIP"], spec["ipFamilyPolicy"], "selector" in spec) == ("10.96.0.1", "SingleStack", False)
    assert spec["ports"] == [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}]
    found = (await known.get(SLICE))[1]
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
    assert (found["addressType"], found["endpoints"][0]["addresses"]) == ("IPv4", [HERE])
    assert found["ports"] == [{"name": "https", "port": port, "protocol": "TCP"}]
    subsets = [{"addresses": [{"ip": HERE}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]
    assert (await known.get(ENDPOINT))[1]["subsets"] == subsets


async def test_it_is_kept(known: Api) -> None:
    slice_ = (await known.get(SLICE))[1]
    await known.patch(SLICE, {"endpoints": [*slice_["endpoints"], {"addresses": ["192.0.2.8"]}]})
    await known.patch(ENDPOINT, {"subsets": []})
    await known.patch(SERVICE, {"spec": {"selector": {"app": "evil"}}, "metadata": {"labels": {"mine": "too"}}})
    await known.ask("DELETE", ENDPOINT)

    async def restored() -> bool:
        selector = (await known.get(SERVICE))[1]["spec"].get("selector")
        endpoints = (await known.get(SLICE))[1]["endpoints"]
        return (await known.get(ENDPOINT))[0] == 200 and endpoints == slice_["endpoints"] and not selector

    await until(restored)
    assert (await known.get(SERVICE))[1]["metadata"]["labels"]["mine"] == "too"
    await known.ask("DELETE", SERVICE)

    async def back() -> Any:
        code, answer = await known.get(SERVICE)
        return code == 200 and answer

    assert (await until(back))["spec"]["clusterIP"] == "10.96.0.1"


async def test_what_is_right_is_not_written_again(known: Api) -> None:
    revision = known.registry.store.revision
    for _ in range(3):
        await kubernetes_service.ensure(known.registry, kubernetes_service.wanted(*_mine(known)))
    assert known.registry.store.revision == revision


def _mine(api: Api) -> tuple[Any, Address]:
    allocation = api.registry.allocation
    assert allocation is not None
    return allocation.ranges[0], (HERE, int(api.url.rpartition(":")[2]))


async def test_a_new_range_makes_it_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        assert (await api.get(SERVICE))[1]["spec"]["clusterIP"] == "10.96.0.1"
        assert "endpoints" not in (await api.get(SLICE))[1] or not (await api.get(SLICE))[1]["endpoints"]
    six = {"service_cluster_ip_range": ("fd00::/112",), "advertise_address": "2001:db8::7"}
    async with serving(tmp_path, **six) as api:
        spec = (await api.get(SERVICE))[1]["spec"]
        assert (spec["clusterIP"], spec["ipFamilies"]) == ("fd00::1", ["IPv6"])
        found = (await api.get(SLICE))[1]
        assert (found["addressType"], found["endpoints"][0]["addresses"]) == ("IPv6", ["2001:db8::7"])


async def test_a_server_whose_address_is_taken_starts_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path) as api:
        await api.create(SERVICES, make.service(clusterIP="10.96.0.129"))
    async with serving(tmp_path, service_cluster_ip_range=("10.96.0.128/25",)) as api:
        assert (await api.get(SERVICE))[0] == 404
    assert "provided IP is already allocated" in capsys.readouterr().out


async def test_its_certificate_is_good_for_the_service(tmp_path: Path) -> None:
    wanted = {"10.96.0.1", "fd00::1", HERE}
    async with serving(
        tmp_path, service_cluster_ip_range=("10.96.0.0/16", "fd00::/112"), advertise_address=HERE
    ) as api:
        host, _, port = api.url.removeprefix("https://").rpartition(":")
        context = pki.client_context(
            pki.load_authority(str(api.folder)),
            pki.issue(pki.load_authority(str(api.folder)), "admin", ("system:masters",)),
        )
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    names = x509.load_der_x509_certificate(raw).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert wanted <= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("wish", "listening", "version", "found"),
    [
        ("", [("127.0.0.1", 1)], 4, None),
        ("", [("127.0.0.1", 1), ("192.0.2.1", 6443), ("192.0.2.2", 3)], 4, ("192.0.2.1", 6443)),
        ("", [("192.0.2.1", 6443), ("2001:db8::1", 6444)], 6, ("2001:db8::1", 6444)),
        ("", [("fe80::1%eth0", 1), ("::1", 1)], 6, None),
        ("198.51.100.1", [("127.0.0.1", 1)], 4, ("198.51.100.1", 1)),
    ],
)
def test_which_address_is_told(wish: str, listening: list[Address], version: int, found: Address | None) -> None:
    assert advertised(wish, listening, version) == found


def test_listening_everywhere_means_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_service, "_way_out", lambda version: HERE if version == 4 else "")
    assert advertised("", [("0.0.0.0", 6443)], 4) == (HERE, 6443)
    assert advertised("", [("::", 6443)], 6) is None


def test_the_way_out_is_an_address_of_this_machine() -> None:
    found = kubernetes_service._way_out(4)
    if found:
        with socket.create_server((found, 0)) as bound:
            assert bound.getsockname()[0] == found
