"""The static part of mode nftables: sets and maps without elements, and the chains that ask them.

All chains are of type nat, refusals included, so packets of established connections pass none of them. Scratch
registers, of a connection's first packet only: the bit MASQUERADE of its mark, until postrouting; and its priority,
which holds a lane or an endpoint's id (nftables.py) and means nothing to a packet that is forwarded, since the kernel
sets it anew. With affinity the mark holds the Service's number for a moment.

Affinity: `sticky-<side>-<seconds>` looks for the client's id in `affinity-<seconds>`. An id that leads nowhere any more
is forgotten and another one picked, so an endpoint that goes releases its clients by itself.

Retries, all in the kernel: a refusal (RST and ACK with sequence 0) is dropped on its way back when its connection bears
our label, and an unanswered attempt is forgotten after a second, so the client's own repetition of its SYN is picked
for anew. `attempts` knows which endpoint it was the time before: that one is ejected for a while, and whoever picks it
picks again, REDRAWS times at most, so that even with all of them ejected somebody is asked. `tries` counts: the last
attempt has no label, so a client whom everybody refuses hears that.
"""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.proxy import localhost
from podnet.network.proxy.algorithms import COUNTERS, HASHED, ROUND_ROBIN, SOURCE_HASH, TURNS
from podnet.network.value import Value
from podnet.state.nft import NftTable
from podnet.state.resource import TABLE_PREFIX

TABLE = f"{TABLE_PREFIX}services"
FAMILIES = {False: "ip", True: "ip6"}

MASQUERADE = 0x8000
"""The mark's bit that says: leave with the node's own address. kube-proxy's 0x4000 stays free."""

SIZES = (*range(1, 129), *(1 << bits for bits in range(10, 17)))
"""Numbers of slots that there are chains for."""

SEED = 0x706F646E

EJECTED_SECONDS = 10
"""How long an endpoint that did not answer is passed over."""

ATTEMPTS = 3
"""How often a connection is tried; the last refusal reaches the client, after two of its repetitions."""

REDRAWS = 7
"""How often one picks again who picked an ejected endpoint: with half of them ejected one in 256 still gets one."""

LABEL = 111
"""The bit of a connection's label that says: its refusal is not for the client."""

_TRANSPORT = "meta l4proto { 6, 17, 132 }"  # nft demands a protocol before it translates ports
_TYPES = {False: "ipv4_addr", True: "ipv6_addr"}


class Settings(Value, frozen=True):
    """What the static part depends on, for one family.

    `pods` are the cluster's ranges and `own` this node's, `timeouts` the affinities in use (seconds), `service_cidrs`
    where an address that no Service has is dropped; `retries`: some Service asks for them; `algorithms`: those that
    Services ask for (algorithms.py).
    """

    v6: bool
    pods: tuple[str, ...]
    own: tuple[str, ...]
    timeouts: tuple[int, ...] = ()
    service_cidrs: tuple[str, ...] = ()
    retries: bool = False
    algorithms: tuple[str, ...] = ()


def table(settings: Settings) -> NftTable:
    """The chains and the declarations of sets and maps."""
    ip = FAMILIES[settings.v6]
    key = f"{ip} daddr . meta l4proto . th dport"
    return NftTable(ip, TABLE, "".join((*_sets(settings, ip, key), *_chains(settings, ip, key))))


