"""Connection tracking in a real kernel: flows are counted, those that are meant are forgotten, and some are made."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from podnet.kernel.netlink import NETFILTER, Netlink, NetlinkError
from podnet.kernel.source_nat import show
from podnet.state.host import ForgetFlows
from tests.lab.hands import KernelNode, kernel_node, needs_root

pytestmark = [pytest.mark.lab, needs_root]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KernelNode]:
    with kernel_node(tmp_path) as made:
        yield made


class TestFlows:
    def fill(self, node: KernelNode) -> None:
        """Four clients of a Service with two endpoints, both families, UDP and TCP."""
        for family, (net, service, backend) in {
            "ipv4": ("10.0.0.", "10.96.0.10", "10.244.0."),
            "ipv6": ("fd00::", "fd96::10", "fd44::"),
        }.items():
            for protocol, more in (("udp", ""), ("tcp", "--state ESTABLISHED")):
                for number in range(1, 5):
                    client, answer = f"{net}{number}", f"{backend}{number % 2 + 1}"
                    node.run(
                        f"conntrack -I -p {protocol} -s {client} -d {service} --sport 4000 --dport 5{number % 2} -t 600"
                        f" -r {answer} -q {client} --reply-port-src 5353 --reply-port-dst 4000 {more}"
                    )
            assert family

    def test_translated_flows_in_use_are_counted(self, node: KernelNode) -> None:
        self.fill(node)
        plain = "-s 10.0.0.9 -d 10.0.0.8 -r 10.0.0.8 -q 10.0.0.9 --sport 1 --dport 2 --reply-port-src 2"
        node.run(f"conntrack -I -p udp -t 600 {plain} --reply-port-dst 1")
        over = "-s 10.0.0.9 -d 10.96.0.10 -r 10.244.0.1 -q 10.0.0.9 --sport 1 --dport 50 --reply-port-src 2"
        node.run(f"conntrack -I -p tcp -t 600 {over} --reply-port-dst 1 --state TIME_WAIT")
        assert node.plane.translated() == {
            (protocol, service, 50 + odd, f"{backend}{odd + 1}"): 2
            for protocol in (6, 17)
            for service, backend in (("10.96.0.10", "10.244.0."), ("fd96::10", "fd44::"))
            for odd in (0, 1)
        }

    def flows(self, node: KernelNode) -> set[tuple[str, str, str, str]]:
        """(protocol, client, port, answered by)"""
        found = set()
        for family in ("ipv4", "ipv6"):
            for line in node.run(f"conntrack -L -f {family}").splitlines():
                words = dict(word.split("=", 1) for word in reversed(line.split()) if "=" in word)
                reply = line.split("src=")[2].split()[0]
                found.add((line.split()[0], words["src"], words["dport"], reply))
        return found

    @pytest.mark.parametrize(
        ("action", "gone"),
        [
            (ForgetFlows(17, 51), lambda f: f[0] == "udp" and f[2] == "51"),
            (ForgetFlows(17, 51, destination="10.96.0.10"), lambda f: f[0] == "udp" and f[2] == "51" and "." in f[1]),
            (ForgetFlows(17, 51, destination="fd96::10"), lambda f: f[0] == "udp" and f[2] == "51" and ":" in f[1]),
            (ForgetFlows(17, answered_by="10.244.0.2"), lambda f: f[0] == "udp" and f[3] == "10.244.0.2"),
            (ForgetFlows(17, answered_by="fd44::2"), lambda f: f[0] == "udp" and f[3] == "fd44::2"),
            (ForgetFlows(17, answered_by="fd44::2", reply_port=5353), lambda f: f[0] == "udp" and f[3] == "fd44::2"),
            (ForgetFlows(17, answered_by="10.244.0.2", reply_port=5354), lambda f: False),
            (ForgetFlows(source="fd00::3"), lambda f: f[1] == "fd00::3"),
            (ForgetFlows(source="10.0.0.3"), lambda f: f[1] == "10.0.0.3"),
            (ForgetFlows(to_port=50), lambda f: f[2] == "50"),
            (ForgetFlows(6), lambda f: f[0] == "tcp"),
            (ForgetFlows(17, source="10.0.0.1", answered_by="fd44::1"), lambda f: False),
            (ForgetFlows(), lambda f: False),
        ],
    )
    def test_only_what_is_meant_is_forgotten(self, node: KernelNode, action: ForgetFlows, gone) -> None:
        self.fill(node)
        before = self.flows(node)
        assert len(before) == 16
        node.plane.act([action])
        assert self.flows(node) == {flow for flow in before if not gone(flow)}

    def test_many_wishes_are_one_walk(self, node: KernelNode) -> None:
        self.fill(node)
        before = self.flows(node)
        pods = [f"10.244.7.{number}" for number in range(40)]
        wishes = [ForgetFlows(source=pod) for pod in pods] + [ForgetFlows(answered_by=pod) for pod in pods]
        node.plane.act([*wishes, ForgetFlows(source="10.0.0.3"), ForgetFlows(17, answered_by="fd44::2")])
        gone = {flow for flow in before if flow[1] == "10.0.0.3" or (flow[0], flow[3]) == ("udp", "fd44::2")}
        assert gone
        assert self.flows(node) == before - gone

    def test_nothing_to_forget(self, node: KernelNode) -> None:
        node.plane.act([ForgetFlows(17, 53), ForgetFlows(answered_by="10.244.0.1")])


class TestSourceNat:
    @pytest.fixture
    def netlink(self, node: KernelNode) -> Iterator[Netlink]:
        for family in ("ip", "ip6"):
            node.run(f"nft add table {family} nat")
            node.run(f"nft add chain {family} nat any {{ type nat hook output priority -100 ; }}")
        with Netlink(NETFILTER, node.netns) as made:
            yield made

    @pytest.mark.parametrize(
        ("local", "remote", "shown"), [("10.0.0.1", "10.0.0.2", "192.0.2.9"), ("fd00::1", "fd00::2", "2001:db8::9")]
    )
    @pytest.mark.parametrize(("protocol", "name"), [(6, "tcp"), (17, "udp")])
    def test_a_flow_is_announced(
        self, node: KernelNode, netlink: Netlink, local: str, remote: str, shown: str, protocol: int, name: str
    ) -> None:
        """Whoever has the port alone may do so again, others not while it lives; answers go to different ports."""
        for alone in (False, True):
            show(netlink, protocol, (local, 40000), (remote, 80), shown, alone=alone)
        with pytest.raises(NetlinkError) as refused:
            show(netlink, protocol, (local, 40000), (remote, 80), shown, alone=False)
        assert refused.value.errno == errno.EEXIST
        show(netlink, protocol, (local, 40001), (remote, 80), shown, alone=False)
        lines = node.run(f"conntrack -L -p {name} -f {'ipv6' if ':' in local else 'ipv4'}").splitlines()
        answers = {line[line.rindex("src=") :].split("sport")[0].strip() for line in lines}
        assert len(lines) == 2
        assert answers == {f"src={remote} dst={shown}"}

    def test_a_flow_that_ended_is_forgotten(self, node: KernelNode, netlink: Netlink) -> None:
        plain = "-s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 --sport 40000 --dport 80 --reply-port-src 80"
        node.run(f"conntrack -I -p tcp -t 600 {plain} --reply-port-dst 40000 --state TIME_WAIT")
        show(netlink, 6, ("10.0.0.1", 40000), ("10.0.0.2", 80), "192.0.2.9", alone=False)
        assert "dst=192.0.2.9" in node.run("conntrack -L -p tcp")
