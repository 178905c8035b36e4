"""What kube2sky writes; the values and their hashes are of kube2sky 1.11, as people saw them in their clusters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podnet.network.dns.skydns_records import Steps, hidden, label, leftovers, path, records, steps, supposed, value
from podnet.network.memo import Memo
from podnet.objects.meta import Object
from podnet.objects.services import ServicePort, SlicePort
from tests.network.dns.names import alias, cluster, endpoint, piece, pod, service

ROOT = "/skydns/local/cluster"
DEMO = f"{ROOT}/svc/demo"


def made(*objects: Object) -> dict[str, str]:
    return records({}, cluster(*objects), "cluster.local")


def short(*objects: Object) -> dict[str, tuple[str, int]]:
    """Host and port by the key's end."""
    found = {key.removeprefix(f"{ROOT}/"): json.loads(text) for key, text in made(*objects).items()}
    return {key: (each["host"], each.get("port", 0)) for key, each in found.items()}


@pytest.mark.parametrize(
    ("address", "called"), [("10.254.162.44", "2f1020d6"), ("10.55.240.1", "8618524b"), ("10.9.68.2", "4ae33895")]
)
def test_values_and_hashes_are_those_of_kube2sky_1_11(address: str, called: str) -> None:
    text = value(address)
    assert text == f'{{"host":"{address}","priority":10,"weight":10,"ttl":30,"targetstrip":0}}'
    assert label(text) == called


def test_a_port_stands_before_the_priority() -> None:
    assert value("web.demo.svc.cluster.local.", 80) == (
        '{"host":"web.demo.svc.cluster.local.","port":80,"priority":10,"weight":10,"ttl":30,"targetstrip":0}'
    )


def test_a_name_is_a_path_turned_round() -> None:
    assert path("web.demo.svc.cluster.local.") == f"{DEMO}/web"
    assert path("1.0.0.10.in-addr.arpa", "mydns") == "/mydns/arpa/in-addr/10/0/0/1"


def test_a_service_has_its_address_and_its_named_ports() -> None:
    ports = (ServicePort("http", "TCP", 80), ServicePort("dns", "UDP", 53), ServicePort("", "TCP", 9))
    assert made(service("web", "10.254.162.44", ports=ports)) == {
        f"{DEMO}/web/2f1020d6": value("10.254.162.44"),
        f"{DEMO}/web/_tcp/_http/2f1020d6": value("web.demo.svc.cluster.local.", 80),
        f"{DEMO}/web/_udp/_dns/2f1020d6": value("web.demo.svc.cluster.local.", 53),
    }


def test_both_addresses_of_a_dual_stack_service() -> None:
    found = short(service("web", "10.96.0.1", "fd00:10:96::1"))
    assert sorted(host for host, port in found.values() if not port) == ["10.96.0.1", "fd00:10:96::1"]
    assert [port for _, port in found.values() if port] == [80]


def test_a_headless_service_has_its_ready_endpoints() -> None:
    slices = piece("db", endpoint("10.244.1.2"), endpoint("10.244.1.3", ready=False), endpoint("10.244.1.4", "db-0"))
    one = label(value("10.244.1.2"))
    assert short(service("db"), slices) == {
        f"svc/demo/db/{one}": ("10.244.1.2", 0),
        f"svc/demo/db/_tcp/_http/{one}": (f"{one}.db.demo.svc.cluster.local.", 8080),
        f"svc/demo/db/db-0/{label(value('10.244.1.4'))}": ("10.244.1.4", 0),
        "svc/demo/db/_tcp/_http/db-0": ("db-0.db.demo.svc.cluster.local.", 8080),
    }
    every = short(service("db", publish_not_ready_addresses=True), slices)
    assert "10.244.1.3" in {host for host, _ in every.values()}


def test_an_endpoint_of_two_families_has_one_name() -> None:
    parts = piece("db", endpoint("10.244.1.4", "db-0")), piece("db", endpoint("fd00::4", "db-0"), number=2)
    found = short(service("db"), *parts)
    assert sorted(host for key, (host, _) in found.items() if "/db-0/" in key) == ["10.244.1.4", "fd00::4"]
    assert [key for key in found if hidden(f"/{key}")] == ["svc/demo/db/_tcp/_http/db-0"]


@pytest.mark.parametrize("ports", [(), (SlicePort("", "TCP", 80),), (SlicePort("any", "TCP", None),)])
def test_ports_without_a_name_or_number_have_no_record(ports: tuple[SlicePort, ...]) -> None:
    assert list(short(service("db"), piece("db", endpoint("10.244.1.2"), ports=ports)).values()) == [("10.244.1.2", 0)]