def _sets(settings: Settings, ip: str, key: str) -> Iterator[str]:
    target = f"{ip} daddr . th dport"
    lane = f"{ip} daddr . th dport . meta priority"  # a lane tells the protocol; nft 1.0.6 loses track of five parts
    for name in ("services", "inside", "defaults"):
        yield f"  map {name} {{ typeof {key} : verdict; }}\n"
    yield f"  map endpoints {{ typeof {key} . numgen random mod 2 : {target}; }}\n"
    for name in ("segments", "outer-segments"):
        yield f"  map {name} {{ typeof {key} . {ip} saddr : meta priority; flags interval; }}\n"
    for name in ("inner-lanes", "outer-lanes"):
        yield f"  map {name} {{ typeof {key} : meta priority; }}\n"
    for name in ("lanes", "picks"):
        yield f"  map {name} {{ typeof {lane} : verdict; }}\n"
    yield f"  map routed {{ typeof {lane} . numgen random mod 2 : {target}; }}\n"
    yield f"  map ids {{ typeof {lane} . numgen random mod 2 : meta priority; }}\n"
    yield f"  map targets {{ typeof {key} . meta priority : {target}; }}\n"
    yield f"  map numbers {{ typeof {key} : meta mark; }}\n"
    yield f"  set cluster-ips {{ type {_TYPES[settings.v6]}; }}\n"
    for name in ("masqueraded", "guarded"):
        yield f"  set {name} {{ typeof {key}; }}\n"
    yield f"  set allowed {{ typeof {key} . {ip} saddr; flags interval; }}\n"
    yield f"  set hairpins {{ typeof {ip} saddr . {ip} daddr; }}\n"
    for seconds in settings.timeouts:
        yield f"  map affinity-{seconds} {{ typeof {_client(ip, 'meta mark')[1]} : meta priority; "
        yield f"flags dynamic,timeout; timeout {seconds}s; size 1048576; }}\n"
    if settings.retries:
        client, some = _client(ip, _connection(ip))[1], "flags dynamic,timeout; timeout 4s; size 1048576;"
        yield f"  map attempts {{ typeof {client} : meta priority; {some} }}\n"
        yield f"  set tries {{ typeof {client}; {some} }}\n"
        yield f"  set ejected {{ typeof meta priority; flags dynamic,timeout; timeout {EJECTED_SECONDS}s; "
        yield "size 65536; }\n"
        yield f"  ct timeout retry {{ protocol tcp; l3proto {ip}; policy = {{ syn_sent : 1 }}; }}\n"


def _chains(settings: Settings, ip: str, key: str) -> Iterator[str]:
    lane = f"{ip} daddr . th dport . meta priority"
    # An ICMP refusal that comes while connect() still holds the socket is heard only at the next SYN, a second later.
    yield from _chain("none", "meta l4proto tcp reject with tcp reset", "reject")
    yield from _chain("lost", "drop")
    for way, pick in _picks(settings, ip):
        yield from _chain(f"n{way}", f"{_TRANSPORT} dnat {ip} to {key} . {pick} map @endpoints")
        yield from _chain(f"r{way}", f"{_TRANSPORT} dnat {ip} to {lane} . {pick} map @routed")
        yield from _chain(f"k{way}", f"meta priority set {lane} . {pick} map @ids")
    mark = f"meta mark set meta mark | {MASQUERADE:#x}"
    yield from _chain("target", f"{_TRANSPORT} dnat {ip} to {key} . meta priority map @targets")
    yield from _chain("known", "meta mark set 0x0", f"{key} @masqueraded {mark}", "goto target")
    for side in ("inner", "outer"):
        anew = (f"meta priority set {key} map @{side}-lanes", f"{lane} vmap @picks")
        for seconds in settings.timeouts:
            yield from _sticky(ip, key, seconds, side, anew)
        if settings.retries:
            yield from _retrying(ip, side, anew)
    yield from _chain(
        "lanes", f"meta priority set {key} . {ip} saddr map @segments {lane} vmap @lanes", f"{key} vmap @defaults"
    )
    # A pod of another node keeps its address, so only an endpoint of this node answers it past the translation.
    yield from _chain(
        "local",
        *((f"{ip} saddr {_set(settings.own)} {key} vmap @inside",) if settings.own else ()),
        f"fib saddr type local {mark} {key} vmap @inside",
        f"meta priority set {key} . {ip} saddr map @outer-segments {lane} vmap @lanes",
        f"meta priority set {key} map @outer-lanes {lane} vmap @lanes",
    )
    yield from _chain(
        "services",
        f"{key} @guarded {key} . {ip} saddr != @allowed goto lost",
        f"{key} @masqueraded {mark}",
        f"{key} vmap @services",
        f"{ip} daddr @cluster-ips goto none",
        *((f"{ip} daddr {_set(settings.service_cidrs)} drop",) if settings.service_cidrs else ()),
    )
    yield from _hooks(settings, ip)


def _picks(settings: Settings, ip: str) -> Iterator[tuple[str, str]]:
    """(end of the chains' names, how a slot is picked). The seed is fixed, so that all nodes hash alike."""
    yield from ((str(size), f"numgen random mod {size}") for size in SIZES)
    if SOURCE_HASH in settings.algorithms:
        yield "-hash", f"jhash {ip} saddr mod {HASHED} seed {SEED:#x}"
    if ROUND_ROBIN in settings.algorithms:
        yield from ((f"-turn-{counter}", f"numgen inc mod {TURNS}") for counter in range(COUNTERS))


