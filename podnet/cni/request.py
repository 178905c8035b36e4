"""What the shim sends, as a checked `Request`: no byte of it is used before it matched a pattern.

The frame is `NAME=VALUE\\0` for each variable, one more `\\0`, then stdin. The patterns are narrower than the
specification where a wider name could only be an accident or an attack: nothing with a meaning to a shell, a path or a
sysctl name gets through, although no shell is ever involved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from podnet.cni.config import BandwidthConfig, Config, PortConfig, address, config_version, decode
from podnet.cni.errors import CniError, Code
from podnet.network.view import Attachment, Bandwidth, PortMapping

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
VARIABLES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE")
CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")
IFNAME = re.compile(r"(?!(?:lo|all|default)\Z)[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}")
NETNS = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.:@=+~\-]+){1,64}")
ARGUMENT = re.compile(r"([A-Za-z0-9_]{1,128})=([\x20-\x3a\x3c-\x7e]{0,1024})")
MAC = re.compile(r"[0-9a-f][02468ace](?::[0-9a-f]{2}){5}")
NAME = re.compile(r"[A-Za-z0-9_.\-]{0,253}")
BOOLEANS = {"1": True, "true": True, "0": False, "false": False, "": False}
KNOWN = {"IgnoreUnknown", "IP", "MAC", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"}
PROTOCOLS = ("tcp", "udp", "sctp")


class Request(msgspec.Struct, frozen=True):
    """One call of the plugin. `draft` is the attachment asked for, as yet without address; `ips` are wishes."""

    command: str
    config: Config
    draft: Attachment = Attachment(container_id="", ifname="", netns="")
    ips: tuple[str, ...] = ()
    own_netns: bool = False

    @property
    def id(self) -> tuple[str, str]:
        """The attachment's identity, ("", "") for commands that are about none."""
        return self.draft.id


def split(frame: bytes) -> tuple[dict[str, str], bytes]:
    """The variables and stdin of a frame; raises CniError 4."""
    head, end, stdin = (b"", b"\0", frame[1:]) if frame.startswith(b"\0") else frame.partition(b"\0\0")
    if not end:
        raise CniError(Code.ENVIRONMENT, "the request ends within its variables; call podnet-cni of the same version")
    env: dict[str, str] = {}
    for entry in filter(None, head.split(b"\0")):
        name, _, value = entry.decode("ascii", "backslashreplace").partition("=")
        if name not in VARIABLES or name in env or not value.isprintable():
            raise CniError(Code.ENVIRONMENT, f"{name[:64]!r} is not a variable of CNI, or given twice, or unprintable")
        env[name] = value
    return env, stdin


def join(env: Mapping[str, str], stdin: bytes) -> bytes:
    """The frame of these variables and stdin, as the shim makes it."""
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items()) + b"\0" + stdin


def version_of(frame: bytes) -> str:
    """The cniVersion of a frame that may be anything; "" when it has none."""
    return config_version(frame.partition(b"\0\0")[2])


def parse(frame: bytes) -> Request:
    """The request in a frame; raises CniError 4 (variables), 6 (not JSON), 1, 2 and 7 (configuration)."""
    env, stdin = split(frame)
    command = env.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(Code.ENVIRONMENT, f"CNI_COMMAND must be one of {', '.join(COMMANDS)}, not {command[:64]!r}")
    if command == "VERSION":
        return Request(command, Config("", "", ""))
    own_netns = _boolean("CNI_NETNS_OVERRIDE", env.get("CNI_NETNS_OVERRIDE", ""))
    if command in ("GC", "STATUS"):
        return Request(command, decode(command, stdin), own_netns=own_netns)
    draft = _identity(command, env)
    args = _arguments(env.get("CNI_ARGS", ""))
    config = decode(command, stdin)
    pod = "/".join(filter(None, (args.get("K8S_POD_NAMESPACE"), args.get("K8S_POD_NAME"))))
    draft = msgspec.structs.replace(draft, network=config.name, pod=pod)
    if command == "DEL":
        return Request(command, config, draft)
    return Request(command, config, _completed(draft, config, args), tuple(_ips(config, args)), own_netns)


