"""The runtime's side of CNI against plugins that write down how they were called."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podnet.lab import libcni
from podnet.lab.libcni import (
    INTERNAL,
    TRY_AGAIN,
    Cni,
    Network,
    PluginError,
    Runtime,
    configuration,
    environment,
    load,
    parse,
)
from tests.labs.values import read_text, write_text

PLUGIN = """\
#!/bin/sh
# Appends its call to calls; answers with the file NAME.COMMAND, exits with the code in NAME.COMMAND.code.
name=$(basename "$0")
dir=$(dirname "$0")
input=$(cat)
{
  printf '{"plugin": "%s", "command": "%s", "id": "%s", ' "$name" "$CNI_COMMAND" "$CNI_CONTAINERID"
  printf '"netns": "%s", "ifname": "%s", ' "$CNI_NETNS" "$CNI_IFNAME"
  printf '"args": "%s", "path": "%s", "stdin": %s}\\n' "$CNI_ARGS" "$CNI_PATH" "$input"
} >> "$dir/calls"
[ -e "$dir/$name.$CNI_COMMAND.stderr" ] && cat "$dir/$name.$CNI_COMMAND.stderr" >&2
[ -e "$dir/$name.$CNI_COMMAND" ] && cat "$dir/$name.$CNI_COMMAND"
exit $(cat "$dir/$name.$CNI_COMMAND.code" 2>/dev/null || echo 0)
"""
RUNTIME = Runtime("c1", "/run/netns/c1", args=(("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")))


class Plugins:
    """Two plugins, `first` and `second`, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cni = Cni([str(folder / "none"), str(folder)], str(folder / "cache"))
        for name in ("first", "second"):
            path = folder / name
            path.write_text(PLUGIN)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            self.answer(name, "ADD", {"cniVersion": "1.0.0", "ips": [{"address": f"10.1.0.{len(name)}/24"}]})

    def answer(self, plugin: str, command: str, body: object, code: int = 0, stderr: str = "") -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        (self.folder / f"{plugin}.{command}").write_text(text)
        (self.folder / f"{plugin}.{command}.code").write_text(str(code))
        (self.folder / f"{plugin}.{command}.stderr").write_text(stderr)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def order(self) -> list[str]:
        return [f"{call['plugin']} {call['command']}" for call in self.calls]

    def forget(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def network(**fields: Any) -> Network:
    document = {"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "first"}, {"type": "second"}], **fields}
    return parse(json.dumps(document).encode())


# -- parsing


def test_a_list() -> None:
    found = network()
    assert (found.name, found.version, [plugin["type"] for plugin in found.plugins]) == (
        "net",
        "1.1.0",
        ["first", "second"],
    )
    assert not found.disable_check
    assert not found.disable_gc


def test_a_single_plugin_is_a_list_of_one() -> None:
    found = parse(b'{"cniVersion": "0.4.0", "name": "one", "type": "first", "x": 1}')
    assert found.plugins == ({"cniVersion": "0.4.0", "name": "one", "type": "first", "x": 1},)


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": "1.0.0"}, "1.0.0"),
        ({"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["9.0.0"]}, "1.0.0"),
    ],
)
def test_the_newest_version_that_both_speak(fields: dict[str, Any], version: str) -> None:
    assert network(**fields).version == version


@pytest.mark.parametrize(
    ("version", "asked", "knows"),
    [("0.3.1", "0.4.0", False), ("0.4.0", "0.4.0", True), ("1.0.0", "1.1.0", False), ("1.1.0", "1.1.0", True)],
)
def test_what_a_version_knows(version: str, asked: str, knows: bool) -> None:
    assert network(cniVersion=version).knows(asked) is knows


@pytest.mark.parametrize("value", [True, "true"])
def test_flags_may_be_words(value: object) -> None:
    found = network(disableCheck=value, disableGC=value)
    assert found.disable_check
    assert found.disable_gc


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"cniVersion": "1.0.0", "name": "n"}', "plugins"),
        ('{"cniVersion": "1.0.0", "name": "n", "plugins": []}', "plugins"),
        ('{"cniVersion": "1.0.0", "name": "n", "plugins": [{}]}', "plugins"),
        ('{"cniVersion": "1.0.0", "name": "n", "plugins": {"type": "x"}}', "plugins"),
        ('{"cniVersion": "1.0.0", "plugins": [{"type": "x"}]}', "name"),
        ('{"cniVersion": "7.0.0", "name": "n", "plugins": [{"type": "x"}]}', "cniVersion: 7.0.0 is none of"),
    ],
)
def test_what_is_no_configuration(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text.encode())


