"""The ConfigMap's keys: what they mean, that what is wrong is named, and that the last good value stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.dns.settings import KEYS, Fault, Server, Settings, read, resolvers, server

GOOD = {
    "stubDomains": '{"Acme.Local.": ["10.1.2.3", "10.1.2.4:5353"], "corp": ["[2001:db8::1]:53"]}',
    "upstreamNameservers": '["8.8.8.8", "[2001:4860::8888]:5300", "2001:4860::8888"]',
}
MEANT = Settings(
    {"acme.local": (Server("10.1.2.3"), Server("10.1.2.4", 5353)), "corp": (Server("2001:db8::1"),)},
    (Server("8.8.8.8"), Server("2001:4860::8888", 5300), Server("2001:4860::8888")),
)

ADDRESSES = st.ip_addresses().filter(lambda ip: not (ip.is_unspecified or ip.is_multicast)).map(str)
SERVERS = st.builds(Server, ADDRESSES, st.integers(1, 65535))
DOMAINS = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,5}[a-z0-9])?(\.[a-z]{1,4}){0,3}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | SERVERS.map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | DOMAINS, inner, max_size=3),
    max_leaves=6,
)


def test_what_the_keys_mean() -> None:
    assert read(GOOD) == (MEANT, ())


def test_nothing_is_nothing() -> None:
    assert read({}, MEANT) == (Settings(), ())
    assert read({"stubDomains": " \n", "upstreamNameservers": ""}, MEANT) == (Settings(), ())
    assert read({"stubDomains": "{}", "upstreamNameservers": "[]", "federations": "any"}, MEANT) == (Settings(), ())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stubDomains", "{", "is not JSON"),
        ("stubDomains", '["10.0.0.1"]', "is no map"),
        ("stubDomains", '{"acme": "10.0.0.1"}', "'acme': write servers as a list"),
        ("stubDomains", '{"acme": [10]}', "'acme': write servers as a list"),
        ("stubDomains", '{"acme": []}', "'acme' has no server"),
        ("stubDomains", '{"acme": ["ns.acme.local"]}', "'ns.acme.local' is no address"),
        ("stubDomains", '{"acme": ["10.0.0.1:0"]}', "no port between 1 and 65535"),
        ("stubDomains", '{"acme": ["10.0.0.1:65536"]}', "no port between 1 and 65535"),
        ("stubDomains", '{"acme": ["10.0.0.1:dns"]}', "is no address"),
        ("stubDomains", '{"acme": ["[10.0.0.1]:53"]}', "is no server's address"),
        ("stubDomains", '{"acme": ["0.0.0.0"]}', "is no server's address"),
        ("stubDomains", '{"acme": ["fe80::1%eth0"]}', "is no server's address"),
        ("stubDomains", '{"acme": ["224.0.0.251"]}', "is no server's address"),
        ("stubDomains", '{"-acme": ["10.0.0.1"]}', "'-acme' is no DNS name"),
        ("stubDomains", '{"a..b": ["10.0.0.1"]}', "'a..b' is no DNS name"),
        ("stubDomains", '{"": ["10.0.0.1"]}', "'' is no DNS name"),
        ("stubDomains", '{".": ["10.0.0.1"]}', "'.' is no DNS name"),
        ("stubDomains", '{"a/b": ["10.0.0.1"]}', "'a/b' is no DNS name"),
        ("stubDomains", json.dumps({"a" * 64: ["10.0.0.1"]}), "is no DNS name"),
        ("stubDomains", json.dumps({".".join(["a" * 63] * 4): ["10.0.0.1"]}), "is no DNS name"),
        ("stubDomains", '{"Cluster.local": ["10.0.0.1"]}', "is the cluster's own domain"),
        ("stubDomains", '{"a.b": ["10.0.0.1"], "A.b.": ["10.0.0.2"]}', "'A.b.' is there twice"),
        ("upstreamNameservers", '{"a": "b"}', "is no list"),
        ("upstreamNameservers", '["dns.google"]', "'dns.google' is no address"),
        ("upstreamNameservers", '["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]', "has 4 servers: 3 at most"),
        ("upstreamNameservers", "[" * 20000, "is not JSON"),
        ("upstreamNameservers", " " * (1 << 20) + "[]", "has more than"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_its_last_value_stays(key: str, value: str, said: str) -> None:
    found, faults = read(GOOD | {key: value}, MEANT)
    assert found == MEANT
    assert [fault.key for fault in faults] == [key]
    assert said in faults[0].message


def test_the_other_key_takes_effect_all_the_same() -> None:
    found, faults = read({"stubDomains": "no", "upstreamNameservers": '["9.9.9.9"]'}, MEANT)
    assert found == Settings(MEANT.stubs, (Server("9.9.9.9"),))
    assert len(faults) == 1


def test_a_key_that_nobody_knows_is_told() -> None:
    (fault,) = read(GOOD | {"stubDomain": "{}"})[1]
    assert fault == Fault("stubDomain", "is no key that is known: known are stubDomains, upstreamNameservers")


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(DOMAINS, st.lists(SERVERS, min_size=1, max_size=3, unique=True), max_size=3))
def test_every_map_of_names_and_addresses_is_taken(stubs: dict[str, list[Server]]) -> None:
    written = json.dumps({domain: list(map(str, servers)) for domain, servers in stubs.items()})
    found, faults = read({"stubDomains": written}, domain="other.local")
    assert faults == ()
    assert found.stubs == {domain: tuple(servers) for domain, servers in stubs.items()}


@settings(max_examples=30, deadline=None)
@given(SERVERS)
def test_a_server_is_read_as_it_is_shown(one: Server) -> None:
    assert server(str(one)) == one


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), st.text(max_size=8) | JSON.map(json.dumps)))
def test_whatever_is_written_the_outcome_is_the_new_or_the_last_good(data: dict[str, str]) -> None:
    found, faults = read(data, MEANT)
    wrong = {fault.key for fault in faults}
    assert ("stubDomains" in wrong) <= (found.stubs == MEANT.stubs)
    assert ("upstreamNameservers" in wrong) <= (found.upstreams == MEANT.upstreams)
    assert all("\n" not in fault.message for fault in faults)
    assert read(data, found)[0] == found


def test_the_servers_of_a_resolv_conf() -> None:
    text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\nnameserver\t2001:db8::1 x\nnameserver no\nnameserver"
    assert resolvers(text) == (Server("10.0.0.1"), Server("2001:db8::1"))