def test_other_services() -> None:
    assert short(service("none"), piece("other", endpoint("10.244.1.2"))) == {}
    assert list(short(alias("out", "www.example.com")).values()) == [("www.example.com.", 0)]
    assert made(service("waits", "")) == {}


def test_pods_by_their_address() -> None:
    found = short(pod("a", "10.244.1.5", "fd00::5"), pod("b", "10.244.1.6", phase="Succeeded"), pod("c"))
    assert found == {
        f"pod/demo/10-244-1-5/{label(value('10.244.1.5'))}": ("10.244.1.5", 0),
        f"pod/demo/fd00--5/{label(value('fd00::5'))}": ("fd00::5", 0),
    }


def test_only_what_changed_is_made_again() -> None:
    memo: Memo = {}
    web, db = service("web", "10.96.0.1"), service("db")
    first = records(memo, cluster(web, db, piece("db", endpoint("10.244.1.2"))), "cluster.local")
    assert records(memo, cluster(web, db, piece("db", endpoint("10.244.1.2"))), "cluster.local") == first
    later = cluster(db, piece("db", endpoint("10.244.9.9")), pod("p", "10.244.1.1"))
    for now in (cluster(web), cluster(web, db), later):
        assert records(memo, now, "cluster.local") == records({}, now, "cluster.local")


# -- what to do


def test_steps_put_what_differs_and_take_the_rest() -> None:
    wanted = made(service("web", "10.96.0.1"))
    assert steps({}, wanted, ROOT) == Steps(wanted)
    assert steps(wanted, wanted, ROOT) == Steps({})
    assert steps(wanted, {}, ROOT) == Steps({}, (), (f"{DEMO}/web",))
    moved = made(service("web", "10.96.0.2"))
    found = steps(wanted, moved, ROOT)
    assert (found.values, set(found.gone), found.trees) == (moved, set(wanted), ())


def test_what_stands_elsewhere_is_left_alone() -> None:
    others = {
        f"{ROOT}/dns/ns/a": "{}",
        "/skydns/config": "{}",
        "/skydns/local/kube/demo/web": "{}",
        f"{ROOT}/self": "{}",
    }
    assert steps(others, {}, ROOT) == Steps({})


def test_a_value_where_a_service_should_be_goes_as_a_key() -> None:
    assert steps({f"{DEMO}/web": "{}"}, {}, ROOT) == Steps({}, (f"{DEMO}/web",))


KEYS = st.sampled_from([
    f"{DEMO}/web/1", f"{DEMO}/web/2", f"{DEMO}/web/_tcp/_http/1", f"{DEMO}/db/1", f"{DEMO}/db/x/1", f"{DEMO}/db",
    f"{ROOT}/pod/demo/10-0-0-1/1", f"{ROOT}/dns/ns", f"{ROOT}/svc/a/web/1",
])  # fmt: skip
STORES = st.dictionaries(KEYS, st.sampled_from("ab"))


@settings(max_examples=60)
@given(held=STORES, wanted=STORES)
def test_doing_the_steps_leads_to_what_is_wanted(held: dict[str, str], wanted: dict[str, str]) -> None:
    theirs = {key: text for key, text in held.items() if "/dns/" in key}
    wanted = {key: text for key, text in wanted.items() if "/dns/" not in key}
    found = steps(held, wanted, ROOT)
    after = {key: text for key, text in held.items() if not any(key.startswith(f"{tree}/") for tree in found.trees)}
    for key in found.gone:
        del after[key]
    assert {**after, **found.values} == {**theirs, **wanted}
    assert not any(key.startswith(f"{tree}/") for key in found.values for tree in found.trees)


def test_what_etcd_2_hides_is_supposed_to_be_there_while_the_service_is() -> None:
    wanted = made(service("web", "10.96.0.1"), service("api", "10.96.0.2"))
    shown = {key: text for key, text in wanted.items() if not hidden(key)}
    written = {key: text for key, text in wanted.items() if hidden(key)}
    assert supposed(shown, wanted, written, ROOT) == wanted
    lost = {key: text for key, text in shown.items() if "/web/" not in key}
    found = steps(supposed(lost, wanted, written, ROOT), wanted, ROOT)
    assert found.values == {key: text for key, text in wanted.items() if "/web/" in key}


def test_where_others_may_have_hidden_something() -> None:
    shown = {f"{DEMO}/web/1": "{}", f"{DEMO}/web/2": "{}", f"{ROOT}/pod/demo/10-0-0-1/1": "{}"}
    assert leftovers(shown, ROOT) == tuple(f"{DEMO}/web/_{protocol}" for protocol in ("tcp", "udp", "sctp"))