# -- loading


def write(folder: Path, name: str, network_name: str) -> None:
    (folder / name).write_text(json.dumps({"cniVersion": "1.0.0", "name": network_name, "plugins": [{"type": "x"}]}))


def test_the_first_by_name_counts(tmp_path: Path) -> None:
    write(tmp_path, "20-b.conflist", "b")
    write(tmp_path, "10-a.conf", "a")
    write(tmp_path, "00-readme.txt", "no")
    found = load(str(tmp_path))
    assert found is not None
    assert found.name == "a"


def test_none_without_a_file_or_a_folder(tmp_path: Path) -> None:
    assert load(str(tmp_path)) is None
    assert load(str(tmp_path / "missing")) is None


def test_a_broken_first_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "20-b.conflist", "b")
    (tmp_path / "10-a.conflist").write_text("{")
    with pytest.raises(ValueError, match="not a JSON object"):
        load(str(tmp_path))


# -- what a plugin gets


def test_the_configuration_of_one_plugin() -> None:
    found = network(plugins=[{"type": "first", "mtu": 1400, "capabilities": {"mac": True}, "prevResult": {"old": 1}}])
    assert configuration(found, found.plugins[0], RUNTIME, {}) == {
        "type": "first",
        "mtu": 1400,
        "name": "net",
        "cniVersion": "1.1.0",
    }


@pytest.mark.parametrize(
    ("declared", "granted"),
    [
        ({"portMappings": True}, {"portMappings": [1]}),
        ({"portMappings": True, "bandwidth": True}, {"portMappings": [1], "bandwidth": {"x": 2}}),
        ({"portMappings": False, "mac": True}, None),
        ({}, None),
    ],
)
def test_a_plugin_gets_the_capabilities_it_declares(declared: dict[str, bool], granted: dict[str, Any] | None) -> None:
    found = network(plugins=[{"type": "first", "capabilities": declared}])
    asked = msgspec.structs.replace(RUNTIME, capabilities={"portMappings": [1], "bandwidth": {"x": 2}})
    assert configuration(found, found.plugins[0], asked, {}).get("runtimeConfig") == granted


