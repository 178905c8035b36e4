"""A container runtime's side of CNI: run the plugins of a network's list, one after the other, and remember the result.

    ADD    first to last, each gets the previous one's result as prevResult; the last result is cached
    CHECK  first to last with the cached result;   DEL  last to first with the cached result and the cached list,
           so that a pod can be removed although its conflist is gone;   GC  every plugin, then STATUS likewise

Plugins are the real executables and get exactly what libcni gives them, so what works here works below containerd.
Source: CNI specification 1.1.0, sections 2 to 5, and containernetworking/cni libcni/api.go for cache and GC.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from podnet.lab.process import call
from podnet.lab.registry import write

Json = dict[str, Any]

SUPPORTED = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
TRY_AGAIN = 11
INTERNAL = 999
TIMEOUT_SECONDS = 90.0
SUFFIXES = (".conflist", ".conf", ".json")
RESERVED = ("capabilities", "runtimeConfig", "prevResult")


class Value(msgspec.Struct, frozen=True):
    """Base of the values in this module."""


class PluginError(Exception):
    """A plugin said no. `code` is the specification's (section 5), INTERNAL when its answer was no error object."""

    def __init__(self, plugin: str, command: str, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{plugin} {command}: {message}" + (f" ({details})" if details else ""))
        self.code = code


class Network(Value, frozen=True):
    """A network configuration list."""

    name: str
    version: str
    plugins: tuple[Json, ...]
    document: bytes
    disable_check: bool = False
    disable_gc: bool = False

    def knows(self, version: str) -> bool:
        """Whether the list's version is this one or newer."""
        return SUPPORTED.index(self.version) >= SUPPORTED.index(version)


class Runtime(Value, frozen=True):
    """What is asked for: one interface of one container. A plugin gets those `capabilities` that it declares."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: tuple[tuple[str, str], ...] = ()
    capabilities: Mapping[str, Any] = {}


class Cached(msgspec.Struct, frozen=True, rename="camel"):
    """What libcni keeps of an attachment; the file format is libcni's."""

    container_id: str
    config: str
    if_name: str
    network_name: str
    netns: str = ""
    cni_args: tuple[tuple[str, str], ...] = ()
    capability_args: dict[str, Any] = {}
    result: Json | None = None
    kind: str = "cniCacheV1"


def parse(data: bytes) -> Network:
    """Read a list, or a single plugin's configuration as a list of one. Raises ValueError."""
    try:
        document = msgspec.json.decode(data, type=Json)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a JSON object: {error}") from None
    plugins = document.get("plugins", [document])
    if not isinstance(plugins, list) or not plugins or not all(isinstance(p, dict) and p.get("type") for p in plugins):
        raise ValueError("plugins: a list of objects with a type is needed")
    return Network(
        name=_name(document),
        version=_version(document),
        plugins=tuple(plugins),
        document=data,
        disable_check=_flag(document, "disableCheck"),
        disable_gc=_flag(document, "disableGC"),
    )


def _name(document: Json) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("name: missing")
    return name


def _version(document: Json) -> str:
    """The newest version that the list offers and we speak."""
    offered = [*document.get("cniVersions", []), document.get("cniVersion", SUPPORTED[0])]
    spoken = [version for version in SUPPORTED if version in offered]
    if not spoken:
        raise ValueError(f"cniVersion: {', '.join(map(str, offered))} is none of {', '.join(SUPPORTED)}")
    return spoken[-1]


def _flag(document: Json, key: str) -> bool:
    return document.get(key) in (True, "true")


def load(conf_dir: str) -> Network | None:
    """The first configuration of a folder by name, as runtimes pick it; None without one. Raises ValueError."""
    try:
        found = sorted(name for name in os.listdir(conf_dir) if name.endswith(SUFFIXES))
        if not found:
            return None
        with open(f"{conf_dir}/{found[0]}", "rb") as file:
            return parse(file.read())
    except FileNotFoundError:
        return None


def configuration(network: Network, plugin: Json, runtime: Runtime | None, extra: Mapping[str, Any]) -> Json:
    """What one plugin gets on stdin."""
    declared = plugin.get("capabilities", {})
    config = {key: value for key, value in plugin.items() if key not in RESERVED}
    config |= {"name": network.name, "cniVersion": network.version, **extra}
    offered = runtime.capabilities if runtime else {}
    granted = {name: value for name, value in offered.items() if declared.get(name) is True}
    return config | ({"runtimeConfig": granted} if granted else {})


def environment(command: str, runtime: Runtime | None, bin_dirs: Sequence[str]) -> dict[str, str]:
    """The CNI_ variables of a call."""
    path = {"CNI_COMMAND": command, "CNI_PATH": ":".join(bin_dirs), "PATH": os.environ.get("PATH", os.defpath)}
    if runtime is None:
        return path
    return path | {
        "CNI_CONTAINERID": runtime.container_id,
        "CNI_NETNS": runtime.netns,
        "CNI_IFNAME": runtime.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in runtime.args),
    }


