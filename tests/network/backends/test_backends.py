"""What holds for every scheme: options, names on the wire, overhead, and receiving without sending."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network import backends
from podnet.network.backends import BACKENDS, options, parse_scheme, scheme, validate
from podnet.network.backends.vxlan import Options, device
from podnet.state.resource import state
from podnet.state.routes import Route
from tests.worlds import BACKENDS as SETTINGS
from tests.worlds import cluster, config, node, seen

NODES = [node(1, dual=True), node(2, dual=True), node(3)]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_defaults_work(name: str) -> None:
    assert validate({"type": name}) == []
    assert options({"type": name}).type == name
    assert scheme({"type": name}) == name


def test_vxlan_is_the_default() -> None:
    assert scheme({}) == "vxlan"
    assert validate({}) == []


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ({"type": "vxlan", "vni": 1, "port": 8472}, "vxlan"),
        ({"type": "vxlan", "vni": 7}, "vxlan:vni=7"),
        ({"type": "vxlan", "port": 4789}, "vxlan:port=4789"),
        ({"type": "vxlan", "vni": 4096, "port": 4789}, "vxlan:vni=4096:port=4789"),
        ({"type": "vxlan", "directRouting": True}, "vxlan"),
    ],
)
def test_a_scheme_is_named_after_what_both_ends_must_agree_on(backend: dict[str, Any], name: str) -> None:
    assert scheme(backend) == name
    parsed = parse_scheme(name)
    assert parsed is not None
    assert scheme(parsed) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "geneve", "vxlan:", "vxlan:vni", "vxlan:vni=", "vxlan:vni=0", "vxlan:vni=x", "vxlan:vni=1", "vxlan:vni=07",
        "vxlan:colour=red", "vxlan:type=host-gw", "host-gw:vni=5", "vxlan:vni=5:vni=5", "vxlan:port=4789:vni=5",
        "vxlan:port=99999", "vxlan:directRouting=true", " vxlan", "VXLAN", "vxlan@1", "type=vxlan",
    ],
)  # fmt: skip
def test_what_nobody_would_write_is_not_read(name: str) -> None:
    """Two spellings of one scheme would be two schemes on one device."""
    assert parse_scheme(name) is None


@given(st.integers(1, (1 << 24) - 1), st.integers(1, 65535))
def test_names_and_devices_are_one_to_one(vni: int, port: int) -> None:
    name = scheme({"type": "vxlan", "vni": vni, "port": port})
    parsed = parse_scheme(name)
    assert parsed is not None
    assert (parsed["vni"], parsed["port"]) == (vni, port)
    names = {device(Options(vni=vni, port=port), v6) for v6 in (False, True)}
    names |= {device(Options(vni=vni % 65535 + 1, port=port), v6) for v6 in (False, True)}
    names |= {device(Options(vni=vni, port=port % 65535 + 1), v6) for v6 in (False, True)}
    assert len(names) == (6 if vni != vni % 65535 + 1 else 4)
    assert all(each.startswith("podnet") and len(each) <= 15 for each in names)


def test_devices_have_flannel_s_names_where_they_fit() -> None:
    assert device(Options(), False) == "podnet.1"
    assert device(Options(), True) == "podnet-v6.1"
    assert device(Options(vni=99999), True) == "podnet-v6.99999"
    assert device(Options(vni=100000), True) != device(Options(vni=10000), True)


JUNK = st.dictionaries(
    st.sampled_from(["type", "vni", "port", "directRouting", "x", "", "a b", "`"]),
    st.sampled_from(["vxlan", "host-gw", "", "`", "x", 0, 1, -1, 1 << 70, True, False]) | st.text(max_size=3),
)


@given(JUNK)
def test_options_work_or_name_what_does_not(backend: dict[str, Any]) -> None:
    wrong = validate(backend)
    for field, message in wrong:
        assert field in backend
        assert message
    if not wrong:
        assert parse_scheme(scheme(backend)) is not None
        list(BACKENDS[str(backend.get("type", "vxlan"))].connect(seen(cluster(NODES, config(backend, dual=True)), 1)))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_range_of_every_peer_is_reached_in_the_families_that_both_have(setting: dict[str, Any]) -> None:
    view = seen(cluster(NODES, config(setting, dual=True)), 1)
    found = state(BACKENDS[str(setting["type"])].connect(view))
    routes = {each.dst for each in found.values() if isinstance(each, Route)}
    assert routes == {"10.244.2.0/24", "fd00:10:244:2::/64", "10.244.3.0/24"}


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_without_peers_there_is_only_what_receives(setting: dict[str, Any]) -> None:
    view = seen(cluster(NODES, config(setting, dual=True)), 1)
    alone = state(BACKENDS[str(setting["type"])].connect(view.narrowed(setting, [])))
    whole = state(BACKENDS[str(setting["type"])].connect(view))
    assert {key: whole[key] for key in alone} == alone
    assert {each.kind for each in alone.values()} <= {"Link", "Address", "Sysctl"}


@pytest.mark.parametrize("v6", [False, True])
def test_overhead_is_what_the_headers_take(v6: bool) -> None:
    for name, bytes_ in {"vxlan": 14 + (40 if v6 else 20) + 8 + 8, "host-gw": 0}.items():
        assert BACKENDS[name].overhead(options({"type": name}), v6) == bytes_


def test_unknown_types_raise_for_the_programmer() -> None:
    with pytest.raises(KeyError):
        options({"type": "x"})
    with pytest.raises(msgspec.ValidationError):
        options({"type": "vxlan", "vni": 0})


def test_a_module_is_all_that_a_backend_is() -> None:
    for name, backend in BACKENDS.items():
        module = name.replace("-", "_")
        assert getattr(backends, module) is backend
        assert backend.Options().type == name
