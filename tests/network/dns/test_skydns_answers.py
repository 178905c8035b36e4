"""What SkyDNS says; the cases named so are the examples of its README."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.dns.skydns_answers import MX, Forward, Options, Said, Wanted, answer, message
from podnet.network.dns.skydns_names import MOST, Names
from podnet.network.dns.skydns_records import records
from podnet.wire import dns
from tests.network.dns.names import alias, cluster, endpoint, piece, pod, service

SKY = Options(domain=dns.name("skydns.local"), hostmaster=dns.name("hostmaster.skydns.local"))
CLUSTER = Options(domain=dns.name("cluster.local"), hostmaster=dns.name("hostmaster.cluster.local"))
EAST = "/skydns/local/skydns/east"


def names(**entries: Any) -> Names:
    """By the path below /skydns/local/skydns, with __ for a slash."""
    return Names({f"/skydns/local/skydns/{key.replace('__', '/')}": json.dumps(each) for key, each in entries.items()})


README = names(
    east__production__rails__1={"host": "service1.example.com", "port": 8080},
    west__production__rails__2={"host": "service2.example.com", "port": 8080},
    east__staging__rails__4={"host": "10.0.1.125", "port": 8080},
    east__staging__rails__6={"host": "2003::8:1", "port": 8080},
)


def query(name: str, type_: int = dns.A, cls: int = dns.IN) -> dns.Query:
    return dns.read_query(dns.question(1, dns.name(name), type_, cls=cls))


def ask(tree: Names, name: str, type_: int = dns.A, options: Options = SKY, turn: int = 0, **others: Any) -> Said:
    found = answer(tree, options, query(name, type_), turn=turn, outside=others.get("outside"))
    assert isinstance(found, Said), found
    return found


def shown(part: Iterable[dns.Record]) -> list[str]:
    return [f"{dns.text(each.name)} {dns.TYPE_NAMES.get(each.type, each.type)} {dns.shown(each)}" for each in part]


# -- the README's examples


def test_a_name_answers_for_all_below_it() -> None:
    found = ask(README, "staging.east.skydns.local", dns.SRV)
    assert shown(found.answers) == [
        "staging.east.skydns.local SRV 10 50 8080 4.rails.staging.east.skydns.local",
        "staging.east.skydns.local SRV 10 50 8080 6.rails.staging.east.skydns.local",
    ]
    assert shown(found.additional) == [
        "4.rails.staging.east.skydns.local A 10.0.1.125",
        "6.rails.staging.east.skydns.local AAAA 2003::8:1",
    ]
    assert {each.ttl for each in found.answers} == {3600}
    assert shown(ask(README, "staging.east.skydns.local").answers) == ["staging.east.skydns.local A 10.0.1.125"]


@pytest.mark.parametrize("name", ["east.skydns.local", "*.east.skydns.local", "rails.any.east.skydns.local"])
def test_wildcards_in_queries(name: str) -> None:
    found = answer(README, SKY, query(name, dns.SRV), outside={})
    assert isinstance(found, Said)
    assert sorted(dns.shown(each) for each in found.answers) == [
        "10 33 8080 4.rails.staging.east.skydns.local",
        "10 33 8080 6.rails.staging.east.skydns.local",
        "10 33 8080 service1.example.com",
    ]


def test_more_names_than_one_may_be_wild() -> None:
    found = answer(README, SKY, query("rails.*.*.skydns.local", dns.SRV), outside={})
    assert isinstance(found, Said)
    assert len(found.answers) == 4
    assert ask(README, "puma.*.east.skydns.local").rcode == dns.NOERROR
    assert ask(README, "*.north.skydns.local").rcode == dns.NXDOMAIN


def test_weights_are_shares_of_a_hundred() -> None:
    tree = names(a={"host": "10.0.0.1", "weight": 120}, b={"host": "10.0.0.2", "weight": 100}, c={"host": "10.0.0.3",
                 "weight": 130})  # fmt: skip
    assert [dns.shown(each).split()[1] for each in ask(tree, "*.skydns.local", dns.SRV).answers] == ["34", "28", "37"]


def test_priorities_have_shares_of_their_own() -> None:
    tree = names(a={"host": "10.0.0.1", "priority": 20}, b={"host": "10.0.0.2"}, c={"host": "10.0.0.3", "priority": 10})
    found = ask(tree, "*.skydns.local", dns.SRV)
    assert [dns.shown(each).split()[:2] for each in found.answers] == [["20", "100"], ["10", "50"], ["10", "50"]]


def test_a_cname_chain_inside() -> None:
    tree = names(rails__1={"host": "service1.skydns.local", "port": 8080}, service1={"host": "10.0.2.15"})
    assert shown(ask(tree, "1.rails.skydns.local").answers) == [
        "1.rails.skydns.local CNAME service1.skydns.local",
        "service1.skydns.local A 10.0.2.15",
    ]
    assert shown(ask(tree, "1.rails.skydns.local", dns.CNAME).answers) == [
        "1.rails.skydns.local CNAME service1.skydns.local"
    ]
    assert ask(tree, "1.rails.skydns.local", dns.AAAA).answers == ()
    assert ask(tree, "rails.skydns.local", dns.CNAME).answers == (), "only a record of just this name is one"


def test_a_chain_outside_asks_others_first() -> None:
    tree = names(rails={"host": "www.miek.nl", "port": 8080})
    asked = answer(tree, SKY, query("rails.skydns.local"))
    target = dns.name("www.miek.nl")
    assert asked == Wanted(((target, dns.A),))
    said = {(target, dns.A): (dns.Record(target, dns.A, 7, bytes((192, 0, 2, 1))),)}
    found = ask(tree, "rails.skydns.local", outside=said)
    assert shown(found.answers) == ["rails.skydns.local CNAME www.miek.nl", "www.miek.nl A 192.0.2.1"]
    assert {each.ttl for each in found.answers} == {7}, "all have the least time to live"
    assert ask(tree, "rails.skydns.local", outside={}).answers == (), "nobody answered"
    srv = answer(tree, SKY, query("rails.skydns.local", dns.SRV))
    assert srv == Wanted(((target, dns.A), (target, dns.AAAA)))
    assert shown(ask(tree, "rails.skydns.local", dns.SRV, outside=said).additional) == ["www.miek.nl A 192.0.2.1"]


def test_too_few_dots_are_asked_of_nobody() -> None:
    tree = names(rails={"host": "www"})
    assert ask(tree, "rails.skydns.local").answers == ()


@pytest.mark.parametrize("length", [3, 40])
def test_circles_and_long_chains_end(length: int) -> None:
    tree = names(**{f"n{i}": {"host": f"n{(i + 1) % length}.skydns.local"} for i in range(length)})
    assert ask(tree, "n0.skydns.local").answers == ()
    assert ask(names(a={"host": "a.skydns.local"}), "a.skydns.local").rcode == dns.NOERROR


def test_eight_names_are_followed() -> None:
    chain = {f"n{i}": {"host": f"n{i + 1}.skydns.local"} for i in range(8)}
    tree = names(**chain, n8={"host": "10.0.0.1"})
    assert len(ask(tree, "n0.skydns.local").answers) == 9
    tree = names(before={"host": "n0.skydns.local"}, **chain, n8={"host": "10.0.0.1"})
    assert ask(tree, "before.skydns.local").answers == ()


# -- records


def test_text_and_mail() -> None:
    tree = names(a={"text": "hello" * 60}, m={"host": "10.0.0.1", "mail": True, "priority": 5}, w={"host": "10.0.0.2"})
    (text,) = ask(tree, "a.skydns.local", dns.TXT).answers
    assert [len(each) for each in dns.strings(text.data)] == [255, 45]
    found = ask(tree, "*.skydns.local", MX)
    assert [each.data for each in found.answers] == [b"\0\5" + dns.name("m.skydns.local")]
    assert shown(found.additional) == ["m.skydns.local A 10.0.0.1"]


def test_name_servers_and_the_soa_record() -> None:
    tree = names(dns__ns__a={"host": "192.0.2.1"}, dns__ns__b={"host": "fd00::1"})
    found = ask(tree, "skydns.local", dns.NS)
    assert shown(found.answers) == ["skydns.local NS a.ns.dns.skydns.local", "skydns.local NS b.ns.dns.skydns.local"]
    assert shown(found.additional) == ["a.ns.dns.skydns.local A 192.0.2.1", "b.ns.dns.skydns.local AAAA fd00::1"]
    assert shown(ask(tree, "ns.dns.skydns.local").answers) == ["ns.dns.skydns.local A 192.0.2.1"]
    (soa,) = ask(tree, "skydns.local", dns.SOA).answers
    assert soa.ttl == 3600
    assert soa.data.startswith(dns.name("ns.dns.skydns.local") + dns.name("hostmaster.skydns.local"))


def test_the_domain_itself() -> None:
    assert ask(names(), "skydns.local").rcode == dns.NOERROR
    assert shown(ask(names(self={"host": "10.0.0.1"}), "skydns.local").answers) == ["skydns.local A 10.0.0.1"]


def test_what_is_missing_says_for_how_long() -> None:
    missing, nothing = ask(README, "no.skydns.local"), ask(README, "4.rails.staging.east.skydns.local", dns.TXT)
    assert (missing.rcode, nothing.rcode) == (dns.NXDOMAIN, dns.NOERROR)
    for found in (missing, nothing):
        assert [(each.type, each.ttl) for each in found.authority] == [(dns.SOA, 60)]
        assert found.answers == ()


def test_the_local_name() -> None:
    local = Options(SKY.domain, SKY.hostmaster, local=dns.name("4.rails.staging.east.skydns.local"))
    assert shown(ask(README, "local.dns.skydns.local", options=local).answers) == [
        "local.dns.skydns.local A 10.0.1.125"
    ]


def test_groups_answer_together() -> None:
    tree = names(a={"host": "10.0.0.1", "group": "g1"}, a__x={"host": "10.0.0.2", "group": "g1"},
                 a__y={"host": "10.0.0.3", "group": "g2"}, a__z={"host": "10.0.0.4"})  # fmt: skip
    assert {dns.shown(each) for each in ask(tree, "a.skydns.local").answers} == {"10.0.0.1", "10.0.0.2", "10.0.0.4"}
    tree = names(a__x={"host": "10.0.0.2", "group": "g1"}, a__y={"host": "10.0.0.3", "group": "g2"})
    assert len(ask(tree, "a.skydns.local").answers) == 2, "the shortest keys disagree"


def test_targets_lose_labels() -> None:
    tree = names(web__1={"host": "10.0.0.1", "targetstrip": 1}, db__1={"host": "10.0.0.2", "targetstrip": 9})
    assert dns.shown(ask(tree, "web.skydns.local", dns.SRV).answers[0]).endswith(" web.skydns.local")
    assert dns.shown(ask(tree, "db.skydns.local", dns.SRV).answers[0]).endswith(" 1.db.skydns.local")


def test_the_same_twice_counts_once() -> None:
    tree = names(a__1={"host": "10.0.0.1"}, a__2={"host": "10.0.0.1"})
    assert len(ask(tree, "a.skydns.local", dns.SRV).answers) == 1


def test_addresses_take_turns() -> None:
    tree = names(a__1={"host": "10.0.0.1"}, a__2={"host": "10.0.0.2"})
    orders = {tuple(map(dns.shown, ask(tree, "a.skydns.local", turn=turn).answers)) for turn in range(4)}
    assert orders == {("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")}


def test_reverse_names_and_those_of_others() -> None:
    tree = Names({"/skydns/arpa/in-addr/10/0/0/1": '{"host":"web.skydns.local"}', "/skydns/arpa/in-addr/10/0/0/2/x":
                  '{"host":"a.b"}'})  # fmt: skip
    assert shown(ask(tree, "1.0.0.10.in-addr.arpa", dns.PTR).answers) == ["1.0.0.10.in-addr.arpa PTR web.skydns.local"]
    assert answer(tree, SKY, query("2.0.0.10.in-addr.arpa", dns.PTR)) == Forward("reverse")
    assert answer(tree, SKY, query("www.example.com")) == Forward("recursive")
    assert answer(tree, SKY, query("xskydns.local")) == Forward("recursive")


def test_any_and_chaos() -> None:
    assert ask(README, "skydns.local", dns.ANY).rcode == dns.REFUSED
    found = answer(README, SKY, query("version.bind", dns.TXT, dns.CHAOS))
    assert isinstance(found, Said)
    assert [dns.shown(each) for each in found.answers] == ['"podnet"']
    assert answer(README, SKY, query("x.bind", dns.TXT, dns.CHAOS)) == Said(dns.SERVFAIL)


# -- of what kube2sky writes


def test_a_cluster_by_the_records_of_kube2sky() -> None:
    slices = piece("db", endpoint("10.244.1.2"), endpoint("10.244.1.4", "db-0"))
    objects = service("web", "10.96.0.1", "fd00:10:96::1"), service("db"), slices, pod("p", "10.244.1.5")
    tree = Names(records({}, cluster(*objects, alias("out", "web.demo.svc.cluster.local")), "cluster.local"))

    def said(name: str, type_: int = dns.A) -> list[str]:
        return sorted(dns.shown(each) for each in ask(tree, f"{name}.cluster.local", type_, CLUSTER).answers)

    assert said("web.demo.svc") == ["10.96.0.1"]
    assert said("web.demo.svc", dns.AAAA) == ["fd00:10:96::1"]
    assert said("db.demo.svc") == ["10.244.1.2", "10.244.1.4"]
    assert said("db-0.db.demo.svc") == ["10.244.1.4"]
    assert said("10-244-1-5.demo.pod") == ["10.244.1.5"]
    assert said("out.demo.svc") == ["10.96.0.1", "web.demo.svc.cluster.local"]
    assert said("_http._tcp.web.demo.svc", dns.SRV) == ["10 100 80 web.demo.svc.cluster.local"]
    found = ask(tree, "_http._tcp.web.demo.svc.cluster.local", dns.SRV, CLUSTER)
    assert {dns.shown(each) for each in found.additional} == {"10.96.0.1", "fd00:10:96::1"}
    assert [each.split()[2] for each in said("_http._tcp.db.demo.svc", dns.SRV)] == ["8080", "8080"]
    found = ask(tree, "_http._tcp.db.demo.svc.cluster.local", dns.SRV, CLUSTER)
    assert {dns.shown(each) for each in found.additional} == {"10.244.1.2", "10.244.1.4"}
    assert {*said("*.demo.svc")} == {"10.244.1.2", "10.244.1.4", "10.96.0.1", "web.demo.svc.cluster.local"}


# -- the tree


def test_what_is_no_record_is_a_problem_and_absent() -> None:
    values = {"a": "no JSON", "b": '{"host": 7}', "c": '{"port": 70000}', "d": '{"host":"..x"}', "e": "{}"}
    tree = Names({f"/skydns/local/skydns/{key}": text for key, text in values.items()})
    assert {key[-1] for key in tree.problems} == set("abcd")
    assert ask(tree, "a.skydns.local").rcode == dns.NXDOMAIN
    assert ask(tree, "e.skydns.local").rcode == dns.NOERROR
    assert ask(tree, "e.skydns.local", dns.SRV).rcode == dns.NOERROR
    tree.put("/skydns/local/skydns/a", '{"host":"10.0.0.1"}')
    tree.remove("/skydns/local/skydns/b")
    assert {key[-1] for key in tree.problems} == set("cd")


def test_too_much_for_a_message_is_a_failure() -> None:
    some = {f"a__{number}": {"host": f"10.0.{number >> 8}.{number & 255}"} for number in range(200)}
    tree = names(**some)
    asked = query("a.skydns.local", dns.SRV)
    found = ask(tree, "a.skydns.local", dns.SRV)
    assert dns.read(message(asked, found)).flags & dns.TC
    whole = dns.read(message(asked, found, 0))
    assert (len(whole.answers), len(whole.additional) - 1, whole.flags & dns.TC) == (200, 200, 0)
    few = ask(names(**dict(list(some.items())[:24])), "a.skydns.local", dns.SRV)
    assert (len(few.answers), dns.read(message(asked, few)).flags & dns.TC) == (24, 0)
    assert [each.type for each in dns.read(message(asked, few)).additional] == [dns.OPT], "what was not asked for"
    tree = Names({f"/skydns/local/skydns/x/{number}": f'{{"host":"h{number}"}}' for number in range(MOST + 1)})
    assert ask(tree, "x.skydns.local").rcode == dns.SERVFAIL
    wide = [{"host": f"10.{number >> 8}.{number & 255}.1"} for number in range(MOST)]
    tree = names(**{f"a__{number}": each for number, each in enumerate(wide)})
    large = message(asked, ask(tree, "a.skydns.local", dns.SRV), 0)
    assert dns.read(large).rcode == dns.SERVFAIL


def test_aliases_of_large_subtrees_cost_no_more_than_one_answer() -> None:
    large = {f"big__{number}": {"host": f"10.0.{number >> 8}.{number & 255}"} for number in range(1000)}
    aliases = {f"many__{number}": {"host": "big.skydns.local", "port": number} for number in range(100)}
    assert ask(names(**large, **aliases), "many.skydns.local", dns.SRV).rcode == dns.SERVFAIL


PARTS = st.lists(st.sampled_from(["a", "b", "_c"]), min_size=1, max_size=3).map("/".join)
CHANGES = st.lists(st.tuples(PARTS, st.sampled_from(["put", "remove", "below"])), max_size=12)


@settings(max_examples=60)
@given(changes=CHANGES)
def test_a_tree_is_what_was_put_and_not_removed(changes: list[tuple[str, str]]) -> None:
    tree, values = Names(), dict[str, str]()
    for at, (part, verb) in enumerate(changes):
        key, text = f"/skydns/{part}", f'{{"host":"10.0.0.{at}"}}'
        if verb == "put":
            tree.put(key, text)
            values[key] = text
            continue
        tree.remove(key, below=verb == "below")
        below = tuple(each for each in values if each == key or (verb == "below" and each.startswith(f"{key}/")))
        values = {each: text for each, text in values.items() if each not in below}
    fresh = Names(values)
    for name in ("a", "b", "_c", "a.b", "b.a", "*.a", "any", "a.*", "_c.a", "a._c.b"):
        left, right = tree.find(dns.name(name)), fresh.find(dns.name(name))
        assert (left is None) == (right is None)
        assert {each.name for each in left or ()} == {each.name for each in right or ()}
