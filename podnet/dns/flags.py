"""Flags as upstream's manifests write them, which are Go's: `-configDir=/etc/dns`, `--quiet=true`, `-v=2`, `10s`.

Each program here has its flags in the usual spelling (`--config-dir /etc/dns`); `Command` takes Go's spellings for the
same. What only sets up Go's logging is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+", re.ASCII)

_GLOG = {"v": True, "vmodule": True, "stderrthreshold": True, "logtostderr": False, "alsologtostderr": False}
"""Flags of Go's logging, and whether the next word is their value."""

_YES = {"1", "t", "true", "yes"}


class Duration(click.ParamType[float]):
    """Seconds from what Go calls a duration: 500ms, 2s, 1m30s; 0 needs no unit."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click."""
        if isinstance(value, float | int):
            return float(value)
        text = str(value)
        if text != "0" and not _DURATION.fullmatch(text):
            self.fail(f"{text!r} is no duration: write it as 500ms, 2s or 1m30s", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([a-zµ]+)", text))


DURATION = Duration()


class Command(click.Command):
    """A command that takes Go's spellings too. What comes after `--` is left as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, list(spelled(args, self._options())))

    def _options(self) -> dict[str, tuple[bool, str]]:
        """By name without dashes: whether it takes a value, and the name of its contrary, if any."""
        return {
            name.removeprefix("--"): (not param.is_flag, next(iter(param.secondary_opts), ""))
            for param in self.params
            if isinstance(param, click.Option)
            for name in param.opts
            if name.startswith("--")
        }


def spelled(args: Sequence[str], options: dict[str, tuple[bool, str]]) -> Iterator[str]:
    """Arguments as click takes them."""
    words = iter(args)
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        found = re.fullmatch(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", word, re.DOTALL)
        name = _kebab(found[1]) if found else ""
        if found and name in _GLOG and name not in options:
            if _GLOG[name] and found[2] is None:
                next(words, None)
        elif found and name in options:
            yield from _option(name, found[2], words, *options[name])
        else:
            yield word


def _option(name: str, value: str | None, words: Iterator[str], valued: bool, contrary: str) -> Iterator[str]:
    if not valued and value is not None:
        if value.lower() in _YES:
            yield f"--{name}"
        elif contrary:
            yield contrary
        return
    yield f"--{name}" if value is None else f"--{name}={value}"
    if valued and value is None:
        yield from (word for _, word in zip(range(1), words, strict=False))


def _kebab(name: str) -> str:
    """config-dir of configDir."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
