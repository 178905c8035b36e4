"""The command's frame: lazy subcommands, one sentence for every mistake, exit codes, completion."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from podnet.cli import main as cli
from podnet.cli.main import COMMANDS, main
from podnet.errors import UserError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `podnet ARGS`: exit code, stdout, stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(args)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Registers `podnet probe` that calls the given function."""

    def register(body: Callable[[], object]) -> None:
        module = types.ModuleType("podnet_probe")
        module.command = click.command(name="probe")(body)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "podnet_probe", module)
        monkeypatch.setitem(COMMANDS, "probe", ("podnet_probe:command", "A probe."))

    return register


def test_help_lists_every_command_with_an_example(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert "podnet lab up" in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, "podnet, version 0.1.0\n", "")


def test_without_arguments_prints_help(run: Run) -> None:
    code, _, err = run()
    assert code == 2
    assert "Commands:" in err


def test_start_imports_no_subcommand_and_nothing_heavy() -> None:
    script = """
import json, sys
from podnet.cli.main import main
try: main(["--help"])
except SystemExit: print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert "podnet.cli.main" in loaded
    assert not loaded & {"asyncio", "aiohttp", "msgspec", "yaml", "cryptography", "podnet.cli.output", "podnet.agent"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["--nosuch"], "No such option '--nosuch'"),
        (["completion"], "Missing argument"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        (["completion", "bash", "more"], "unexpected extra argument"),
    ],
)
def test_wrong_arguments_are_one_sentence(run: Run, args: list[str], says: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert err.startswith("podnet: ")
    assert err.endswith(" --help)\n")
    assert err.count("\n") == 1
    assert says in err


def test_user_error_is_one_sentence(run: Run, probe: Callable[..., None]) -> None:
    def body() -> None:
        raise UserError("port 8472 is taken by dnsmasq: stop it or choose another")

    probe(body)
    assert run("probe") == (2, "", "podnet: port 8472 is taken by dnsmasq: stop it or choose another\n")


def test_our_own_mistakes_stay_visible(probe: Callable[..., None]) -> None:
    def body() -> None:
        raise KeyError("bug")

    probe(body)
    with pytest.raises(KeyError):
        main(["probe"])


def test_interrupt_ends_quietly(run: Run, probe: Callable[..., None]) -> None:
    def body() -> None:
        raise KeyboardInterrupt

    probe(body)
    code, _, err = run("probe")
    assert (code, err.strip()) == (130, "")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (lambda: None, 0),
        (lambda: 1, 1),
        (lambda: click.get_current_context().exit(3), 3),
        (lambda: sys.exit(4), 4),
        (lambda: "text", 0),
    ],
)
def test_exit_codes(run: Run, probe: Callable[..., None], body: Callable[[], object], code: int) -> None:
    probe(body)
    assert run("probe")[0] == code


def test_absent_module_is_a_sentence_and_help_still_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "absent", ("podnet.absent.main:command", "Not there."))
    code, _, err = run("absent")
    assert code == 2
    assert err.startswith("podnet: this podnet has no command absent")
    assert run("--help")[0] == 0


def test_module_that_lacks_a_dependency_is_not_called_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_probe.py").write_text("import podnet_no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(COMMANDS, "broken", ("broken_probe:command", "Broken."))
    with pytest.raises(ModuleNotFoundError, match="podnet_no_such_dependency"):
        main(["broken"])


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run: Run, shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_PODNET_COMPLETE" in out


def test_completion_lists_commands_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda _: pytest.fail("imported"))
    context = click.Context(cli.podnet)
    assert {item.value for item in cli.podnet.shell_complete(context, "c")} == {"check", "clean", "completion"}
    assert "--version" in {item.value for item in cli.podnet.shell_complete(context, "--")}


def test_completion_goes_into_subcommands() -> None:
    env = {"_PODNET_COMPLETE": "bash_complete", "COMP_WORDS": "podnet completion ", "COMP_CWORD": "2"}
    script = "from podnet.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, text=True)
    assert done.stdout.split() == ["plain,bash", "plain,zsh", "plain,fish"]
