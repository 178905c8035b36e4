"""The network model as pairs, and the judgement on what packets did."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podnet.network.reach import (
    Endpoint,
    Measured,
    Pair,
    Seen,
    failure,
    judge,
    localhosts,
    pairs,
    pods_of,
    report,
    unopened,
)
from podnet.network.view import Attachment


def node(name: str, *addresses: str) -> Endpoint:
    return Endpoint(name, name, "node", name, f"/ns/{name}", addresses)


def pod(name: str, where: str, *addresses: str) -> Endpoint:
    return Endpoint(f"{name}/eth0", f"default/{name}", "pod", where, f"/ns/{name}", addresses, "eth0")


N1, N2 = node("n1", "10.0.0.1", "fd::1"), node("n2", "10.0.0.2")
A, B, C = pod("a", "n1", "10.1.0.2", "fd01::2"), pod("b", "n1", "10.1.0.3"), pod("c", "n2", "10.1.1.2", "fd02::2")
EVERYONE = [N1, N2, A, B, C]


def good(pair: Pair, probe: str = "tcp", client: str = "") -> Measured:
    """What a healthy network shows."""
    client = client or pair.source.addresses[0]
    return Measured(probe, (client, 40000), Seen(pair.target.key, client, 40000, pair.address))


def between(source: Endpoint, target: Endpoint) -> Pair:
    return Pair(source, target, target.addresses[0])


# -- which pairs


def test_every_ordered_pair_but_node_to_node() -> None:
    found = {(pair.source.name, pair.target.name, pair.address) for pair in pairs(EVERYONE)}
    assert ("n1", "default/c", "10.1.1.2") in found
    assert ("default/c", "n1", "fd::1") in found
    assert not {(source, target) for source, target, _ in found} & {("n1", "n2"), ("n2", "n1"), ("n1", "n1")}
    assert not any(source == target for source, target, _ in found)
    assert len({(source, target) for source, target, _ in found}) == 5 * 4 - 2


def test_only_families_that_the_source_has() -> None:
    assert [pair.address for pair in pairs([B, C])] == ["10.1.1.2", "10.1.0.3"]
    assert [pair.address for pair in pairs([A, C])] == ["10.1.1.2", "fd02::2", "10.1.0.2", "fd01::2"]


@given(st.integers(0, 6), st.integers(0, 4))
def test_number_of_pairs(pods: int, nodes: int) -> None:
    there = [pod(f"p{i}", f"n{i % 2}", f"10.1.0.{i + 2}") for i in range(pods)]
    there += [node(f"n{i}", f"10.0.0.{i + 1}") for i in range(nodes)]
    assert len(list(pairs(there))) == pods * (pods - 1) + 2 * pods * nodes


@pytest.mark.parametrize(
    ("source", "target", "relation"),
    [
        (A, B, "pod to pod, same node"),
        (A, C, "pod to pod, other node"),
        (N2, A, "node to pod, other node"),
        (A, N1, "pod to node, same node"),
        (A, A, "within the pod"),
    ],
)
def test_relation(source: Endpoint, target: Endpoint, relation: str) -> None:
    assert between(source, target).relation == relation


# -- from attachments


def test_interfaces_in_one_namespace_are_one_endpoint() -> None:
    attachments = [
        Attachment("c1", "eth0", "/ns/x", addresses=("10.1.0.9/24", "fd01::9/64"), pod="ns/x"),
        Attachment("c1", "net1", "/ns/x", addresses=("10.1.0.10/24",), pod="ns/x"),
        Attachment("c2", "eth0", "/ns/y", addresses=("10.1.0.11/24",)),
    ]
    one, other = pods_of("n1", attachments)
    assert (one.name, one.addresses, one.device) == ("ns/x", ("10.1.0.9", "fd01::9", "10.1.0.10"), "eth0")
    assert (one.kind, one.node, one.netns) == ("pod", "n1", "/ns/x")
    assert (other.name, other.key) == ("c2", "c2/eth0")


def test_a_pod_made_anew_is_another_endpoint() -> None:
    before, after = (pods_of("n1", [Attachment(cid, "eth0", "/ns/x", pod="ns/x")])[0] for cid in ("c1", "c2"))
    assert before.name == after.name
    assert before.key != after.key


def test_localhost_is_tried_from_each_container_or_else_from_the_pod() -> None:
    assert localhosts(A) == (("", "/ns/a"),)
    containers = (("web", "/proc/1/ns/net"), ("side", "/proc/2/ns/net"))
    assert localhosts(msgspec.structs.replace(A, containers=containers)) == containers


# -- judgement


@pytest.mark.parametrize("pair", list(pairs(EVERYONE)), ids=lambda pair: "-".join(pair.key))
def test_a_healthy_network_passes(pair: Pair) -> None:
    assert judge(pair, good(pair, client=pair.source.addresses[-1])) is None


def test_a_node_may_use_any_address_of_its_own() -> None:
    assert judge(between(N1, C), good(between(N1, C), client="10.1.0.1")) is None


def wrong(pair: Pair, measured: Measured) -> tuple[str, str]:
    found = judge(pair, measured)
    assert found is not None
    assert (found.source, found.target, found.address) == (pair.source.name, pair.target.name, pair.address)
    assert (found.probe, found.relation) == (measured.probe, pair.relation)
    return found.reason, found.look


def test_masquerade_is_seen() -> None:
    pair = between(A, C)
    seen = Measured("tcp", ("10.1.0.2", 40000), Seen("c/eth0", "10.0.0.1", 40000, "10.1.1.2"))
    reason, look = wrong(pair, seen)
    assert reason == "the source is translated: 10.1.0.2 port 40000 arrives as 10.0.0.1 port 40000"
    assert look == "nft list ruleset and iptables-save on n1: a rule with masquerade or snat that matches 10.1.0.2"


def test_a_changed_port_is_translation_too() -> None:
    pair = between(N1, C)
    seen = Measured("udp", ("10.0.0.1", 40000), Seen("c/eth0", "10.0.0.1", 1024, "10.1.1.2"))
    assert "port 40000 arrives as 10.0.0.1 port 1024" in wrong(pair, seen)[0]


def test_another_one_answers() -> None:
    pair = between(A, C)
    seen = Measured("tcp", ("10.1.0.2", 1), Seen("b/eth0", "10.1.0.2", 1, "10.1.0.3"))
    assert wrong(pair, seen)[0] == "the destination is translated: 10.1.0.3 answered"


def test_a_pod_with_a_foreign_address() -> None:
    pair = between(A, C)
    seen = Measured("tcp", ("10.9.9.9", 1), Seen("c/eth0", "10.9.9.9", 1, "10.1.1.2"))
    assert wrong(pair, seen) == (
        "the pod sends from 10.9.9.9, not from 10.1.0.2 or fd01::2",
        "podnet plan --node n1 --diff",
    )


@pytest.mark.parametrize(
    ("error", "reason", "look"),
    [
        ("timeout", "no answer within 1 s from 10.1.1.2", "podnet plan --node n1 --diff, the same for n2"),
        ("ENETUNREACH", "network unreachable from n1 to 10.1.1.2", "podnet plan --node n1 --diff"),
        ("EHOSTUNREACH", "host unreachable from n1 to 10.1.1.2", "podnet plan --node n1 --diff"),
        ("ECONNREFUSED", "connection refused on the way to 10.1.1.2", "a rule that rejects"),
        ("EPERM", "forbidden by a local firewall on the way to 10.1.1.2", "a rule that rejects"),
        ("EWHATEVER", "EWHATEVER from 10.1.1.2", "podnet plan"),
    ],
)
def test_errors_in_words(error: str, reason: str, look: str) -> None:
    found = wrong(between(A, C), Measured("tcp", ("10.1.0.2", 1), None, error))
    assert found[0] == reason
    assert look in found[1]


def test_a_lost_answer_is_told_from_a_lost_request() -> None:
    seen = Seen("c/eth0", "10.1.0.2", 1, "10.1.1.2")
    reason, look = wrong(between(A, C), Measured("udp", ("10.1.0.2", 1), seen, "timeout"))
    assert reason == "the request arrived, its answer did not"
    assert look.startswith("podnet plan --node n2 --diff, the same for n1")


def test_same_node_looks_at_one_node() -> None:
    assert "the same for" not in wrong(between(A, B), Measured("udp", ("10.1.0.2", 1), None, "timeout"))[1]


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (Measured("mtu", None, None, "timeout", 1450), "MTU black hole: 1450 bytes, the MTU of both ends, vanish"),
        (Measured("mtu", None, None, "EMSGSIZE", 1450), "a packet of 1450 bytes, the MTU of both ends, is too big"),
        (Measured("mtu", None, None, "timeout", 1450, 1400), "is too big, the path takes 1400"),
        (Measured("mtu", None, None, "timeout", 1450, 1450), "MTU black hole"),
        (Measured("mtu", None, Seen("", "", 0, ""), "timeout", 1450), "the answer of 1450 bytes did not come back"),
    ],
)
def test_size(measured: Measured, reason: str) -> None:
    assert reason in wrong(between(A, C), measured)[0]


def test_localhost() -> None:
    pair = Pair(A, A, "127.0.0.1")
    assert judge(pair, Measured("localhost", ("127.0.0.1", 5), Seen(A.key, "127.0.0.1", 5, "127.0.0.1"))) is None
    reason, look = wrong(pair, Measured("localhost", None, None, "ECONNREFUSED"))
    assert reason == "connection refused at the pod's own localhost"
    assert look == "nsenter --net=/ns/a ip addr show lo"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("EADDRNOTAVAIL", "pod default/a does not carry its address 10.1.0.2 fd01::2"),
        ("NoNamespace", "the namespace /ns/a does not exist"),
        ("EMFILE", "no socket can be opened in its namespace: EMFILE"),
    ],
)
def test_endpoints_that_cannot_be_opened(error: str, reason: str) -> None:
    found = unopened(A, error)
    assert (found.reason, found.probe, found.source, found.target) == (reason, "open", "default/a", "default/a")


# -- the sum


def test_report_counts_probes_and_marks_cells() -> None:
    ab, ac = between(A, B), between(A, C)
    bad = failure(ac, "udp", "why", "look")
    found = report([A, B, C], [(ab, None), (ac, None), (ac, bad), (ac, None)], 0.5)
    assert (found.ok, found.probes, found.failed, found.seconds) == (False, 4, (bad,), 0.5)
    assert found.cells == {(A.key, B.key): True, (A.key, C.key): False}


def test_report_of_nothing_wrong() -> None:
    assert report([A, B], [(between(A, B), None)]).ok


def test_failures_are_spelt_for_programs() -> None:
    plain = msgspec.to_builtins(failure(between(A, C), "tcp", "why", "what"))
    assert plain == {
        "from": "default/a",
        "to": "default/c",
        "address": "10.1.1.2",
        "relation": "pod to pod, other node",
        "probe": "tcp",
        "reason": "why",
        "look": "what",
    }
