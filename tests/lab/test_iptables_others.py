"""Another kube-proxy's rules on one node of a live lab: mode iptables keeps away from them until they go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from podnet.objects.kinds import SERVICES
from podnet.state.iptables import OWNER
from tests.lab.labs import LiveLab, live_lab, needs_root, until

pytestmark = [pytest.mark.lab, needs_root, pytest.mark.xdist_group("lab-iptables"), pytest.mark.timeout(180)]

OURS, THEIRS = "10.96.0.77", "10.97.0.9"
RULES = """\
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d {theirs}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {pod}:8080
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
COMMIT
"""
ASK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveLab]:
    with live_lab("others", "--nodes", "2") as made:
        spec = {"selector": {"app": "web"}, "clusterIP": OURS, "ports": [{"port": 80, "targetPort": 8080}]}
        service = {"metadata": {"name": "ours", "namespace": "demo"}, "spec": spec}
        made.api(lambda api: api.create(SERVICES, service, into=dict))
        until(lambda: reaches(made, OURS), "the Service works", 20)
        yield made


def reaches(live: LiveLab, host: str, port: int = 80) -> bool:
    """From node2 itself."""
    return not live.run("node2", ["sh", "-c", f"python3 -c '{ASK}' {host} {port} 2>&1"], code=None)


def refused(live: LiveLab, node: str) -> list[str]:
    said = live.ask(node, "status")["problems"]
    return [each["message"] for each in said if each["reason"] == "ProxyModeRefused"]


def saved(live: LiveLab, variant: str, node: str = "node2") -> str:
    """Without dates and counters; "" when there is nothing."""
    lines = live.run(node, f"iptables-{variant}-save -t nat").splitlines()
    return "\n".join(line.split(" [")[0] for line in lines if "KUBE" in line or OWNER in line)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_mode_iptables_waits_until_another_kube_proxy_is_gone(live: LiveLab, variant: str) -> None:
    pod = next(place for place in live.places() if place.node == "node1").addresses[0]
    live.run("node2", f"iptables-{variant}-restore --noflush", text=RULES.format(theirs=THEIRS, pod=pod))
    live.run("node2", f"ip route replace {THEIRS} dev eth0")
    before = saved(live, variant)
    assert reaches(live, THEIRS)
    live.configure(proxy={"mode": "iptables"})
    (said,) = until(lambda: refused(live, "node2"), "node2 refuses")
    assert f"the iptables-{variant} chain ip nat KUBE-SERVICES" in said
    until(lambda: OWNER in saved(live, "nft", "node1"), "the other node does it")
    until(lambda: live.settled("node2"), "node2 is settled")
    assert saved(live, variant) == before
    assert reaches(live, THEIRS)
    assert reaches(live, OURS)
    checked = json.loads(live.podnet("doctor", "--node", "node2", "-o", "json", code=None))
    found = [each for each in checked["findings"] if each["check"] == "other proxies"]
    assert [each["why"] for each in found] == [
        "spec.proxy.mode iptables is refused on this node, which uses mode nftables instead"
    ]
    live.run("node2", f"iptables-{variant} -t nat -F")
    live.run("node2", f"iptables-{variant} -t nat -X KUBE-SERVICES")
    began = time.monotonic()
    until(lambda: OWNER in saved(live, "nft"), "mode iptables takes effect, where the node began")
    print(f"\n{variant}: mode iptables after {time.monotonic() - began:.1f} s")
    assert not refused(live, "node2")
    assert reaches(live, OURS)
    live.run("node2", "iptables-nft -t nat -A OUTPUT -d 192.0.2.1 -j KUBE-SERVICES")
    live.configure(proxy={"mode": "nftables"})
    until(lambda: OWNER not in saved(live, "nft"), "mode iptables is left")
    until(lambda: live.settled("node2"), "and nothing fails")
    assert live.ask("node2", "status")["lastPass"]["failed"] == []
    assert saved(live, "nft").splitlines() == [":KUBE-SERVICES -", "-A OUTPUT -d 192.0.2.1/32 -j KUBE-SERVICES"]
    assert reaches(live, OURS)
    live.run("node2", "iptables-nft -t nat -F")
    live.run("node2", "iptables-nft -t nat -X KUBE-SERVICES")
