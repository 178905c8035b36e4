"""The questions that a resolver asks for a name, as glibc and musl ask them."""

from __future__ import annotations

import pytest

from podnet.network.dns.search import Libc, Resolver, Step, ends, needless, parse, steps
from podnet.wire import dns

CLUSTER = ("demo.svc.cluster.local", "svc.cluster.local", "cluster.local")
POD = Resolver(("10.96.0.10",), CLUSTER, 5)
CONF = f"""\
# by the kubelet
nameserver 10.96.0.10
search {" ".join(CLUSTER)}
options ndots:5
"""


def names(name: str, resolver: Resolver = POD, libc: Libc = "glibc") -> list[str]:
    return [step.name for step in steps(name, resolver, libc)]


def test_a_pods_own_file() -> None:
    assert parse(CONF) == POD


def test_what_a_file_may_say() -> None:
    text = "nameserver a\nnameserver b\nnameserver c\nnameserver d\ndomain x.\nsearch y. .\n;nameserver z\n\nnameserver"
    text += "\noptions ndots:99 timeout:1 attempts:9 edns0\noptions use-vc ndots:x"
    assert parse(text) == Resolver(("a", "b", "c"), ("y", "."), 15, 1, 5, ("edns0", "use-vc", "ndots:x"))
    assert parse(text, "musl").attempts == 9
    assert parse("") == Resolver(("127.0.0.1",))


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_few_dots_search_first_and_the_name_itself_last(libc: Libc) -> None:
    found = steps("www.example.test", POD, libc)
    assert found == (*(Step(f"www.example.test.{domain}.", domain) for domain in CLUSTER), Step("www.example.test."))


def test_many_dots_are_asked_as_they_stand_and_only_glibc_goes_on() -> None:
    few = Resolver(search=("x", "y"), ndots=2)
    assert names("a.b.c", few) == ["a.b.c.", "a.b.c.x.", "a.b.c.y."]
    assert names("a.b.c", few, "musl") == ["a.b.c."]
    assert names("a.b", few) == ["a.b.x.", "a.b.y.", "a.b."]


def test_a_dot_at_the_end_ends_the_matter() -> None:
    assert names("web.") == ["web."]


def test_the_root_in_a_search_list_is_the_name_itself() -> None:
    assert names("a", Resolver(search=("x", ".", "x"))) == ["a.x.", "a."]


def test_names_that_cant_be() -> None:
    with pytest.raises(dns.Malformed):
        steps("a..b", POD)
    long = ".".join(["a" * 60] * 4)
    assert names(long) == [f"{long}."]


@pytest.mark.parametrize(
    ("rcode", "glibc", "musl"),
    [(dns.NXDOMAIN, False, False), (dns.NOERROR, False, True), (dns.SERVFAIL, False, True), (dns.REFUSED, True, True),
     (None, True, True)],
)  # fmt: skip
def test_after_which_answers_the_search_goes_on(rcode: int | None, glibc: bool, musl: bool) -> None:
    assert (ends(rcode, False), ends(rcode, False, "musl")) == (glibc, musl)
    assert ends(rcode, True)


def test_what_a_search_costs() -> None:
    assert "8 questions" in needless(4, "www.example.test", POD)
    assert "ndots:2" in needless(4, "www.example.test", POD)
    assert not needless(1, "www.example.test", POD)
    assert not needless(2, "web", POD)
    assert not needless(2, "a.b", Resolver(ndots=1))