def _identity(command: str, env: Mapping[str, str]) -> Attachment:
    def variable(name: str, pattern: re.Pattern[str]) -> str:
        value = env.get(name, "")
        if not pattern.fullmatch(value):
            raise CniError(Code.ENVIRONMENT, f"{name} {value[:128]!r} can't be used" if value else f"{name} is missing")
        return value

    netns = "" if command == "DEL" and not env.get("CNI_NETNS") else variable("CNI_NETNS", NETNS)
    return Attachment(variable("CNI_CONTAINERID", CONTAINER_ID), variable("CNI_IFNAME", IFNAME), netns)


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS as a dict; keys that nobody here knows are an error unless IgnoreUnknown says otherwise."""
    args: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        match = ARGUMENT.fullmatch(pair)
        if not match:
            raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: {pair[:128]!r} is not KEY=VALUE")
        args[match[1]] = match[2]
    unknown = sorted(args.keys() - KNOWN)
    if unknown and not _boolean("CNI_ARGS: IgnoreUnknown", args.get("IgnoreUnknown", "")):
        raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)[:200]}; IgnoreUnknown=1 allows it")
    for name in ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"):
        if not NAME.fullmatch(args.get(name, "")):
            raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: {name} {args[name][:128]!r} can't be used")
    return args


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise CniError(Code.ENVIRONMENT, f"{name} must be 1 or 0, not {text[:64]!r}")
    return BOOLEANS[text.lower()]


def _completed(draft: Attachment, config: Config, args: Mapping[str, str]) -> Attachment:
    """The draft with what the configuration says of this pod; where a MAC is asked for twice, the last one wins."""
    runtime = config.runtime_config
    mac = (runtime.mac or config.args.cni.mac or args.get("MAC", "")).lower()
    if (mac and not MAC.fullmatch(mac)) or mac == "00:00:00:00:00:00":
        raise CniError(Code.CONFIG, f"mac: {mac[:64]!r} is not the address of one interface, such as 0a:58:0a:f4:01:02")
    return msgspec.structs.replace(
        draft,
        mac=mac,
        mtu=config.mtu or 0,
        mode=config.attachment or draft.mode,
        ports=_ports(runtime.port_mappings),
        bandwidth=_bandwidth(runtime.bandwidth) if runtime.bandwidth else None,
    )


def _ports(configured: Iterable[PortConfig]) -> tuple[PortMapping, ...]:
    ports = tuple(dict.fromkeys(map(_port, configured)))
    if len({(port.protocol, port.host_port, port.host_ip) for port in ports}) != len(ports):
        raise CniError(Code.CONFIG, "runtimeConfig.portMappings: a host port is led to two ports of the container")
    return ports


def _port(port: PortConfig) -> PortMapping:
    protocol = port.protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise CniError(Code.CONFIG, f"runtimeConfig.portMappings: protocol {protocol[:32]!r} is not tcp, udp or sctp")
    host_ip = address("runtimeConfig.portMappings", port.host_ip) if port.host_ip else ""
    return PortMapping(port.host_port, port.container_port, protocol, "" if host_ip in ("0.0.0.0", "::") else host_ip)


def _bandwidth(limits: BandwidthConfig) -> Bandwidth | None:
    for rate, burst in ((limits.ingress_rate, limits.ingress_burst), (limits.egress_rate, limits.egress_burst)):
        if bool(rate) != bool(burst):
            raise CniError(Code.CONFIG, "runtimeConfig.bandwidth: a rate and its burst must be set together")
    found = Bandwidth(limits.ingress_rate, limits.ingress_burst, limits.egress_rate, limits.egress_burst)
    return None if found == Bandwidth() else found


def _ips(config: Config, args: Mapping[str, str]) -> Iterator[str]:
    """Every address asked for, wherever; host-local takes them together as well."""
    for field, text in [
        *([("CNI_ARGS: IP", args["IP"])] if args.get("IP") else []),
        *(("args.cni.ips", text) for text in config.args.cni.ips),
        *(("runtimeConfig.ips", text) for text in config.runtime_config.ips),
    ]:
        yield address(field, text)