def test_the_environment() -> None:
    found = environment("ADD", RUNTIME, ["/a", "/b"])
    assert found["CNI_COMMAND"] == "ADD"
    assert found["CNI_CONTAINERID"] == "c1"
    assert found["CNI_NETNS"] == "/run/netns/c1"
    assert found["CNI_IFNAME"] == "eth0"
    assert found["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD_NAME=web"
    assert found["CNI_PATH"] == "/a:/b"
    assert "CNI_CONTAINERID" not in environment("STATUS", None, [])


# -- ADD


async def test_add_runs_forwards_and_hands_on_results(plugins: Plugins) -> None:
    result = await plugins.cni.add(network(), RUNTIME)
    assert plugins.order == ["first ADD", "second ADD"]
    first, second = plugins.calls
    assert "prevResult" not in first["stdin"]
    assert second["stdin"]["prevResult"]["ips"] == [{"address": "10.1.0.5/24"}]
    assert result["ips"] == [{"address": "10.1.0.6/24"}]
    assert first["id"] == "c1"
    assert first["netns"] == "/run/netns/c1"


async def test_add_leaves_libcnis_cache(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    (name,) = os.listdir(plugins.cni.cache_dir)
    assert name == "net-c1-eth0"
    cached = json.loads(read_text(plugins.cni.cache_dir, name))
    assert cached["kind"] == "cniCacheV1"
    assert cached["containerId"] == "c1"
    assert cached["networkName"] == "net"
    assert cached["ifName"] == "eth0"
    assert cached["cniArgs"] == [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]]
    assert json.loads(base64.b64decode(cached["config"]))["plugins"] == [{"type": "first"}, {"type": "second"}]
    assert cached["result"]["ips"] == [{"address": "10.1.0.6/24"}]


async def test_a_failed_add_stops_and_caches_nothing(plugins: Plugins) -> None:
    plugins.answer("first", "ADD", {"cniVersion": "1.0.0", "code": 11, "msg": "not yet", "details": "agent away"}, 1)
    with pytest.raises(PluginError) as error:
        await plugins.cni.add(network(), RUNTIME)
    assert plugins.order == ["first ADD"]
    assert error.value.code == TRY_AGAIN
    assert str(error.value) == "first ADD: not yet (agent away)"
    assert plugins.cni.cached(RUNTIME) is None


@pytest.mark.parametrize(
    ("body", "stderr", "says"),
    [("", "it broke", "it broke"), ("garbage", "", "garbage"), ("", "", "exit code 3"), ('{"code": 5}', "io", "io")],
)
async def test_an_error_that_is_no_error_object(plugins: Plugins, body: str, stderr: str, says: str) -> None:
    plugins.answer("first", "ADD", body, 3, stderr)
    with pytest.raises(PluginError) as error:
        await plugins.cni.add(network(), RUNTIME)
    assert says in str(error.value)
    assert error.value.code == (5 if body.startswith("{") else INTERNAL)


async def test_a_missing_plugin_is_named(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match="nowhere ADD: no such executable") as error:
        await plugins.cni.add(network(plugins=[{"type": "nowhere"}]), RUNTIME)
    assert error.value.code == INTERNAL


async def test_a_plugin_that_hangs_is_an_answer_to_try_again(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcni, "TIMEOUT_SECONDS", 0.2)
    (plugins.folder / "first").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(PluginError, match="no answer") as error:
        await plugins.cni.add(network(), RUNTIME)
    assert error.value.code == TRY_AGAIN


# -- CHECK


async def test_check_runs_forwards_with_the_final_result(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    plugins.forget()
    await plugins.cni.check(network(), RUNTIME)
    assert plugins.order == ["first CHECK", "second CHECK"]
    assert all(call["stdin"]["prevResult"]["ips"] == [{"address": "10.1.0.6/24"}] for call in plugins.calls)


@pytest.mark.parametrize("fields", [{"cniVersion": "0.3.1"}, {"disableCheck": True}])
async def test_check_is_left_out_where_it_is_unknown_or_unwanted(plugins: Plugins, fields: dict[str, Any]) -> None:
    await plugins.cni.add(network(**fields), RUNTIME)
    plugins.forget()
    await plugins.cni.check(network(**fields), RUNTIME)
    assert plugins.order == []


async def test_check_of_what_was_never_added_asks_nobody(plugins: Plugins) -> None:
    await plugins.cni.check(network(), RUNTIME)
    assert plugins.order == []


# -- DEL


async def test_del_runs_backwards_with_the_final_result(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    plugins.forget()
    await plugins.cni.delete(network(), RUNTIME)
    assert plugins.order == ["second DEL", "first DEL"]
    assert all(call["stdin"]["prevResult"]["ips"] == [{"address": "10.1.0.6/24"}] for call in plugins.calls)
    assert os.listdir(plugins.cni.cache_dir) == []


async def test_del_uses_the_list_of_the_add(plugins: Plugins) -> None:
    await plugins.cni.add(network(plugins=[{"type": "first", "old": True}]), RUNTIME)
    plugins.forget()
    await plugins.cni.delete(network(name="renamed"), RUNTIME)
    assert plugins.order == ["first DEL"]
    assert plugins.calls[0]["stdin"]["old"] is True
    assert plugins.calls[0]["stdin"]["name"] == "net"


async def test_del_works_without_any_configuration(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    plugins.forget()
    await plugins.cni.delete(None, RUNTIME)
    assert plugins.order == ["second DEL", "first DEL"]


async def test_del_of_a_half_done_add_uses_the_present_list(plugins: Plugins) -> None:
    await plugins.cni.delete(network(), RUNTIME)
    assert plugins.order == ["second DEL", "first DEL"]
    assert all("prevResult" not in call["stdin"] for call in plugins.calls)


async def test_del_of_nothing_with_nothing(plugins: Plugins) -> None:
    await plugins.cni.delete(None, RUNTIME)
    assert plugins.order == []


async def test_before_0_4_0_del_gets_no_result(plugins: Plugins) -> None:
    await plugins.cni.add(network(cniVersion="0.3.1"), RUNTIME)
    plugins.forget()
    await plugins.cni.delete(network(cniVersion="0.3.1"), RUNTIME)
    assert all("prevResult" not in call["stdin"] for call in plugins.calls)


async def test_a_failed_del_keeps_the_cache_for_the_next(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    plugins.answer("second", "DEL", {"code": 11, "msg": "later"}, 1)
    with pytest.raises(PluginError, match="later"):
        await plugins.cni.delete(network(), RUNTIME)
    assert plugins.cni.cached(RUNTIME) is not None


async def test_a_torn_cache_entry_is_ignored(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    write_text(f"{plugins.cni.cache_dir}/net-c1-eth0", '{"kind": "cniCa')
    assert plugins.cni.cached(RUNTIME) is None


# -- GC and STATUS


async def test_gc_removes_what_is_not_valid_and_tells_the_plugins(plugins: Plugins) -> None:
    other = msgspec.structs.replace(RUNTIME, container_id="c2")
    for runtime in (RUNTIME, other):
        await plugins.cni.add(network(), runtime)
    plugins.forget()
    assert await plugins.cni.collect(network(), [("c2", "eth0")]) == []
    assert plugins.order == ["second DEL", "first DEL", "first GC", "second GC"]
    assert {call["id"] for call in plugins.calls[:2]} == {"c1"}
    for call in plugins.calls[2:]:
        assert call["stdin"]["cni.dev/valid-attachments"] == [{"containerID": "c2", "ifname": "eth0"}]
        assert call["stdin"]["cni.dev/attachments"] == call["stdin"]["cni.dev/valid-attachments"]
    assert plugins.cni.cached(other) is not None


async def test_gc_goes_on_after_errors(plugins: Plugins) -> None:
    await plugins.cni.add(network(), RUNTIME)
    plugins.answer("second", "DEL", {"code": 11, "msg": "later"}, 1)
    plugins.answer("first", "GC", {"code": 5, "msg": "io"}, 1)
    failed = await plugins.cni.collect(network(), [])
    assert [error.code for error in failed] == [11, 5]
    assert plugins.order[-1] == "second GC"


@pytest.mark.parametrize("fields", [{"cniVersion": "1.0.0"}, {"disableGC": "true"}])
async def test_gc_is_left_out_where_it_is_unknown_or_unwanted(plugins: Plugins, fields: dict[str, Any]) -> None:
    assert await plugins.cni.collect(network(**fields), []) == []
    assert plugins.order == []


async def test_gc_leaves_other_networks_alone(plugins: Plugins) -> None:
    await plugins.cni.add(network(name="other"), RUNTIME)
    plugins.forget()
    await plugins.cni.collect(network(), [])
    assert plugins.order == ["first GC", "second GC"]


async def test_status_asks_every_plugin(plugins: Plugins) -> None:
    await plugins.cni.status(network())
    assert plugins.order == ["first STATUS", "second STATUS"]


async def test_status_says_who_can_not_serve(plugins: Plugins) -> None:
    plugins.answer("second", "STATUS", {"code": 50, "msg": "no agent"}, 1)
    with pytest.raises(PluginError, match="second STATUS: no agent"):
        await plugins.cni.status(network())


async def test_status_is_unknown_before_1_1_0(plugins: Plugins) -> None:
    await plugins.cni.status(network(cniVersion="1.0.0"))
    assert plugins.order == []
