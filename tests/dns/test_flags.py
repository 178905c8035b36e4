"""Go's spellings of flags."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from podnet.dns.flags import DURATION, Command


@click.command(cls=Command)
@click.option("--config-dir", default="")
@click.option("--sync-interval", default="10s", type=DURATION)
@click.option("--restart/--no-restart", default=True)
@click.option("--quiet", is_flag=True)
@click.argument("rest", nargs=-1)
def example(config_dir: str, sync_interval: float, restart: bool, quiet: bool, rest: tuple[str, ...]) -> None:
    click.echo(f"{config_dir}|{sync_interval:g}|{restart:d}|{quiet:d}|{' '.join(rest)}", nl=False)


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        ("", "|10|1|0|"),
        ("-v=2 -logtostderr -configDir=/etc -restart=true -- -k --cache-size=1000", "/etc|10|1|0|-k --cache-size=1000"),
        ("--v=2 --config-dir /a --restart=false --quiet=true", "/a|10|0|1|"),
        ("-v 2 -configDir /a --quiet=false -syncInterval 1m30s", "/a|90|1|0|"),
        ("--configDir -quiet --no-restart", "-quiet|10|0|0|"),
        ("-logtostderr=true --stderrthreshold 2 -sync-interval=500ms one -- -v=2 -quiet", "|0.5|1|0|one -v=2 -quiet"),
    ],
)  # fmt: skip
def test_spellings(args: str, meant: str) -> None:
    result = CliRunner().invoke(example, args.split())
    assert result.output == meant


@pytest.mark.parametrize("wrong", ["--nope", "-nope=1", "--sync-interval=5", "--sync-interval=5d", "--config-dir"])
def test_what_is_wrong_stays_wrong(wrong: str) -> None:
    assert CliRunner().invoke(example, [wrong]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("2s", 2), ("500ms", 0.5), ("1h2m3.5s", 3723.5), ("1.5µs", 1.5e-6), (".5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)