def _sticky(ip: str, key: str, seconds: int, side: str, pick: tuple[str, ...]) -> Iterator[str]:
    """A known client goes where it went, if that is still there; else it is forgotten and gets an endpoint anew."""
    hashed, client = _client(ip, "meta mark")
    memory = f"@affinity-{seconds} {{ {client} : meta priority }}"
    number = f"meta mark set {key} map @numbers{hashed}"
    yield from _chain(
        f"sticky-{side}-{seconds}",
        number,
        f"meta priority set {client} map @affinity-{seconds} update {memory} jump known",
        number,
        f"delete {memory}",
        *pick,
        f"update {memory}",
        "goto known",
    )


def _retrying(ip: str, side: str, pick: tuple[str, ...]) -> Iterator[str]:
    """A SYN that comes again within seconds got no answer: that endpoint is passed over."""
    hashed, client = _client(ip, _connection(ip))
    there = "goto known" if hashed else "goto target"
    yield from _chain(f"again-{side}", *pick)
    yield from _chain(
        f"retry-{side}",
        *((hashed.strip(),) if hashed else ()),
        f"meta priority set {client} map @attempts update @ejected {{ meta priority }}",
        *pick,
        *(f"meta priority @ejected jump again-{side}" for _ in range(REDRAWS)),
        f"delete @attempts {{ {client} : meta priority }}",
        f"update @attempts {{ {client} : meta priority }}",
        'ct timeout set "retry"',
        f"update @tries {{ {client} limit rate over 1/hour burst {ATTEMPTS - 1} packets }} {there}",
        f"ct label set {LABEL}",
        there,
    )


def _connection(ip: str) -> str:
    """Only a SYN's repetition has its sequence number too; another connection may have its ports a moment later."""
    return f"tcp sequence . th sport . {ip} daddr"


def _client(ip: str, what: str) -> tuple[str, str]:
    """(statement to make it, key) that tells apart clients, each by `what`. In a map statement nft 1.0.6 sets aside 16
    bytes for the key and lays the value over the rest, so IPv6 has a hash in the mark: should two clients ever hash
    alike, the id of the one leads nowhere at the other's Service, or both to the same endpoint."""
    if ip == "ip":
        return "", f"{what} . ip saddr"
    return f" meta mark set jhash {what} . ip6 saddr mod 4294967295 seed 0x1", "meta mark"


def _hooks(settings: Settings, ip: str) -> Iterator[str]:
    stranger = () if settings.v6 else (f"{localhost.STRANGER} return",)
    clear = f"meta mark set meta mark & {0xFFFFFFFF ^ MASQUERADE:#x}"
    offered = f"{ip} saddr != {_set(settings.pods)} ct original {ip} daddr @cluster-ips"
    yield from _hook("prerouting", "nat hook prerouting priority dstnat", *stranger, "jump services")
    yield from _hook("output", "nat hook output priority -100", "jump services")
    yield from _hook(
        "postrouting",
        "nat hook postrouting priority srcnat",
        f"ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade fully-random",
        *(() if settings.v6 else ("ct status dnat ip saddr 127.0.0.0/8 masquerade fully-random",)),
        f"meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} {clear} masquerade fully-random",
        f"ct status dnat {offered} masquerade fully-random",
    )
    if not settings.v6:
        yield from _hook("guard", "filter hook input priority filter", localhost.GUARD)
    if settings.retries:
        # Seen by connection tracking before, so the repeated SYN opens a new flow (tcp_new state after CLOSE).
        refusal = f"ct direction reply ct label {LABEL} tcp flags & (rst | ack) == rst | ack tcp sequence 0"
        for hook in ("postrouting", "input"):  # also when an endpoint is a process of this node, and so may the client
            yield from _hook(f"refusals-{hook}", f"filter hook {hook} priority filter", f"{refusal} drop")


def _hook(name: str, where: str, *rules: str) -> Iterator[str]:
    yield from _chain(name, f"type {where}; policy accept;", *rules)


def _set(words: tuple[str, ...]) -> str:
    return f"{{ {', '.join(words)} }}"


def _chain(name: str, *rules: str) -> Iterator[str]:
    yield f"  chain {name} {{\n"
    yield from (f"    {rule}\n" for rule in rules)
    yield "  }\n"