class Cni:
    """Runs plugins found in `bin_dirs` and keeps results in `cache_dir`."""

    def __init__(self, bin_dirs: Sequence[str], cache_dir: str) -> None:
        self.bin_dirs = tuple(bin_dirs)
        self.cache_dir = cache_dir

    async def add(self, network: Network, runtime: Runtime) -> Json:
        """Attach; the result of the last plugin. Raises PluginError, after which DEL is due."""
        result: Json | None = None
        for plugin in network.plugins:
            result = await self._run("ADD", network, plugin, runtime, {"prevResult": result} if result else {})
        assert result is not None
        self._remember(network, runtime, result)
        return result

    async def check(self, network: Network, runtime: Runtime) -> None:
        """Ask whether the attachment is as ADD made it. Raises PluginError when it isn't."""
        cached = self.cached(runtime)
        if network.disable_check or not network.knows("0.4.0") or cached is None:
            return
        for plugin in network.plugins:
            await self._run("CHECK", network, plugin, runtime, {"prevResult": cached.result})

    async def delete(self, network: Network | None, runtime: Runtime) -> None:
        """Detach, from the network it was attached to or else from `network`; twice is fine. Raises PluginError."""
        cached = self.cached(runtime)
        network = parse(base64.b64decode(cached.config)) if cached else network
        if network is None:
            return
        extra = {"prevResult": cached.result} if cached and cached.result and network.knows("0.4.0") else {}
        for plugin in reversed(network.plugins):
            await self._run("DEL", network, plugin, runtime, extra)
        if cached:
            os.unlink(self._cache_file(cached.network_name, cached.container_id, cached.if_name))

    async def collect(self, network: Network, valid: Iterable[tuple[str, str]]) -> list[PluginError]:
        """GC: detach what is cached but not in `valid` (container ID, interface), then tell plugins what is valid."""
        if not network.knows("1.1.0") or network.disable_gc:
            return []
        valid, failed = set(valid), []
        for cached in self._read_cache(""):
            if cached.network_name == network.name and (cached.container_id, cached.if_name) not in valid:
                stale = Runtime(cached.container_id, "", cached.if_name, cached.cni_args, cached.capability_args)
                failed += await self._errors(self.delete(network, stale))
        listed = [{"containerID": container, "ifname": ifname} for container, ifname in sorted(valid)]
        extra = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
        for plugin in network.plugins:
            failed += await self._errors(self._run("GC", network, plugin, None, extra))
        return failed

    async def status(self, network: Network) -> None:
        """Ask every plugin whether it can serve an ADD. Raises PluginError (50 or 51) when one can't."""
        for plugin in network.plugins if network.knows("1.1.0") else ():
            await self._run("STATUS", network, plugin, None, {})

    async def _errors(self, call: Any) -> list[PluginError]:
        try:
            await call
        except PluginError as error:
            return [error]
        return []

    async def _run(
        self, command: str, network: Network, plugin: Json, runtime: Runtime | None, extra: Mapping[str, Any]
    ) -> Json:
        """One call of one plugin; {} when it says nothing."""
        name = plugin["type"]
        stdin = msgspec.json.encode(configuration(network, plugin, runtime, extra))
        env = environment(command, runtime, self.bin_dirs)
        try:
            done = await call([self._find(name, command)], stdin=stdin, env=env, seconds=TIMEOUT_SECONDS)
        except TimeoutError:
            raise PluginError(name, command, TRY_AGAIN, f"no answer within {TIMEOUT_SECONDS:.0f} s") from None
        answer = _object(done.stdout)
        if done.code:
            words = answer.get("msg") or (done.stderr or done.stdout).decode(errors="replace").strip()
            code, details = answer.get("code", INTERNAL), answer.get("details", "")
            raise PluginError(name, command, code, words or f"exit code {done.code}", details)
        return answer

    def _find(self, plugin: str, command: str) -> str:
        for folder in self.bin_dirs:
            if os.access(f"{folder}/{plugin}", os.X_OK):
                return f"{folder}/{plugin}"
        raise PluginError(plugin, command, INTERNAL, f"no such executable in {', '.join(self.bin_dirs)}")

    def _cache_file(self, network: str, container: str, ifname: str) -> str:
        return f"{self.cache_dir}/{network}-{container}-{ifname}"

    def _remember(self, network: Network, runtime: Runtime, result: Json) -> None:
        cached = Cached(
            container_id=runtime.container_id,
            config=base64.b64encode(network.document).decode(),
            if_name=runtime.ifname,
            network_name=network.name,
            netns=runtime.netns,
            cni_args=runtime.args,
            capability_args=dict(runtime.capabilities),
            result=result,
        )
        os.makedirs(self.cache_dir, exist_ok=True)
        write(self._cache_file(network.name, runtime.container_id, runtime.ifname), msgspec.json.encode(cached))

    def cached(self, runtime: Runtime) -> Cached | None:
        """What ADD left of an attachment, whatever its network was called."""
        found = self._read_cache(f"-{runtime.container_id}-{runtime.ifname}")
        return found[0] if found else None

    def _read_cache(self, ending: str) -> list[Cached]:
        """The readable cache entries whose file name ends so."""
        found = []
        for name in os.listdir(self.cache_dir) if os.path.isdir(self.cache_dir) else ():
            if name.endswith(ending):
                with open(f"{self.cache_dir}/{name}", "rb") as file:
                    found += _decode_cached(file.read())
        return found


def _decode_cached(data: bytes) -> list[Cached]:
    try:
        return [msgspec.json.decode(data, type=Cached)]
    except msgspec.MsgspecError:
        return []


def _object(data: bytes) -> Json:
    try:
        return msgspec.json.decode(data, type=Json)
    except msgspec.MsgspecError:
        return {}
