"""Requests: what runtimes really send is understood, and every wrong field has its code and is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podnet.cni.config import range_sets
from podnet.cni.errors import CniError, Code
from podnet.cni.request import parse, split, version_of
from podnet.network.ipam.ranges import allocate, label
from podnet.network.view import Attachment, Bandwidth, PortMapping
from tests.cni.calls import CONFIG, frame

LATEST = {"cniVersion": "1.1.0"}


def refused(data: bytes) -> tuple[int, str]:
    with pytest.raises(CniError) as error:
        parse(data)
    return error.value.code, error.value.msg


# -- what is understood


def test_the_simplest_add() -> None:
    request = parse(frame())
    assert request.command == "ADD"
    assert request.draft == Attachment("c1", "eth0", "/run/netns/c1", pod="default/web-0")
    assert request.id == ("c1", "eth0")
    assert request.ips == ()
    assert not request.own_netns


def test_everything_a_runtime_can_fill_in() -> None:
    runtime = {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
            {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "0.0.0.0"},
            {"hostPort": 10, "containerPort": 10, "hostIP": "2001:db8:0::1"},
        ],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 2**32 - 1, "egressRate": 5, "egressBurst": 6},
        "ips": ["10.244.1.9/24", "fd00:0::9"],
        "mac": "02:AA:bb:00:00:01",
        "ipRanges": [[{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.8"}]],
        "dns": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]},
        "aliases": {"podnet": ["web"]},
    }
    request = parse(frame({"runtimeConfig": runtime, "mtu": 1400, "attachment": "ptp", "capabilities": {"ips": True}}))
    assert request.draft.ports == (
        PortMapping(8080, 80, "tcp", ""),
        PortMapping(53, 5353, "udp", "192.0.2.1"),
        PortMapping(9, 9, "sctp", ""),
        PortMapping(10, 10, "tcp", "2001:db8::1"),
    )
    assert request.draft.bandwidth == Bandwidth(1000000, 2**32 - 1, 5, 6)
    assert request.ips == ("10.244.1.9", "fd00::9")
    assert (request.draft.mac, request.draft.mtu, request.draft.mode) == ("02:aa:bb:00:00:01", 1400, "ptp")
    assert request.config.runtime_config.dns
    assert request.config.runtime_config.dns.options == ("ndots:5",)


def test_null_is_what_go_writes_for_nothing() -> None:
    runtime = {"portMappings": None, "ips": None, "bandwidth": None, "dns": {"servers": None, "searches": ["a"]}}
    request = parse(frame({"runtimeConfig": runtime, "prevResult": None, "ipam": None, "mtu": None}))
    assert (request.draft.ports, request.ips, request.draft.bandwidth) == ((), (), None)
    assert parse(frame({"runtimeConfig": {"bandwidth": {}}})).draft.bandwidth is None


def test_equal_port_mappings_are_one() -> None:
    port = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    assert parse(frame({"runtimeConfig": {"portMappings": [port, port]}})).draft.ports == (PortMapping(8080, 80),)


@pytest.mark.parametrize(
    ("env", "config", "mac"),
    [
        ("MAC=02:00:00:00:00:01", {}, "02:00:00:00:00:01"),
        ("MAC=02:00:00:00:00:01", {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "02:00:00:00:00:02"),
        (
            "MAC=02:00:00:00:00:01",
            {"args": {"cni": {"mac": "02:00:00:00:00:02"}}, "runtimeConfig": {"mac": "02:00:00:00:00:03"}},
            "02:00:00:00:00:03",
        ),
    ],
)
def test_the_last_mac_wins(env: str, config: dict[str, Any], mac: str) -> None:
    assert parse(frame(config, ARGS=env)).draft.mac == mac


def test_addresses_asked_for_in_every_place() -> None:
    config = {"args": {"cni": {"ips": ["10.0.0.2"], "labels": [{"key": "a", "value": "b"}]}, "other": 1}}
    request = parse(frame(config | {"runtimeConfig": {"ips": ["10.0.0.3/24"]}}, ARGS="IP=10.0.0.1"))
    assert request.ips == ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def test_del_without_namespace() -> None:
    for env in ({"NETNS": ""}, {"NETNS": None}):
        assert parse(frame(COMMAND="DEL", **env)).draft.netns == ""


def test_del_works_however_wrong_the_rest_has_become() -> None:
    wrong = {"ipam": {"subnet": 7}, "runtimeConfig": [], "prevResult": "x", "mtu": -1}
    assert parse(frame(wrong, COMMAND="DEL")).id == ("c1", "eth0")


def test_gc_and_status_are_about_no_container() -> None:
    valid = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1", "more": 1}]
    request = parse(frame(LATEST | {"cni.dev/valid-attachments": valid, "ipam": 5}, COMMAND="GC"))
    assert request.config.valid
    assert [(each.container_id, each.ifname) for each in request.config.valid] == [("a", "eth0"), ("b", "net1")]
    assert parse(frame(LATEST, COMMAND="GC")).config.valid is None
    assert parse(frame(LATEST | {"runtimeConfig": 5}, COMMAND="STATUS")).id == ("", "")


def test_version_needs_nothing() -> None:
    assert parse(b"CNI_COMMAND=VERSION\0\0").command == "VERSION"
    assert parse(b"CNI_COMMAND=VERSION\0\0{}").command == "VERSION"


@pytest.mark.parametrize(
    "netns",
    [
        "/proc/4194304/ns/net",
        "/run/netns/cni-5f4dcc3b-5aa7-65d6",
        "/var/run/docker/netns/1-ab",
        "/a..b/...",
        "/run/x@y",
    ],
)
def test_namespaces_of_real_runtimes(netns: str) -> None:
    assert parse(frame(NETNS=netns)).draft.netns == netns


@pytest.mark.parametrize("ifname", ["eth0", "net1", "eth0.100", "a" * 15, "_x", "vethA-b"])
def test_names_of_interfaces(ifname: str) -> None:
    assert parse(frame(IFNAME=ifname)).draft.ifname == ifname


@pytest.mark.parametrize(
    ("args", "pod"),
    [
        ("", ""),
        ("IgnoreUnknown=1;K8S_POD_NAME=web", "web"),  # podman
        ("IgnoreUnknown=true;FOO=bar;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", "a/b"),
        ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=0f;K8S_POD_UID=1", "a/b"),
        (";K8S_POD_NAME=;", ""),
    ],
)
def test_cni_args(args: str, pod: str) -> None:
    assert parse(frame(ARGS=args)).draft.pod == pod


def test_override() -> None:
    assert parse(frame(NETNS_OVERRIDE="1")).own_netns
    assert parse(frame(NETNS_OVERRIDE="TRUE")).own_netns
    assert not parse(frame(NETNS_OVERRIDE="0")).own_netns


def test_the_frame() -> None:
    assert split(b"A=\0\0"[:0] + b"CNI_IFNAME=\0CNI_ARGS=a=b\0\0x\0\0y") == (
        {"CNI_IFNAME": "", "CNI_ARGS": "a=b"},
        b"x\0\0y",
    )
    assert split(b"CNI_NETNS=\0\0rest") == ({"CNI_NETNS": ""}, b"rest")
    assert split(b"\0rest") == ({}, b"rest")


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (frame(), "1.0.0"),
        (frame({"cniVersion": "0.3.1"}), "0.3.1"),
        (frame({"cniVersion": 3}), ""),
        (frame(b"[]"), ""),
        (frame(b"{"), ""),
        (frame(b"[" * 100000), ""),
        (b"", ""),
        (b"CNI_COMMAND=ADD", ""),
    ],
)
def test_the_version_for_errors(data: bytes, version: str) -> None:
    assert version_of(data) == version


# -- where addresses come from


def labels(config: dict[str, Any], cidrs: tuple[str, ...] = ("10.244.1.0/24", "fd00:1::/64")) -> list[str]:
    return [label(each) for each in range_sets(parse(frame(config)).config, cidrs)]


def test_ranges_of_the_node_of_the_configuration_and_of_the_runtime() -> None:
    assert labels({}) == ["10.244.1.0/24", "fd00:1::/64"]
    assert labels({"ipam": {}}) == ["10.244.1.0/24", "fd00:1::/64"]
    assert labels({"ipam": {"type": "host-local", "subnet": "10.244.1.0/25"}}) == ["10.244.1.0/25"]
    ipam = {"subnet": "10.244.1.0/25", "rangeStart": "10.244.1.5", "ranges": [[{"subnet": "fd00:1::/112"}]]}
    assert labels({"ipam": ipam}) == ["10.244.1.0/25[10.244.1.5-10.244.1.126]", "fd00:1::/112"]
    runtime = {"ipRanges": [[{"subnet": "10.244.1.64/26"}, {"subnet": "10.244.1.128/26"}]]}
    assert labels({"ipam": ipam, "runtimeConfig": runtime}) == ["10.244.1.64/26,10.244.1.128/26"]


def test_configured_ranges_lie_in_the_node() -> None:
    sets = range_sets(parse(frame({"ipam": {"subnet": "10.244.1.128/25"}})).config, ["10.244.1.0/24"])
    assert allocate(sets, set(), {}) == ("10.244.1.130/24",)


@pytest.mark.parametrize(
    ("ipam", "part"),
    [
        ({"subnet": "10.99.0.0/24"}, "not part of this node's own pod range"),
        ({"subnet": "10.244.1.0/31"}, "too small"),
        ({"ranges": [[]]}, "a range set holds no range"),
        ({"ranges": [[{"subnet": "10.244.1.0/25"}, {"subnet": "10.244.1.0/26"}]]}, "overlap"),
        ({"subnet": "10.244.1.0/25", "ranges": [[{"subnet": "10.244.1.128/25"}]]}, "one address per family"),
        ({"subnet": "10.244.1.0/24", "gateway": "10.244.1.9"}, "can't be"),
    ],
)
def test_ranges_that_can_not_be(ipam: dict[str, Any], part: str) -> None:
    with pytest.raises(CniError) as error:
        labels({"ipam": ipam})
    assert error.value.code == Code.CONFIG
    assert part in error.value.msg


# -- what is refused


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"COMMAND": None}, "CNI_COMMAND"),
        ({"COMMAND": "add"}, "CNI_COMMAND"),
        ({"COMMAND": "UPDATE"}, "CNI_COMMAND"),
        ({"CONTAINERID": None}, "CNI_CONTAINERID is missing"),
        ({"CONTAINERID": ""}, "CNI_CONTAINERID is missing"),
        ({"CONTAINERID": "../x"}, "CNI_CONTAINERID"),
        ({"CONTAINERID": "-x"}, "CNI_CONTAINERID"),
        ({"CONTAINERID": "a b"}, "CNI_CONTAINERID"),
        ({"CONTAINERID": "a/b"}, "CNI_CONTAINERID"),
        ({"CONTAINERID": "a;b"}, "CNI_CONTAINERID"),
        ({"CONTAINERID": "x" * 256}, "CNI_CONTAINERID"),
        ({"IFNAME": None}, "CNI_IFNAME is missing"),
        ({"IFNAME": "a" * 16}, "CNI_IFNAME"),
        ({"IFNAME": "."}, "CNI_IFNAME"),
        ({"IFNAME": ".."}, "CNI_IFNAME"),
        ({"IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"IFNAME": "a:b"}, "CNI_IFNAME"),
        ({"IFNAME": "$(id)"}, "CNI_IFNAME"),
        ({"IFNAME": "a;id"}, "CNI_IFNAME"),
        ({"IFNAME": "a|id"}, "CNI_IFNAME"),
        ({"IFNAME": "`id`"}, "CNI_IFNAME"),
        ({"IFNAME": "-rf"}, "CNI_IFNAME"),
        ({"IFNAME": "lo"}, "CNI_IFNAME"),
        ({"IFNAME": "all"}, "CNI_IFNAME"),
        ({"IFNAME": "default"}, "CNI_IFNAME"),
        ({"NETNS": None}, "CNI_NETNS is missing"),
        ({"NETNS": ""}, "CNI_NETNS is missing"),
        ({"NETNS": "run/netns/a"}, "CNI_NETNS"),
        ({"NETNS": "/run/../etc"}, "CNI_NETNS"),
        ({"NETNS": "/run/netns/.."}, "CNI_NETNS"),
        ({"NETNS": "/run/./netns"}, "CNI_NETNS"),
        ({"NETNS": "/run//netns"}, "CNI_NETNS"),
        ({"NETNS": "/run/netns/"}, "CNI_NETNS"),
        ({"NETNS": "/run/a b"}, "CNI_NETNS"),
        ({"NETNS": "/run/$x"}, "CNI_NETNS"),
        ({"NETNS": "/x" * 65}, "CNI_NETNS"),
        ({"ARGS": "FOO=bar"}, "unknown FOO; IgnoreUnknown=1"),
        ({"ARGS": "FOO=bar;IgnoreUnknown=0"}, "unknown FOO"),
        ({"ARGS": "IgnoreUnknown=1;FOO"}, "'FOO' is not KEY=VALUE"),
        ({"ARGS": "=x"}, "is not KEY=VALUE"),
        ({"ARGS": "a b=c;IgnoreUnknown=1"}, "is not KEY=VALUE"),
        ({"ARGS": "FOO=1;IgnoreUnknown=yes"}, "IgnoreUnknown must be 1 or 0"),
        ({"ARGS": "K8S_POD_NAME=a/b"}, "K8S_POD_NAME"),
        ({"ARGS": "K8S_POD_NAMESPACE=$(x)"}, "K8S_POD_NAMESPACE"),
        ({"ARGS": "K8S_POD_UID=a b"}, "K8S_POD_UID"),
        ({"NETNS_OVERRIDE": "yes"}, "CNI_NETNS_OVERRIDE"),
    ],
)
def test_variables(env: dict[str, str | None], names: str) -> None:
    code, message = refused(frame(**env))
    assert code == Code.ENVIRONMENT
    assert names in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"CNI_COMMAND=ADD",
        b"CNI_COMMAND=ADD\0",
        b"\0{}",
        b"PATH=/bin\0CNI_COMMAND=ADD\0\0{}",
        b"CNI_COMMAND=ADD\0CNI_COMMAND=DEL\0\0{}",
        b"CNI_COMMAND=ADD\0CNI_IFNAME=\xff\0\0{}"[:24] + b"\n\0\0{}",
        b"nothing\0\0{}",
    ],
)
def test_frames(data: bytes) -> None:
    assert refused(data)[0] == Code.ENVIRONMENT


@pytest.mark.parametrize(
    "stdin", [b"", b"{", b"nul", b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000, b"[]", b"7", b'"x"', b"null"]
)
def test_what_is_no_json_object(stdin: bytes) -> None:
    assert refused(frame(stdin))[0] == Code.DECODE


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "", "x", 1, ["1.0.0"], {}, True])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_versions(version: object, command: str) -> None:
    assert refused(frame({"cniVersion": version}, COMMAND=command))[0] == Code.VERSION


def test_a_configuration_without_version_is_one_of_0_1_0() -> None:
    code, message = refused(frame(json.dumps({"name": "podnet", "type": "podnet-cni"}).encode()))
    assert (code, message) == (Code.VERSION, "cniVersion '0.1.0' is not supported")


@pytest.mark.parametrize(
    ("command", "version", "code"),
    [
        *(("ADD", version, None) for version in ("0.3.1", "0.4.0", "1.0.0", "1.1.0")),
        *(("DEL", version, None) for version in ("0.3.1", "0.4.0", "1.0.0", "1.1.0")),
        ("CHECK", "0.3.1", Code.VERSION),
        ("CHECK", "0.4.0", None),
        ("GC", "1.0.0", Code.VERSION),
        ("GC", "1.1.0", None),
        ("STATUS", "1.0.0", Code.VERSION),
        ("STATUS", "1.1.0", None),
    ],
)
def test_which_version_has_which_command(command: str, version: str, code: int | None) -> None:
    data = frame({"cniVersion": version}, COMMAND=command)
    if code:
        assert refused(data)[0] == code
    else:
        assert parse(data).config.cni_version == version


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": 7}, "name"),
        ({"type": "../../bin/sh"}, "type"),
        ({"type": None}, "type"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"attachment": "macvlan"}, "attachment"),
        ({"ipMasq": "maybe"}, "ipMasq"),
        ({"ipMasq": 1}, "ipMasq"),
        ({"ipam": []}, "ipam"),
        ({"ipam": {"type": "dhcp"}}, "ipam.type"),
        ({"ipam": {"subnet": 10}}, "ipam.subnet"),
        ({"ipam": {"ranges": [{"subnet": "10.0.0.0/24"}]}}, "ipam.ranges"),
        ({"ipam": {"ranges": [[{"rangeStart": "10.0.0.2"}]]}}, "subnet"),
        ({"dns": {"nameservers": ["dns.example"]}}, "dns server"),
        ({"dns": {"search": ["a b"]}}, "dns.search"),
        ({"runtimeConfig": []}, "runtimeConfig"),
        ({"runtimeConfig": {"portMappings": {}}}, "portMappings"),
        ({"runtimeConfig": {"portMappings": [{"containerPort": 80}]}}, "hostPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}}, "hostPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 65536}]}}, "containerPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": "80", "containerPort": 80}]}}, "hostPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}}, "protocol"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "a"}]}}, "portMappings"),
        (
            {"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": n} for n in (1, 2)]}},
            "two ports of the container",
        ),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": 5}}}, "a rate and its burst"),
        ({"runtimeConfig": {"bandwidth": {"egressBurst": 5}}}, "a rate and its burst"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": -5, "ingressBurst": 1}}}, "ingressRate"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": 5, "ingressBurst": 2**35}}}, "ingressBurst"),
        ({"runtimeConfig": {"ips": ["10.0.0.300"]}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": ["10.0.0.3/33"]}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": ["fe80::1%eth0"]}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": [7]}}, "runtimeConfig.ips"),
        ({"args": {"cni": {"ips": ["x"]}}}, "args.cni.ips"),
        ({"args": {"cni": []}}, "args.cni"),
        ({"runtimeConfig": {"mac": "02:00:00:00:00"}}, "mac"),
        ({"runtimeConfig": {"mac": "03:00:00:00:00:01"}}, "mac"),  # a group address
        ({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}, "mac"),
        ({"runtimeConfig": {"mac": "02:00:00:00:00:0g"}}, "mac"),
        ({"runtimeConfig": {"dns": {"servers": ["x"]}}}, "dns server"),
        ({"prevResult": []}, "prevResult"),
        ({"prevResult": {"interfaces": [{"mac": "x"}]}}, "prevResult"),
    ],
)
def test_configurations(config: dict[str, Any], field: str) -> None:
    code, message = refused(frame(config))
    assert code == Code.CONFIG
    assert field in message


@pytest.mark.parametrize(
    ("ipam", "key", "value"),
    [
        ({"routes": [{"dst": "0.0.0.0/0"}]}, "routes", '[{"dst":"0.0.0.0/0"}]'),
        ({"dataDir": "/var/lib/x"}, "dataDir", '"/var/lib/x"'),
        ({"type": "static", "addresses": []}, "addresses", "[]"),
    ],
)
def test_fields_of_ipam_that_podnet_does_not_have(ipam: dict[str, Any], key: str, value: str) -> None:
    ipam.pop("type", None)
    with pytest.raises(CniError) as error:
        parse(frame({"ipam": ipam}))
    assert error.value.code == Code.UNSUPPORTED
    assert key in error.value.msg
    assert error.value.details == f"{key}: {value}"


def test_a_request_for_two_things_at_once_reports_the_first() -> None:
    assert refused(frame(b"{", IFNAME="/"))[0] == Code.ENVIRONMENT


@pytest.mark.parametrize("ip", ["10.0.0.300", "x"])
def test_address_in_args(ip: str) -> None:
    code, message = refused(frame(ARGS=f"IP={ip}"))
    assert code == Code.CONFIG
    assert "CNI_ARGS: IP" in message


def test_unknown_keys_at_the_top_belong_to_others() -> None:
    assert parse(frame({"isGateway": True, "cni.dev/x": 1, "bridge": "cni0"})).config.name == CONFIG["name"]
