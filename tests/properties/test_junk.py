"""No object of the cluster, however wrong, makes the core raise: it is left out, and named.

The texts are drawn from what people really write, cut and spliced, since plain random characters rarely get past the
first check. The node itself, its peers and the configuration are all wrong at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from podnet.network.backends import parse_scheme, validate
from podnet.network.desired import desired, node_state
from podnet.network.migration import published
from podnet.network.view import is_v6
from podnet.network.viewing import mistakes, node_info, problems, view
from podnet.objects.cluster import Cluster
from podnet.objects.core import Node, NodeAddress, NodeSpec, NodeStatus
from podnet.objects.meta import ObjectMeta
from podnet.objects.network import NetworkConfig, NetworkSpec, NodeMask
from podnet.state.text import listing
from tests.worlds import attachment, cluster, configs, facts

PIECES = [
    "10.244.1.0/24", "10.244.0.0/16", "10.244.1.128/25", "192.168.77.12", "fd00:10:244:2::/64", "fd77::12", "::",
    "0.0.0.0/0", "::/0", "10.244.3.1/24", "127.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "10.0.0.256", "1", "/", ":",
    "%", "@", ",", " ", "", "é", "\x00", "}", "vxlan", "host-gw", "vni=5", "port=4789", "type=host-gw", "-1", "9" * 20,
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(PIECES), st.lists(st.sampled_from(PIECES), max_size=4).map("".join), st.text(max_size=9)
)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
WORDS = st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map(":".join), max_size=3).map(",".join)
ADDRESSES = st.lists(st.builds(NodeAddress, st.sampled_from(["InternalIP", "Hostname", ""]), TEXT), max_size=3).map(
    tuple
)
ANNOTATIONS = st.fixed_dictionaries({}, optional={"podnet.dev/accepts": WORDS, "podnet.dev/sends": WORDS | TEXT})
SETTING = st.sampled_from([0, 1, -1, 1 << 80, True, False]) | TEXT
OPTIONS = st.dictionaries(st.sampled_from(["type", "vni", "port", "directRouting", "mtu", ""]), SETTING, max_size=3)

NODES = st.builds(
    lambda name, cidr, cidrs, addresses, annotations: Node(
        metadata=ObjectMeta(name=name, annotations=annotations),
        spec=NodeSpec(pod_cidr=cidr, pod_cidrs=cidrs),
        status=NodeStatus(addresses=addresses),
    ),
    st.sampled_from(["n1", "n2", "n3", "n4"]),
    TEXT,
    TEXTS,
    ADDRESSES,
    ANNOTATIONS,
)
LIKELY = st.one_of(st.just({"type": "vxlan"}), st.just({"type": "host-gw"}), OPTIONS)
CONFIGS = st.builds(
    lambda **spec: NetworkConfig(metadata=ObjectMeta(name="default"), spec=NetworkSpec(**spec)),
    pod_cidrs=st.just(("10.244.0.0/16",)) | TEXTS,
    node_mask=st.builds(NodeMask, st.integers(), st.integers()),
    backend=LIKELY,
    attachment=st.sampled_from(["bridge", "ptp"]) | TEXT,
    masquerade=st.booleans(),
    mtu=st.sampled_from([0, 1400]) | st.integers(),
)
CLUSTERS = st.builds(cluster, st.lists(NODES, min_size=1, max_size=4), configs() | CONFIGS)


def node(name: str, cidr: str, address: str) -> Node:
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(pod_cidrs=(cidr,)),
        status=NodeStatus(addresses=(NodeAddress("InternalIP", address),)),
    )


TWINS = cluster(
    [node(f"n{i}", "10.244.1.0/24", "192.168.77.11") for i in (1, 2, 3)], NetworkConfig(ObjectMeta("default"))
)
TINY = cluster([node("n1", "10.244.1.7/32", "192.168.77.11")], NetworkConfig(ObjectMeta("default")))


@settings(max_examples=60, deadline=None)
@example(TWINS)
@example(TINY)
@given(CLUSTERS)
def test_the_core_never_raises(world: Cluster) -> None:
    named = {(each.object, each.field) for each in problems(world)}
    config = world.network
    assert config is not None
    wrong = list(mistakes(config.spec))
    assert {("NetworkConfig/default", field) for field, _ in wrong} <= named
    for name in ("n1", "n2"):
        seen = view(world, facts(int(name[1])), (attachment(1, 1, True), attachment(1, 2, True, mode="ptp")))
        if wrong or name not in {key[1] for key in world.nodes}:
            assert seen is None
            continue
        assert seen is not None
        listing(node_state(desired(seen)))
        accepts, sends = published(seen)
        assert accepts
        assert sends


BYSTANDER = node("n9", "10.244.9.0/24", "192.168.77.19")


@settings(max_examples=60, deadline=None)
@given(CLUSTERS)
def test_what_is_not_named_is_honoured(world: Cluster) -> None:
    nodes = {**world.nodes, BYSTANDER.key: BYSTANDER}
    known = Cluster(nodes=nodes, networkconfigs=TWINS.networkconfigs)
    named = {each.object for each in problems(known)}
    seen = view(known, facts(9))
    assert seen is not None
    for (_, name), each in world.nodes.items():
        if f"Node/{name}" not in named:
            info = node_info(each)
            assert info in seen.peers
            assert families(info.pod_cidrs) == families(each.spec.pod_cidrs or (each.spec.pod_cidr,))
            internal = (entry.address for entry in each.status.addresses if entry.type == "InternalIP")
            assert families(info.addresses) == families(internal)


def families(texts: Iterable[str]) -> set[bool]:
    return {is_v6(text) for text in texts}


@given(OPTIONS)
def test_options_are_judged_and_never_raise(backend: dict[str, str | int | bool]) -> None:
    for field, message in validate(backend):
        assert isinstance(field, str)
        assert message


@given(st.lists(st.sampled_from(PIECES), max_size=5).map(":".join) | TEXT)
def test_words_of_peers_are_read_or_not(word: str) -> None:
    parsed = parse_scheme(word)
    assert parsed is None or validate(parsed) == []
