"""dnsmasq's arguments, its file of servers and the lines of its log."""

from __future__ import annotations

import pytest

from podnet.network.dns.dnsmasq import Misfit, defaults, looping, plan, routine, servers
from podnet.network.dns.settings import Server, Settings

ADDED = ("--keep-in-foreground", "--log-facility=-", "--pid-file=", "--no-resolv", "--servers-file=/f")


def test_the_classic_arguments() -> None:
    made = defaults("cluster.local.", Server("127.0.0.1", 10053))
    assert made[-3:] == (
        "--server=/cluster.local/127.0.0.1#10053",
        "--server=/in-addr.arpa/127.0.0.1#10053",
        "--server=/ip6.arpa/127.0.0.1#10053",
    )
    assert "--no-negcache" not in made
    found = plan(made, "/f")
    assert (found.address, found.port, found.resolv_conf) == ("127.0.0.1", 53, "/etc/resolv.conf")
    assert found.args == (*made, *ADDED[1:])


def test_arguments_of_upstreams_manifest_stay_as_they_are() -> None:
    given = ("-k", "--cache-size=1000", "--no-negcache", "--log-facility=-", "--server=/cluster.local/127.0.0.1#10053")
    assert plan(given, "/f").args == (*given, "--pid-file=", "--no-resolv", "--servers-file=/f")


@pytest.mark.parametrize(
    ("given", "address", "port", "resolv_conf"),
    [
        ("", "127.0.0.1", 53, "/etc/resolv.conf"),
        ("-p 5353 -a 10.0.0.1", "10.0.0.1", 5353, "/etc/resolv.conf"),
        ("-p5353 -a10.0.0.1,10.0.0.2 -R", "10.0.0.1", 5353, ""),
        ("--port 1 --port=2 --listen-address=0.0.0.0,:: --resolv-file=/r", "127.0.0.1", 2, "/r"),
        ("--listen-address :: -a ::1 --no-resolv -r /r", "::1", 53, ""),
    ],
)
def test_where_it_is_asked(given: str, address: str, port: int, resolv_conf: str) -> None:
    found = plan(given.split(), "/f")
    assert (found.address, found.port, found.resolv_conf) == (address, port, resolv_conf)


@pytest.mark.parametrize("given", ["--servers-file=/x", "-d", "--no-daemon", "--port=0", "--port=dns", "-p 65536"])
def test_what_cannot_be_supervised(given: str) -> None:
    with pytest.raises(Misfit):
        plan(given.split(), "/f")


def test_the_file_of_servers() -> None:
    settings = Settings({"b.c": (Server("10.0.0.1"), Server("2001:db8::1", 5353)), "a": (Server("10.0.0.2"),)})
    node = (Server("192.0.2.1"),)
    stubs = "server=/a/10.0.0.2#53\nserver=/b.c/10.0.0.1#53\nserver=/b.c/2001:db8::1#5353\n"
    assert servers(settings, node) == f"{stubs}server=192.0.2.1#53\n"
    assert servers(Settings(settings.stubs, (Server("9.9.9.9"),)), node) == f"{stubs}server=9.9.9.9#53\n"
    assert servers(Settings(), ()) == ""


def test_what_the_log_says() -> None:
    said = "dnsmasq[5836]: NOT using nameserver 10.0.0.1#53 - query loop detected"
    assert looping(said) == "10.0.0.1:53"
    assert not routine(said)
    assert looping("dnsmasq[5836]: using nameserver 10.0.0.1#53") is None
    assert routine("dnsmasq[5836]: using nameserver 10.0.0.1#53 for domain a")
    assert routine("dnsmasq[5836]: cleared cache")
    assert not routine("dnsmasq[5836]: warning: no upstream servers configured")
