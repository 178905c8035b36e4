"""`podnet dns ask` against servers on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from podnet.dns import ask
from podnet.dns.ask import Asked, parse
from podnet.errors import UserError
from podnet.wire import dns
from tests.daemons.test_asking import Reply, address, served

WRONG = ["x y", "x A AAAA", "@127.0.0.1", "A", "x @127.0.0.1 @127.0.0.2", "x..y", "x @dns.local", "x @127.0.0.1:0"]


def run(reply: Reply, *words: str) -> tuple[Result, list[dns.Query]]:
    """The command, with its server at @HERE."""

    async def inside() -> tuple[Result, list[dns.Query]]:
        async with served(reply) as (asking, server):
            given = [word.replace("HERE", str(asking)) for word in words]
            runner = CliRunner()
            result = await asyncio.to_thread(
                runner.invoke, ask.command, [*given, "--timeout", "300ms"], standalone_mode=False
            )
            return result, server.asked

    return asyncio.run(inside())


def test_a_name_that_is_there() -> None:
    result, asked = run(lambda message: [address(message)], "Web.demo", "@HERE")
    assert (result.return_value, result.output) == (0, "Web.demo 30 A 10.0.0.1\n")
    assert [query.type for query in asked] == [dns.A]


def test_without_a_type_either_family_will_do() -> None:
    def reply(message: bytes) -> list[bytes]:
        query = dns.read_query(message)
        six = dns.piece([dns.record(dns.AAAA, 5, bytes(15) + b"\1")])
        return [dns.answer(query, six if query.type == dns.AAAA else dns.NONE)]

    assert run(reply, "web.demo", "@HERE")[0].output == "web.demo 5 AAAA ::1\n"
    result = run(reply, "web.demo", "a", "@HERE")[0]
    assert result.return_value == 1
    assert "has no A of that name" in result.output


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda message: [address(message, rcode=dns.NXDOMAIN)], "says NXDOMAIN"),
        (lambda message: [address(message, rcode=dns.SERVFAIL)], "says SERVFAIL"),
        (lambda message: [], "did not answer"),
    ],
)
def test_a_name_that_is_not_there(reply: Reply, said: str) -> None:
    result = run(reply, "web.demo", "A", "@HERE")[0]
    assert result.return_value == 1
    assert said in result.output


def test_what_the_words_mean() -> None:
    assert parse(("@::1", "srv", "x.y")) == Asked("x.y", ("SRV",), "::1")
    assert parse(("10.0.0.1",)) == Asked("1.0.0.10.in-addr.arpa", ("PTR",), "")


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong(words: str) -> None:
    assert isinstance(CliRunner().invoke(ask.command, words.split()).exception, UserError)


@pytest.mark.parametrize("text", ["", "search demo\n", None])
def test_a_resolv_conf_that_names_nobody(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(ask, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    error = CliRunner().invoke(ask.command, ["web"]).exception
    assert isinstance(error, UserError)
    assert "say @SERVER" in str(error)
