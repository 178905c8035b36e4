"""iptables' text: what iptables-restore reads and iptables-save prints, and when two rules are the same.

iptables prints a rule in other words than it was given: addresses with their prefix length, default options spelled
out, marks as set-xmark, probabilities as the kernel rounds them. `canonical` brings both to one form, made for the
words that kube-proxy's rules consist of; a rule of others comes out as some form of its own, which is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

Chains = dict[tuple[str, str], list[str]]
"""Rules by table and chain."""

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_PROBABILITY = 0x80000000
_TRANSPORTS = frozenset({"tcp", "udp", "sctp"})
_DEFAULTS = frozenset(
    {
        *("--rsource", "--mask 255.255.255.255", "--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        *("--reject-with icmp-port-unreachable", "--reject-with icmp6-port-unreachable"),
        *("-s 0.0.0.0/0", "-d 0.0.0.0/0", "-s ::/0", "-d ::/0"),
    }
)


def parse(text: str) -> Chains:
    """What iptables-save printed: every chain, with its rules."""
    chains: Chains = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("-A "):
            _, chain, *rule = line.split(" ", 2)
            chains.setdefault((table, chain), []).append(rule[0] if rule else "")
        elif line.startswith(":"):
            chains.setdefault((table, line[1:].split(" ", 1)[0]), [])
        elif line.startswith("*"):
            table = line[1:]
    return chains


def canonical(rule: str) -> tuple[str, ...]:
    """One form for all spellings of a rule: its options, sorted."""
    options: list[str] = []
    prefix = ""
    for quoted, word in _WORD.findall(rule):
        if word == "!":
            prefix = "! "
        elif word.startswith("-") or not options:
            options.append(prefix + word)
            prefix = ""
        else:
            options[-1] += f" {word or quoted}"
    return tuple(sorted(spelled for option in options if (spelled := _spell(option)) not in _DEFAULTS and spelled))


def same(rules: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two chains' rules are the same."""
    return [canonical(rule) for rule in rules] == [canonical(rule) for rule in others]


def _spell(option: str) -> str:
    negation = "! " if option.startswith("! ") else ""
    name, _, value = option.removeprefix(negation).partition(" ")
    spell = _SPELLINGS.get(name)
    return f"{negation}{spell(value)}" if spell else option


_SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "-s": lambda value: f"-s {_host(value)}",
    "-d": lambda value: f"-d {_host(value)}",
    "-m": lambda value: "" if value in _TRANSPORTS else f"-m {value}",  # -p says the same
    "--or-mark": lambda value: f"--set-xmark {value}/{value}",
    "--xor-mark": lambda value: f"--set-xmark {value}/0x0",
    "--ctstate": lambda value: f"--ctstate {','.join(sorted(value.split(',')))}",
    "--probability": lambda value: f"--probability {_chance(value)}",
}


def _chance(value: str) -> str:
    """As the kernel keeps it."""
    try:
        return str(round(float(value) * _PROBABILITY))
    except (ValueError, OverflowError):
        return value


def _host(value: str) -> str:
    return value.removesuffix("/128") if ":" in value else value.removesuffix("/32")


def write(table: str, chains: Mapping[str, tuple[str, ...]], more: Iterable[str] = ()) -> Iterator[str]:
    """Lines that make these chains, and no other, hold exactly these rules; then `more` commands. One transaction."""
    yield f"*{table}"
    for name in chains:
        yield f":{name} - [0:0]"
    for name, rules in chains.items():
        for rule in rules:
            yield f"-A {name} {rule}" if rule else f"-A {name}"
    yield from more
    yield "COMMIT"
