"""The runtime's side in the bench: order, input and timing of plugin calls, with scripts as plugins."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from podnet.bench.chain import Chain, PluginFailed, execute
from podnet.lab.libcni import Runtime, parse

PLUGIN = """#!/bin/sh
input=$(cat)
echo "$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $input" >> {log}
[ "$CNI_COMMAND" = DEL ] || echo '{{"cniVersion": "1.0.0", "by": "{name}"}}'
"""
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "n",
    "plugins": [{"type": "one"}, {"type": "two", "capabilities": {"portMappings": True}}],
}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
POD = Runtime("c1", "/run/netns/p", capabilities={"portMappings": PORTS})


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        script(tmp_path, name, PLUGIN.format(name=name, log=tmp_path / "log"))
    return tmp_path / "log"


def chain(folder: Path) -> Chain:
    return Chain("", parse(json.dumps(CONFLIST).encode()), str(folder))


def calls(log: Path) -> list[tuple[list[str], dict[str, object]]]:
    lines = [line.split(" ", 5) for line in log.read_text().splitlines()]
    return [(words[:5], json.loads(words[5])) for words in lines]


def test_add_goes_forward_and_hands_on_the_result(tmp_path: Path, log: Path) -> None:
    chain(tmp_path).add(POD)
    (first, config), (second, then) = calls(log)
    assert first == ["ADD", "one", "c1", "/run/netns/p", "eth0"]
    assert second == ["ADD", "two", "c1", "/run/netns/p", "eth0"]
    assert config == {"type": "one", "name": "n", "cniVersion": "1.0.0"}
    assert then["prevResult"] == {"cniVersion": "1.0.0", "by": "one"}
    assert then["runtimeConfig"] == {"portMappings": PORTS}


def test_delete_goes_back_with_the_last_result(tmp_path: Path, log: Path) -> None:
    tested = chain(tmp_path)
    tested.add(POD)
    log.unlink()
    tested.delete(POD)
    assert [words[:2] for words, _ in calls(log)] == [["DEL", "two"], ["DEL", "one"]]
    assert {json.dumps(config["prevResult"]) for _, config in calls(log)} == {'{"cniVersion": "1.0.0", "by": "two"}'}


def test_at_once_runs_every_pod(tmp_path: Path, log: Path) -> None:
    tested = chain(tmp_path)
    pods = [Runtime(f"c{number}", "/run/netns/p") for number in range(8)]
    assert tested.add_at_once(pods) > 0
    assert tested.delete_at_once(pods) > 0
    assert len(log.read_text().splitlines()) == 8 * 4
    assert tested.results == {}


def test_a_plugin_that_fails_says_so_in_its_own_words(tmp_path: Path, log: Path) -> None:
    script(tmp_path, "two", '#!/bin/sh\necho \'{"code": 7, "msg": "no such thing"}\'\nexit 1\n')
    with pytest.raises(PluginFailed, match=r"two ADD: .*no such thing"):
        chain(tmp_path).add(POD)


def test_execute_gives_stdin_and_environment_and_times_the_program(tmp_path: Path) -> None:
    script(tmp_path, "slow", "#!/bin/sh\nsleep 0.05\ncat\necho $WORD\nexit 3\n")
    seconds, code, answer = execute(f"{tmp_path}/slow", {"WORD": "w", "PATH": os.environ["PATH"]}, b"in\n")
    assert (code, answer) == (3, b"in\nw\n")
    assert 0.05 <= seconds < 5


def test_execute_leaves_no_descriptor_open(tmp_path: Path) -> None:
    script(tmp_path, "quick", "#!/bin/sh\n")
    before = set(os.listdir("/proc/self/fd"))
    execute(f"{tmp_path}/quick", {}, b"")
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(FileNotFoundError):
        execute(f"{tmp_path}/missing", {}, b"")
    assert set(os.listdir("/proc/self/fd")) == before
