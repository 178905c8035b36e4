"""Mode iptables says what kube-proxy says: names, order, comments, and what depends on what."""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from podnet.network.proxy.iptables import LARGE, Settings, chains, frame, large, own, shared
from podnet.network.service_port import Endpoint, ServicePort
from podnet.state.host import Sysctl
from podnet.state.iptables import FAMILIES, JUMPS, TABLES, IptablesChain, IptablesJump, named
from podnet.state.resource import Resource, state
from podnet.wire.iptables import parse, write
from tests.network.proxy.kube_proxy import SERVICES, SETTINGS, SVC1, SVC2, SVC4, SVC5, SVC6, SVC7, SVC8, at, service

V6 = Settings(v6=True, cluster_cidr="fd00:10::/32", node_addresses=("fd00::2",))


def rules(resources: Iterable[Resource]) -> dict[tuple[str, str], tuple[str, ...] | None]:
    return {(r.table, r.name): r.rules for r in resources if isinstance(r, IptablesChain)}


def text(resources: Iterable[Resource]) -> str:
    found = sorted((r for r in resources if isinstance(r, IptablesChain)), key=lambda chain: chain.name)
    lines = (write(table, {r.name: r.rules or () for r in found if r.table == table}) for table in TABLES)
    return "".join(f"{line}\n" for part in lines for line in part)


def chain(port: ServicePort, kind: str, settings: Settings = SETTINGS) -> tuple[str, ...] | None:
    """The rules of a ServicePort's one chain of that kind."""
    found = [made.rules for made in own(port, settings) if made.name.startswith(f"KUBE-{kind}-")]
    assert len(found) <= 1
    return found[0] if found else None


def lines(port: ServicePort, settings: Settings = SETTINGS) -> list[str]:
    return [f"{table} {name} {rule}" for table, name, rule in shared(port, settings)]


def test_the_eight_services() -> None:
    expected = Path(__file__).with_name("kube_proxy.rules").read_text()
    assert text(chains(SERVICES, SETTINGS)) == expected


def test_names_are_hashes_of_the_label_and_the_protocol() -> None:
    assert {made.name for made in own(SVC1, SETTINGS)} == {"KUBE-SVC-XPGD46QRK7WJZT7O", "KUBE-SEP-SXIVWICOYRO3J4NJ"}
    unnamed = {made.name for made in own(replace(SVC1, name="", protocol="udp"), SETTINGS)}
    hashes = (
        b32encode(sha256(words).digest())[:16].decode() for words in (b"ns1/svc1udp", b"ns1/svc1udp10.180.0.1:80")
    )
    assert {name[-16:] for name in unnamed} == set(hashes)


def test_every_name_is_known_as_kube_proxys_and_every_jump_leads_to_a_chain() -> None:
    made = rules(chains(SERVICES, SETTINGS))
    assert all(named(*key) for key in made)
    assert {(table, rule.rsplit(" ", 1)[1]) for table, _, rule in JUMPS} <= made.keys()
    assert rules(chains((), V6)).keys() == {(table, name) for table, names in TABLES.items() for name in names}


def test_every_target_exists() -> None:
    made = rules(chains(SERVICES, SETTINGS))
    for (table, _), found in made.items():
        for rule in found or ():
            target = rule.rpartition("-j ")[2].split(" ")[0] if "-j " in rule else ""
            assert not target.startswith("KUBE-") or (table, target) in made


