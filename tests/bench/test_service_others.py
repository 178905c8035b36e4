"""What other proxies write for the same Services: the text is whole, and grows as theirs does."""

from __future__ import annotations

import re

from podnet.bench import service_others, synthetic
from podnet.bench.service_objects import cluster, cluster_ip, pods
from podnet.network.view import LocalFacts
from podnet.network.viewing import view
from podnet.wire.iptables import parse


def iptables(services: int, endpoints: int) -> str:
    seen = view(cluster(services, endpoints), LocalFacts(synthetic.facts().node, "lo"))
    assert seen is not None
    return service_others.iptables_text(port for ports in seen.services.values() for port in ports)


def test_iptables_has_a_chain_for_each_service_and_endpoint() -> None:
    text = iptables(10, 4)
    chains = [name for table, name in parse(text) if table == "nat"]
    assert len([name for name in chains if name.startswith("KUBE-SVC-")]) == 10
    assert len([name for name in chains if name.startswith("KUBE-SEP-")]) == 40
    assert text.count("COMMIT") == len(re.findall(r"^\*", text, re.MULTILINE)) > 1


def test_iptables_is_led_to_its_chains() -> None:
    lines = iptables(1, 1).splitlines()
    assert any(line.startswith("-I PREROUTING ") and line.endswith("-j KUBE-SERVICES") for line in lines)


def test_many_endpoints_go_without_comments() -> None:
    few, many = (
        [line for line in iptables(services, 4).splitlines() if line.startswith("-A KUBE-SEP-")]
        for services in (10, 300)
    )
    assert all("--comment" in line for line in few)
    assert not any("--comment" in line for line in many)
    assert (len(few), len(many)) == (2 * 40, 2 * 1200)


def test_nftables_has_a_chain_for_each_service_and_endpoint() -> None:
    text = service_others.nft_text(10, 4)
    assert len(re.findall(r"^ chain service-", text, re.MULTILINE)) == 10
    assert len(re.findall(r"^ chain endpoint-", text, re.MULTILINE)) == 40


def test_nftables_leads_each_service_to_each_of_its_endpoints() -> None:
    text = service_others.nft_text(3, 2)
    chains = dict(re.findall(r"^ chain (\S+) \{ (.*) \}$", text, re.MULTILINE))
    verdicts = dict(re.findall(r"([0-9.]+) \. 6 \. 80 : goto (service-[^\s,]+)", text))
    assert set(verdicts) == {cluster_ip(number) for number in range(3)}
    for number in range(3):
        ends = re.findall(r": goto (endpoint-[^\s,]+)", chains[verdicts[cluster_ip(number)]])
        assert [re.findall(r"dnat to ([0-9.]+):8080", chains[end]) for end in ends] == [
            [pod] for pod in pods(number, 2)
        ]
