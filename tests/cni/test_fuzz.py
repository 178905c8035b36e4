"""Whatever arrives, parsing ends with a request or a CniError: never with another exception, never slowly."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from podnet.cni.config import range_sets
from podnet.cni.errors import CniError
from podnet.cni.request import CONTAINER_ID, IFNAME, NETNS, Request, parse, version_of
from tests.cni.calls import frame

CIDRS = ("10.244.1.0/24", "fd00:1::/64")
COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "X"]
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)

VALID: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "podnet",
    "type": "podnet-cni",
    "mtu": 1400,
    "attachment": "ptp",
    "ipMasq": False,
    "ipam": {
        "type": "podnet",
        "ranges": [[{"subnet": "10.244.1.0/25", "rangeEnd": "10.244.1.9"}], [{"subnet": "fd00:1::/64"}]],
    },
    "dns": {"nameservers": ["10.96.0.10"], "domain": "a.b", "search": ["c"], "options": ["d"]},
    "args": {"cni": {"ips": ["10.244.1.5"], "mac": "02:00:00:00:00:01"}},
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "::"},
            {"hostPort": 81, "containerPort": 80},
        ],
        "bandwidth": {"ingressRate": 1, "ingressBurst": 1, "egressRate": 1, "egressBurst": 1},
        "ips": ["10.244.1.5/24", "fd00:1::7"],
        "mac": "02:00:00:00:00:01",
        "ipRanges": [[{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.2", "gateway": "10.244.1.1"}]],
        "dns": {"servers": ["10.96.0.10"], "searches": ["c"], "options": ["d"]},
    },
    "prevResult": {
        "interfaces": [{"name": "eth0", "mac": "x", "sandbox": "/run/netns/c1", "mtu": 1}],
        "ips": [{"address": "10.244.1.5/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"search": ["x"]},
    },
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
}
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 65536, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308, "", "x", "\n", "\u0000", "\u2028"),
    *("10.244.1.0/24", "10.244.1.1", "10.244.1.255", "0.0.0.0/0", "::/0", "fd00:1::", "fe80::1%eth0", "../..", "$(id)"),
    *(
        "tcp",
        "bridge",
        "1.0.0",
        "podnet",
        "01:00:00:00:00:00",
        "a" * 5000,
        [],
        {},
        [[]],
        [{}],
        [[{}]],
        {"x": 1},
        ["x"],
        [1],
    ),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with every key into it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def mutant(chance: random.Random) -> bytes:
    """The valid configuration after one to four accidents."""
    document = copy.deepcopy(VALID)
    for _ in range(chance.randint(1, 4)):
        container, key = chance.choice(places(document) or [(document, "x")])
        accident = chance.randrange(4)
        if accident == 0:
            del container[key]
        elif accident == 1 and isinstance(container, list):
            container.append(copy.deepcopy(chance.choice(container)))
        elif accident == 2 and isinstance(container, dict):
            container[chance.choice(["more", "ips", "subnet", "", "\u00e9"])] = copy.deepcopy(chance.choice(NASTY))
        else:
            container[key] = copy.deepcopy(chance.choice(NASTY))
    text = json.dumps(document).encode()
    return text if chance.random() < 0.8 else text[: chance.randrange(len(text))]


def outcome(data: bytes) -> Request | CniError:
    """What becomes of a frame; the reply to an error is JSON of the right shape."""
    try:
        request = parse(data)
        if request.command in ("ADD", "STATUS"):
            range_sets(request.config, CIDRS)
    except CniError as error:
        document: dict[str, Any] = json.loads(error.document(version_of(data)))
        assert {"cniVersion", "code", "msg"} <= document.keys()
        assert document["code"] > 0
        assert document["msg"]
        return error
    return request


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
@example(b"CNI_COMMAND=ADD\0" * 3)
@example(b"\0" * 10)
@example(frame(b'"\\ud800"'))
@example(frame(b'{"cniVersion": "1.0.0", "name": "\\udfff"}'))
@example(frame(b'{"mtu": 1e999}'))
@example(frame(b'{"cniVersion": "1.0.0", "mtu": ' + b"9" * 5000 + b"}"))
def test_bytes(data: bytes) -> None:
    outcome(data)


@pytest.mark.parametrize("command", COMMANDS)
def test_configurations(command: str) -> None:
    chance = random.Random(command)
    outcomes = Counter(type(outcome(frame(mutant(chance), COMMAND=command))) for _ in range(1500))
    assert outcomes[CniError] > 300 or command == "VERSION"


def test_the_valid_configuration_is_valid() -> None:
    for command in COMMANDS[:-1]:
        assert isinstance(outcome(frame(VALID, COMMAND=command)), Request)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_valid_request_cut_or_changed_in_one_place(data: st.DataObject) -> None:
    config = {"runtimeConfig": {"ips": ["10.244.1.9"], "portMappings": [{"hostPort": 1, "containerPort": 2}]}}
    whole = bytearray(frame(config))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        outcome(bytes(whole[:at]))
    else:
        whole[at] = data.draw(st.integers(0, 255))
        outcome(bytes(whole))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["CONTAINERID", "NETNS", "IFNAME", "ARGS", "NETNS_OVERRIDE"]), TEXT)
@example("NETNS", "/" * 3000)
@example("NETNS", "/a" * 2048)
@example("ARGS", "IP=" + "1." * 600)
@example("ARGS", ";" * 4096)
def test_variables(name: str, value: str) -> None:
    found = outcome(frame(**{name: value}))
    if isinstance(found, Request):
        assert CONTAINER_ID.fullmatch(found.draft.container_id)
        assert IFNAME.fullmatch(found.draft.ifname)
        assert NETNS.fullmatch(found.draft.netns)
        assert not set(found.draft.ifname + found.draft.container_id + found.draft.netns) & set(";|&$`'\"\\<>()* \t\n")
        assert "/../" not in found.draft.netns + "/"
