"""SkyDNS's settings that stand in etcd themselves, at /skydns/config: they count before those of the command line.

SkyDNS reads them once, at its start; here a change counts at once, and one that can't be used changes nothing. Where it
listens and for which domain is for the command line alone.
Source: skynetservices/skydns server/config.go, README.md.
"""

from __future__ import annotations

import msgspec

from podnet.network.dns.settings import Server, server
from podnet.network.dns.skydns_answers import Options
from podnet.network.dns.skydns_names import Count, Word
from podnet.network.value import Value
from podnet.wire import dns


class Settings(Value, frozen=True):
    """Options, and who is asked for other names."""

    options: Options
    servers: tuple[Server, ...] = ()


class _Config(msgspec.Struct, frozen=True):
    """None and () mean that it is not said."""

    ttl: Count | None = None
    min_ttl: Count | None = None
    priority: Word | None = None
    ndots: Word | None = msgspec.field(default=None, name="ndot")
    round_robin: bool | None = None
    hostmaster: str = ""
    local: str = ""
    nameservers: tuple[str, ...] = ()
    no_rec: bool = False


_CONFIG = msgspec.json.Decoder(_Config)
_NUMBERS = ("ttl", "min_ttl", "priority", "ndots", "round_robin")


def configured(given: Settings, text: str) -> Settings:
    """The settings of the command line, changed by what stands in etcd. Raises ValueError, whose text says why not."""
    said = _CONFIG.decode(text)
    changes = {name: getattr(said, name) for name in _NUMBERS if getattr(said, name) is not None}
    if said.hostmaster:
        changes["hostmaster"] = dns.name(said.hostmaster.replace("@", "."))
    if said.local:
        changes["local"] = dns.lower(dns.name(said.local))
    options = msgspec.structs.replace(given.options, **changes)
    servers = tuple(map(server, said.nameservers)) or given.servers
    return Settings(options, () if said.no_rec else servers)
