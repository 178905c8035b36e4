"""Things on a node that are somebody else's: of every kind that podnet makes, and beside its own, without its mark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.labs import LiveLab

LINES = """\
link add cni0 type bridge
link set cni0 up
link add theirs type veth peer name others
link set theirs master cni0 up
link set others up
link set eth0 alias theirs
address add 10.88.0.1/16 dev cni0
address add 192.0.2.5/32 dev eth0
address add 192.0.2.6/32 dev lo
route add 172.30.0.0/16 via 192.168.77.1
route add 172.31.0.0/16 via 192.168.77.1 proto static table 100
route add blackhole 172.29.0.0/16 proto 113
route add {peer} via 192.168.77.1 metric 50
rule add from 172.30.0.0/16 lookup 100 priority 500
neighbour add 192.168.77.200 lladdr 02:00:00:00:00:07 dev eth0 nud permanent
neighbour add 10.88.0.9 lladdr 02:00:00:00:00:07 dev cni0 nud permanent
"""
COMMANDS = """\
nft add table inet podne
nft add chain inet podne c '{ type filter hook forward priority 0; }'
nft add rule inet podne c ip saddr 192.0.2.0/24 counter drop
nft add set ip6 podne s '{ type ipv6_addr; }' || nft 'add table ip6 podne; add set ip6 podne s { type ipv6_addr; }'
iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
tc qdisc add dev eth0 root pfifo limit 500
tc qdisc add dev theirs root tbf rate 10mbit burst 10kb latency 50ms
sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv4.conf.cni0.proxy_arp=1 net.ipv4.conf.cni0.route_localnet=1
"""
UNDO = """\
sysctl -qw net.ipv4.conf.eth0.rp_filter=0
tc qdisc del dev eth0 root
iptables -t nat -F
nft delete table inet podne; nft delete table ip6 podne; nft delete table ip nat
ip link del theirs; ip link del cni0
ip link set eth0 alias ''
ip addr del 192.0.2.5/32 dev eth0; ip addr del 192.0.2.6/32 dev lo
ip route del 172.30.0.0/16; ip route flush table 100; ip route del blackhole 172.29.0.0/16
ip route del {peer} metric 50
ip rule del priority 500
ip neigh del 192.168.77.200 dev eth0
"""


@contextmanager
def things(live: LiveLab, node: str, peer: str) -> Iterator[None]:
    """They are there meanwhile; `peer` is a range that a route of ours leads to."""
    live.run(node, "ip -batch -", text=LINES.replace("{peer}", peer))
    live.run(node, ["sh", "-ec", COMMANDS])
    try:
        yield
    finally:
        live.run(node, ["sh", "-c", UNDO.replace("{peer}", peer)])