def test_the_node_port_rule_is_the_last_of_kube_services() -> None:
    found = rules(chains(SERVICES, SETTINGS))["nat", "KUBE-SERVICES"]
    assert found is not None
    assert found[-1].endswith("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    assert sum("KUBE-NODEPORTS" in rule for rule in found) == 1


# -- endpoints


@given(st.integers(1, 40))
def test_each_endpoint_gets_the_same_share(count: int) -> None:
    port = service(1, *map(at, range(1, count + 1)))
    found = chain(port, "SVC")
    assert found is not None
    left, shares = 1.0, []
    for rule in found[1:]:
        chance = float(rule.split("--probability ")[1].split(" ")[0]) if "--probability" in rule else 1.0
        shares.append(left * chance)
        left *= 1 - chance
    assert shares == pytest.approx([1 / count] * count, abs=1e-8)


def test_probabilities_have_ten_digits() -> None:
    found = chain(service(1, at(1), at(2), at(3)), "SVC")
    assert found is not None
    assert "--probability 0.3333333333 -j" in found[1]
    assert "--probability 0.5000000000 -j" in found[2]
    assert "--probability" not in found[3]


def test_affinity_asks_every_endpoint_before_chance_does() -> None:
    port = service(5, at(3), at(4), affinity=77)
    found = chain(port, "SVC")
    assert found is not None
    assert ["rcheck --seconds 77 --reap" in rule for rule in found] == [False, True, True, False, False]
    endpoints = [made for made in own(port, SETTINGS) if made.name.startswith("KUBE-SEP-")]
    assert all(made.rules and f"-m recent --name {made.name} --set -m tcp" in made.rules[1] for made in endpoints)


def test_without_endpoints_there_are_no_chains_and_every_address_refuses() -> None:
    port = replace(SVC6, node_port=3006, external_ips=("192.168.99.66",), balancer_ips=("6.6.6.6",))
    assert list(own(port, SETTINGS)) == []
    found = lines(port)
    assert len(found) == 4
    assert all(line.startswith("filter ") and line.endswith("-j REJECT") for line in found)
    assert [line.split()[1] for line in found] == ["KUBE-SERVICES", *["KUBE-EXTERNAL-SERVICES"] * 3]
    assert all('"ns6/svc6:p80 has no endpoints"' in line for line in found)


def test_nothing_local_is_dropped_but_pods_and_the_node_are_served() -> None:
    assert chain(SVC2, "SVL") is None
    external = chain(SVC2, "EXT")
    assert external is not None
    assert [rule.rpartition(" ")[2].rpartition("-")[0] for rule in external] == ["KUBE-SVC", "KUBE-MARK", "KUBE-SVC"]
    assert sum("has no local endpoints" in line and line.endswith("-j DROP") for line in lines(SVC2)) == 3


def test_internal_policy_local_without_an_endpoint_here() -> None:
    assert list(own(SVC8, SETTINGS)) == []
    refusal = '-m comment --comment "ns8/svc8:p80 has no local endpoints"'
    assert lines(SVC8) == [f"filter KUBE-SERVICES {refusal} -m tcp -p tcp -d 172.30.0.48 --dport 80 -j DROP"]


def test_endpoints_that_nobody_may_reach_have_no_chain() -> None:
    port = service(7, at(6), at(7, local=True), internal_local=True)
    assert [made.name.split("-")[1] for made in own(port, SETTINGS)] == ["SVL", "SEP"]


def test_sctp_and_udp() -> None:
    for protocol in ("udp", "sctp"):
        found = text(chains([replace(SVC4, protocol=protocol)], SETTINGS))
        assert f"-m {protocol} -p {protocol} -d 172.30.0.44 --dport 80" in found
        assert f"-m {protocol} -p {protocol} -j DNAT --to-destination 10.180.0.4:80" in found
        assert "-m tcp" not in found


# -- settings


def test_who_is_masqueraded_at_the_cluster_address() -> None:
    outside = chain(SVC1, "SVC")
    everybody = chain(SVC1, "SVC", replace(SETTINGS, masquerade_all=True))
    nobody = chain(SVC1, "SVC", replace(SETTINGS, cluster_cidr=""))
    assert outside is not None
    assert everybody is not None
    assert nobody is not None
    assert outside[0].endswith(" --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ")
    assert everybody[0].endswith(" --dport 80 -j KUBE-MARK-MASQ")
    assert outside[1:] == everybody[1:] == nobody


def test_without_a_range_of_pods_nobody_counts_as_a_pod() -> None:
    found = chain(SVC7, "EXT", replace(SETTINGS, cluster_cidr=""))
    assert found is not None
    assert not any("pod traffic" in rule for rule in found)
    assert len(found) == 3


def test_source_ranges() -> None:
    assert chain(SVC5, "FW") == (
        '-m comment --comment "ns5/svc5:p80 loadbalancer IP" -s 203.0.113.0/25 -j KUBE-EXT-NUKIZ6OKUXPJNT4C',
        '-m comment --comment "other traffic to ns5/svc5:p80 will be dropped by KUBE-PROXY-FIREWALL"',
    )
    node = chain(replace(SVC5, source_ranges=("192.168.0.0/24",)), "FW")
    assert node is not None
    assert [rule.split(" -s ")[1].split(" ")[0] for rule in node[:2]] == ["192.168.0.0/24", "5.6.7.8"]
    nobody = chain(replace(SVC5, source_ranges=()), "FW")
    assert nobody is not None
    assert len(nobody) == 1
    assert chain(replace(SVC5, balancer_ips=()), "FW") is None
    assert chain(replace(SVC5, source_ranges=None), "FW") is None


def test_source_ranges_are_for_the_balancers_address_only_unless_they_are_for_all() -> None:
    port = replace(SVC5, external_ips=("7.7.7.7",))
    plain, strict = lines(port), lines(port, replace(SETTINGS, ranges_for_all=True))
    assert [line.split("-j KUBE-")[1][:4] for line in plain if " -j KUBE-" in line] == ["SVC-", "EXT-", "FW-N", "EXT-"]
    assert [line.split("-j KUBE-")[1][:4] for line in strict if " -j KUBE-" in line] == ["SVC-", "FW-N", "FW-N", "FW-N"]
    assert sum(line.startswith("filter KUBE-PROXY-FIREWALL") for line in plain) == 1
    assert sum(line.startswith("filter KUBE-PROXY-FIREWALL") for line in strict) == 3
    only_port = service(5, at(3), node_port=3002, source_ranges=("203.0.113.0/25",))
    assert chain(only_port, "FW") is None
    assert chain(only_port, "FW", replace(SETTINGS, ranges_for_all=True)) is not None


def node_port_rules(settings: Settings) -> list[str]:
    found = rules(frame((), settings))["nat", "KUBE-SERVICES"]
    assert found is not None
    return [rule.split('in this chain" ')[1].removesuffix(" -j KUBE-NODEPORTS") for rule in found]


LOCAL = "-m addrtype --dst-type LOCAL"


@pytest.mark.parametrize(
    "settings, places",
    [
        (SETTINGS, [LOCAL]),
        (replace(SETTINGS, localhost_node_ports=False), [f"{LOCAL} ! -d 127.0.0.0/8"]),
        (V6, [f"{LOCAL} ! -d ::1/128"]),
        (replace(SETTINGS, node_port_addresses=("0.0.0.0/0",)), [LOCAL]),
        (replace(SETTINGS, node_port_addresses=("192.168.0.0/16",)), ["-d 192.168.0.2"]),
        (replace(SETTINGS, node_port_addresses=("192.168.0.0/16", "127.0.0.0/8")), ["-d 192.168.0.2", "-d 127.0.0.1"]),
        (replace(SETTINGS, node_port_addresses=("10.9.0.0/16",), other_addresses=("10.9.0.1",)), ["-d 10.9.0.1"]),
        (
            replace(SETTINGS, node_port_addresses=("127.0.0.0/8",), node_addresses=("127.0.0.1", "192.168.0.2")),
            ["-d 127.0.0.1"],
        ),
        (replace(SETTINGS, node_port_addresses=("127.0.0.0/8",), localhost_node_ports=False), []),
        (replace(SETTINGS, node_port_addresses=("10.9.0.0/16",)), []),
        (replace(V6, node_port_addresses=("::1/128", "fd00::/64")), ["-d fd00::2"]),
    ],
)
def test_where_node_ports_are_served(settings: Settings, places: list[str]) -> None:
    assert node_port_rules(settings) == places


@pytest.mark.parametrize(
    "settings, guarded",
    [
        (SETTINGS, True),
        (replace(SETTINGS, localhost_node_ports=False), False),
        (replace(SETTINGS, node_port_addresses=("192.168.0.0/16",)), False),
        (V6, False),
    ],
)
def test_leading_localhost_to_pods_is_guarded(settings: Settings, guarded: bool) -> None:
    made = tuple(frame((), settings))
    assert (Sysctl("net/ipv4/conf/all/route_localnet", "1") in made) is guarded
    firewall = rules(made)["filter", "KUBE-FIREWALL"]
    assert (firewall is not None and "127.0.0.0/8" in firewall[0]) if guarded else firewall is None


def test_a_liberal_kernel_needs_no_rule_for_invalid_packets() -> None:
    strict, liberal = (
        rules(frame((), settings))["filter", "KUBE-FORWARD"] for settings in (SETTINGS, replace(SETTINGS, liberal=True))
    )
    assert strict is not None
    assert strict[0] == "-m conntrack --ctstate INVALID -j DROP"
    assert liberal == strict[1:]


def test_the_large_form_drops_the_comments_of_the_many_rules_only() -> None:
    settings = replace(SETTINGS, large=True)
    small, big = rules(chains(SERVICES, SETTINGS)), rules(chains(SERVICES, settings))
    assert small.keys() == big.keys()
    for (table, name), found in big.items():
        if name.startswith("KUBE-SEP-"):
            assert not any("--comment" in rule for rule in found or ())
        elif name.startswith("KUBE-SVC-"):
            assert [rule for rule in found or () if "--comment" in rule] == [
                rule for rule in small[table, name] or () if 'cluster IP"' in rule
            ]
        elif not name.startswith("KUBE-SVL-"):
            assert found == small[table, name]


def test_what_is_large() -> None:
    port = service(1, *(Endpoint(f"10.1.{n // 250}.{n % 250}", 80) for n in range(LARGE)))
    assert not large([port])
    assert large([port, SVC1])


# -- IPv6


def test_ipv6() -> None:
    endpoint = Endpoint("fd00:10::5", 8080)
    port = ServicePort(
        namespace="ns", service="six", name="", protocol="udp", v6=True, cluster_ip="fd00:96::1", port=53,
        internal=(endpoint,), external=(endpoint,), cluster=(endpoint,), anywhere=True, node_port=30053,
    )  # fmt: skip
    made = state(chains([port], V6))
    assert {key[2] for key in made if key[0].startswith("Iptables")} == {"ip6"}
    found = text(made.values())
    assert '"ns/six -> [fd00:10::5]:8080"' in found
    assert "--to-destination [fd00:10::5]:8080" in found
    assert "-s fd00:10::5 -j KUBE-MARK-MASQ" in found
    assert "! -s fd00:10::/32 -j KUBE-MARK-MASQ" in found


# -- what depends on what


def test_chunks_and_frame_are_all_there_is() -> None:
    whole = state(chains(SERVICES, SETTINGS))
    parts: list[Resource] = [resource for port in SERVICES for resource in own(port, SETTINGS)]
    parts += frame((line for port in SERVICES for line in shared(port, SETTINGS)), SETTINGS)
    assert state(iter(parts)) == whole
    assert {key[2] for key in whole if key[0] == "IptablesJump"} == {FAMILIES[0]}
    assert sum(isinstance(r, IptablesJump) for r in whole.values()) == len(JUMPS)


def test_an_endpoint_more_changes_its_services_chains_only() -> None:
    before = state(chains(SERVICES, SETTINGS))
    more = service(4, at(4), at(5), at(9), external_ips=("192.168.99.33",))
    after = state(chains([more if port is SVC4 else port for port in SERVICES], SETTINGS))
    changed = {key[4] for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    new = {made.name for made in own(more, SETTINGS)} - {made.name for made in own(SVC4, SETTINGS)}
    assert changed == {"KUBE-SVC-4SW47YFZTEDKD3PK", *new}
    assert len(new) == 1


def test_the_text_can_be_read_back() -> None:
    made = rules(chains(SERVICES, SETTINGS))
    assert {key: tuple(found) for key, found in parse(text(chains(SERVICES, SETTINGS))).items()} == {
        key: found or () for key, found in made.items()
    }
