"""The network configuration on stdin as typed values: everything podnet uses is checked, everything else is let be.

The specification wants unknown keys tolerated at the top (runtimes and other plugins add theirs), so only the parts
that podnet acts on are strict. `null` is what Go writes for an empty list and means "not given".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

from podnet.cni.errors import VERSIONS, CniError, Code
from podnet.cni.result import Dns, Result, Words
from podnet.network.ipam import ranges

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z", max_length=200)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Rate = Annotated[int, msgspec.Meta(ge=0, lt=2**60)]
Burst = Annotated[int, msgspec.Meta(ge=0, lt=2**35)]  # bits; tc takes less than 4 GB
Mtu = Annotated[int, msgspec.Meta(ge=68, le=65535)]


class Part(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of the parts of a configuration."""


class RangeConfig(Part, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A range of addresses, as host-local has it."""

    subnet: str
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


RangeSets = Annotated[
    tuple[Annotated[tuple[RangeConfig, ...], msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=2)
]


class IpamConfig(Part, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The part of host-local's configuration that podnet has; empty means the node's podCIDRs."""

    type: Literal["podnet", "host-local", ""] = ""
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""
    ranges: RangeSets = ()


class PortConfig(Part, frozen=True, rename="camel"):
    """One element of the capability portMappings."""

    host_port: Port
    container_port: Port
    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")


class BandwidthConfig(Part, frozen=True, rename="camel"):
    """The capability bandwidth: bits/s and bits."""

    ingress_rate: Rate = 0
    ingress_burst: Burst = 0
    egress_rate: Rate = 0
    egress_burst: Burst = 0


class DnsConfig(Part, frozen=True, rename="camel"):
    """The capability dns."""

    servers: Words = ()
    searches: Words = ()
    options: Words = ()


class RuntimeConfig(Part, frozen=True, rename="camel"):
    """What the runtime fills in for the capabilities that the conflist declares."""

    port_mappings: tuple[PortConfig, ...] = ()
    bandwidth: BandwidthConfig | None = None
    ips: tuple[str, ...] = ()
    mac: str = ""
    ip_ranges: RangeSets = ()
    dns: DnsConfig | None = None


class CniArgs(Part, frozen=True, rename="camel"):
    """What of `args.cni` is known."""

    ips: tuple[str, ...] = ()
    mac: str = ""


class Args(Part, frozen=True, rename="camel"):
    """The key `args`; its other children belong to others."""

    cni: CniArgs = CniArgs()


class Valid(Part, frozen=True, rename="camel"):
    """An attachment that GC must spare."""

    container_id: str = msgspec.field(name="containerID")
    ifname: str


class Config(Part, frozen=True, rename="camel"):
    """One plugin's configuration. `attachment` and `mtu` are podnet's own keys and override the cluster's settings."""

    cni_version: str
    name: Name
    type: Name
    attachment: Literal["bridge", "ptp"] | None = None
    mtu: Mtu | None = None
    ip_masq: bool | Literal["true", "false"] | None = None
    ipam: IpamConfig = IpamConfig()
    dns: Dns = Dns()
    args: Args = Args()
    runtime_config: RuntimeConfig = RuntimeConfig()
    prev_result: Result | None = None
    valid: tuple[Valid, ...] | None = msgspec.field(default=None, name="cni.dev/valid-attachments")


HEADER = frozenset({"cniVersion", "name", "type"})
USED = {"DEL": HEADER, "GC": HEADER | {"cni.dev/valid-attachments"}, "STATUS": HEADER | {"ipam"}}
"""What is looked at by commands that must work however wrong the rest has become since the ADD."""

SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def decode(command: str, stdin: bytes) -> Config:
    """The configuration for `command`; raises CniError 6 (no JSON object), 1 (version), 2 or 7 (contents)."""
    document = _object(stdin)
    _check_version(command, document.get("cniVersion", "0.1.0"))
    keys = USED.get(command, document.keys())
    return _convert({key: value for key, value in document.items() if key in keys})


def config_version(stdin: bytes) -> str:
    """The cniVersion of a configuration that may be anything; "" when it has none."""
    try:
        version = _object(stdin).get("cniVersion")
    except CniError:
        return ""
    return version if isinstance(version, str) else ""


def _object(stdin: bytes) -> dict[str, object]:
    try:
        document = _without_nulls(msgspec.json.decode(stdin))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(Code.DECODE, f"the network configuration on stdin is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise CniError(Code.DECODE, "the network configuration on stdin is not a JSON object")
    return document


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _check_version(command: str, version: object) -> None:
    if version not in VERSIONS:
        message = f"cniVersion {version!r} is not supported"
        raise CniError(Code.VERSION, message, f"supported versions: {', '.join(VERSIONS)}")
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(Code.VERSION, f"{command} needs cniVersion {since}, the configuration has {version}")


def _convert(document: dict[str, object]) -> Config:
    try:
        config = msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise _invalid(document, str(error)) from None
    for server in (*config.dns.nameservers, *(config.runtime_config.dns or DnsConfig()).servers):
        address("dns server", server)
    return config


def _invalid(document: dict[str, object], error: str) -> CniError:
    """msgspec's message with its path turned round; an unknown key comes with its value, as the specification wants."""
    message, _, path = error.partition(" - at `$")
    field = path.rstrip("`").removeprefix(".")
    text = f"{field}: {message}" if field else message
    if "unknown field" not in message:
        return CniError(Code.CONFIG, text)
    key, part = message.split("`")[1], document.get(field)
    value = msgspec.json.encode(part.get(key)).decode()[:200] if isinstance(part, dict) else ""
    return CniError(Code.UNSUPPORTED, text, f"{key}: {value}" if value else "")


def address(field: str, text: str) -> str:
    """An IP address (a prefix length is cut off) in its canonical spelling; raises CniError 7."""
    host, slash, prefix = text.partition("/")
    try:
        found = ip_address(host)
    except ValueError:
        raise CniError(Code.CONFIG, f"{field}: {text!r} is not an IP address") from None
    if "%" in host or (slash and not (prefix.isdecimal() and int(prefix) <= found.max_prefixlen)):
        raise CniError(Code.CONFIG, f"{field}: {text!r} is not an IP address")
    return str(found)


def range_sets(config: Config, pod_cidrs: Sequence[str]) -> tuple[ranges.RangeSet, ...]:
    """Where the pod's addresses come from: runtimeConfig.ipRanges, else `ipam`, else the node's podCIDRs.

    Whatever is configured has to lie in the node's podCIDRs; raises CniError 7.
    """
    ipam = config.ipam
    own = RangeConfig(ipam.subnet, ipam.range_start, ipam.range_end, ipam.gateway)
    configured = config.runtime_config.ip_ranges or (*(((own,),) if ipam.subnet else ()), *ipam.ranges)
    try:
        if not configured:
            return ranges.of_node(pod_cidrs)
        return ranges.confine(ranges.check(map(_range_set, configured)), pod_cidrs)
    except ranges.RangeError as error:
        raise CniError(Code.CONFIG, str(error)) from None


def _range_set(configured: Iterable[RangeConfig]) -> ranges.RangeSet:
    found = tuple(ranges.parse(each.subnet, each.range_start, each.range_end, each.gateway) for each in configured)
    if not found:
        raise ranges.RangeError("a range set holds no range")
    return found
