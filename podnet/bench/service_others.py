"""What other proxies give the kernel for the same Services: kube-proxy's chains for iptables, and for nftables.

For iptables the text is what mode iptables writes, which is kube-proxy's to the letter; its own restore program loads
it. For nftables kube-proxy has a chain for each Service and one for each endpoint.
Source of the latter: k8s.io/kubernetes pkg/proxy/nftables/proxier.go, 1.31.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256

from podnet.bench import arena, synthetic
from podnet.bench.service_objects import PORT, TARGET, cluster_ip, pods
from podnet.errors import UserError
from podnet.kernel import netns
from podnet.network.proxy import iptables
from podnet.network.service_port import ServicePort
from podnet.state.iptables import IptablesChain, jumps
from podnet.wire.iptables import write

RESTORE = "iptables-legacy-restore"


def restore(text: str) -> float:
    """Seconds that iptables-legacy-restore takes for a text, in a fresh namespace. Raises UserError without it."""
    try:
        return _load(f"restored-{len(text)}", [RESTORE, "--noflush"], text)
    except FileNotFoundError:
        raise UserError(f"there is no {RESTORE}: apt-get install iptables") from None


def nft(text: str) -> float:
    """Seconds that nft takes for a text, in a fresh namespace."""
    return _load(f"loaded-{len(text)}", ["nft", "-f", "-"], text)


def _load(name: str, command: list[str], text: str) -> float:
    place = f"{arena.NETNS}/{name}"
    netns.create(place)
    with netns.inside(place):
        start = time.perf_counter()
        subprocess.run(command, input=text.encode(), check=True)
        seconds = time.perf_counter() - start
    netns.remove(place)
    return seconds


def iptables_text(ports: Iterable[ServicePort]) -> str:
    """All of kube-proxy's chains for these, as iptables-restore reads them."""
    ports = tuple(ports)
    settings = iptables.Settings(cluster_cidr=synthetic.POD_CIDR, large=iptables.large(ports))
    tables: dict[str, dict[str, tuple[str, ...]]] = {}
    for resource in iptables.chains(ports, settings):
        if isinstance(resource, IptablesChain):
            tables.setdefault(resource.table, {})[resource.name] = resource.rules or ()
    return "\n".join(line for table in tables for line in write(table, tables[table], _jumps(table))) + "\n"


def _jumps(table: str) -> list[str]:
    return [f"-I {jump.chain} {jump.rule}" for jump in jumps("ip") if jump.table == table]


def nft_text(services: int, endpoints: int) -> str:
    """kube-proxy's table for so many Services with so many endpoints each, as `nft -f` reads it."""
    addresses = {cluster_ip(number): _label(number) for number in range(services)}
    verdicts = (f"{address} . 6 . {PORT} : goto service-{_hash(label)}-{label}" for address, label in addresses.items())
    chains = (line for number in range(services) for line in _chains(number, endpoints))
    elements = (f"cluster-ips {{ {', '.join(addresses)} }}", f"service-ips {{ {', '.join(verdicts)} }}")
    added = (f"add element ip kube-proxy {each}" for each in elements)
    return "\n".join(("table ip kube-proxy {", _STATIC, *chains, "}", *added, ""))


_STATIC = """\
 set cluster-ips { type ipv4_addr; }
 map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
 chain mark-for-masquerade { mark set mark or 0x4000; }
 chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }
 chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
 chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
 chain nat-output { type nat hook output priority -100; jump services; }
 chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }"""


def _chains(number: int, endpoints: int) -> Iterator[str]:
    address, label = cluster_ip(number), _label(number)
    ends = {f"endpoint-{_hash(label + pod)}-{label}__{pod}/{TARGET}": pod for pod in pods(number, endpoints)}
    for name, pod in ends.items():
        yield f" chain {name} {{ ip saddr {pod} jump mark-for-masquerade; meta l4proto tcp dnat to {pod}:{TARGET}; }}"
    picks = ", ".join(f"{place} : goto {name}" for place, name in enumerate(ends))
    outside = f"ip daddr {address} tcp dport {PORT} ip saddr != {synthetic.POD_CIDR} jump mark-for-masquerade"
    yield f" chain service-{_hash(label)}-{label} {{ {outside}; numgen random mod {endpoints} vmap {{ {picks} }}; }}"


def _label(number: int) -> str:
    return f"default/s{number}/tcp/"


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8].upper()
