"""The whole program: Debian's dnsmasq on loopback, its settings from files and from an API, its metrics, its end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from podnet.daemons.asking import Asking
from podnet.daemons.dns_client import NoAnswer
from podnet.dns.dnsmasq import command
from podnet.errors import UserError
from podnet.objects.kinds import CONFIGMAPS, EVENTS
from podnet.wire import dns
from tests.client.fake_api import FakeApi
from tests.client.waiting import until
from tests.daemons.test_asking import served
from tests.daemons.test_dnsmasq import SOA, Back, fixed, free_port

pytestmark = pytest.mark.lab

PODNET = (sys.executable, "-c", "from podnet.cli.main import main; main()", "dns", "dnsmasq")
SECONDS = 30.0


class Running:
    """The program under way."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, http: int, session: aiohttp.ClientSession
    ) -> None:
        self.process = process
        self.asking = Asking("127.0.0.1", port, seconds=2, tries=3)
        self.url = f"http://127.0.0.1:{http}"
        self.session = session

    async def get(self, path: str) -> tuple[int, str]:
        try:
            async with self.session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metric(self, name: str) -> float:
        lines = (await self.get("/metrics"))[1].splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    async def address(self, name: str) -> str:
        answer = await self.asking.ask(name, dns.A)
        return " ".join(map(dns.shown, answer.answers)) or dns.RCODES[answer.rcode]

    async def until_answered(self, name: str, address: str) -> None:
        async def holds() -> bool:
            return await self.address(name) == address

        await eventually(holds)

    async def until(self, path: str, status: int) -> None:
        async def holds() -> bool:
            return (await self.get(path))[0] == status

        await eventually(holds)

    async def until_metric(self, name: str, value: float) -> None:
        async def holds() -> bool:
            return await self.metric(name) >= value

        await eventually(holds)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await holds():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)


@asynccontextmanager
async def program(kubedns: Asking | None, *options: str, more: tuple[str, ...] = ()) -> AsyncIterator[Running]:
    port, http = free_port(), free_port()
    given = [
        "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=", "--cache-size=1000",
        "--dns-loop-detect", "--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}", *more,
        *([f"--server=/cluster.local/127.0.0.1#{kubedns.port}"] if kubedns else []),
    ]  # fmt: skip
    own = ["--prometheus-addr", "127.0.0.1", "--prometheus-port", str(http), "--dnsmasq-poll-interval-ms=50"]
    process = await asyncio.create_subprocess_exec(*PODNET, *own, "--lameduck=0", *options, "--", *given)
    try:
        async with aiohttp.ClientSession() as session:
            running = Running(process, port, http, session)
            await running.until("/readiness", 200)
            yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_settings_come_from_a_folder_and_the_last_good_ones_stay(tmp_path: Path) -> None:
    async with served(fixed("10.0.0.1").reply) as (first, _), served(fixed("10.0.0.2").reply) as (second, _):
        stub = tmp_path / "stubDomains"
        stub.write_text(json.dumps({"acme.local": [str(first)]}))
        (tmp_path / "upstreamNameservers").write_text(json.dumps([str(first)]))
        async with program(None, f"-configDir={tmp_path}", "-syncInterval=50ms") as running:
            assert await running.address("web.acme.local") == "10.0.0.1"
            assert await running.address("example.org") == "10.0.0.1"
            stub.write_text('{"acme.local": ["ns.acme.local"]}')
            (tmp_path / "upstreamNameservers").write_text(json.dumps([str(second)]))
            await running.until_answered("example.org", "10.0.0.2")
            assert await running.address("web.acme.local") == "10.0.0.1"
            stub.write_text(json.dumps({"acme.local": [str(second)]}))
            await running.until_answered("web.acme.local", "10.0.0.2")
            assert await running.metric("podnet_dns_dnsmasq_starts") == 1


@asynccontextmanager
async def config_map(folder: Path) -> AsyncIterator[tuple[FakeApi, tuple[str, ...], Callable[[str, object], None]]]:
    """An API, the options that name its ConfigMap, and what writes a key of it."""
    async with FakeApi() as api:
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c",
                  "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                  "contexts": [{"name": "c", "context": {"cluster": "c"}}]}  # fmt: skip
        (folder / "config").write_text(json.dumps(config))

        def write(key: str, value: object) -> None:
            meta = {"namespace": "kube-system", "name": "kube-dns", "uid": "u-1"}
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {key: json.dumps(value)}}
            api.put(CONFIGMAPS, document)

        yield api, ("--config-map=kube-dns", f"--kubeconfig={folder}/config"), write


async def test_settings_come_from_a_config_map_and_what_is_wrong_is_told_on_it(tmp_path: Path) -> None:
    async with config_map(tmp_path) as (api, options, write), served(fixed("10.0.0.1").reply) as (first, _):
        write("stubDomains", {"acme.local": [str(first)]})
        async with program(None, *options) as running:
            await running.until_answered("web.acme.local", "10.0.0.1")
            write("stubDomains", {"acme.local": ["1.2.3"]})
            await until(lambda: api.of(EVENTS), SECONDS)
            (found,) = api.of(EVENTS).values()
            assert (found["involvedObject"]["name"], found["reason"]) == ("kube-dns", "InvalidDNSConfig")
            assert found["message"].startswith("stubDomains 'acme.local': '1.2.3' is no address")
            assert await running.address("web.acme.local") == "10.0.0.1"


async def test_a_server_that_leads_back_is_told_and_nothing_ends(tmp_path: Path) -> None:
    async with config_map(tmp_path) as (api, options, write), program(None, *options) as running:
        place = (running.asking.address, running.asking.port)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Back(place), local_addr=("127.0.0.1", 0))
        back = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
        write("upstreamNameservers", [back])
        await until(lambda: api.of(EVENTS), SECONDS)
        (found,) = api.of(EVENTS).values()
        assert (found["involvedObject"]["name"], found["reason"]) == ("kube-dns", "DNSLoop")
        assert found["message"].startswith(f"{back} leads back to dnsmasq")
        assert await running.metric("podnet_dns_looping_servers") == 1
        write("upstreamNameservers", [])

        async def forgotten() -> bool:
            return await running.metric("podnet_dns_looping_servers") == 0

        await eventually(forgotten)
        assert await running.metric("podnet_dns_dnsmasq_starts") == 1
        transport.close()


async def test_names_that_came_to_be_are_purged_and_all_is_counted() -> None:
    there: set[bytes] = set()

    def reply(message: bytes) -> list[bytes]:
        query = dns.read_query(message)
        if query.name not in there:
            return [dns.answer(query, dns.piece([], [SOA]), dns.NXDOMAIN)]
        return [dns.answer(query, dns.piece([dns.record(dns.A, 30, bytes((10, 0, 0, 7)))]))]

    async with served(reply) as (kubedns, _):
        dead = "--probe=dead,127.0.0.1:1,web.cluster.local,1"
        async with program(kubedns, dead, f"--probe=kubedns,{kubedns},new.cluster.local,0.05,A") as running:
            assert await running.address("new.cluster.local") == "NXDOMAIN"
            there.add(dns.name("new.cluster.local"))
            assert await running.address("new.cluster.local") == "NXDOMAIN"
            names = [{"name": "new.cluster.local", "type": "A"}, {"name": "no.cluster.local", "type": "TYPE9"}]
            async with running.session.post(f"{running.url}/purge", json=names) as answer:
                assert answer.status == 202
            await running.until_answered("new.cluster.local", "10.0.0.7")
            assert await running.metric("podnet_dns_cache_clears") >= 1
            await running.until_metric("kubedns_dnsmasq_misses", 1)
            await running.until_metric("kubedns_dnsmasq_max_size", 1000)
            await running.until_metric("kubedns_probe_kubedns_latency_ms_count", 1)
            await running.until("/healthcheck/kubedns", 200)
            assert json.loads((await running.get("/healthcheck/kubedns"))[1])["IsOk"] is True
            await running.until_metric("kubedns_probe_dead_errors", 1)
            status, said = await running.get("/healthcheck/dead")
            assert status == 503
            assert json.loads(said) == {"IsOk": False, "LatencySeconds": 0, "Err": "127.0.0.1:1 did not answer"}
            assert (await running.get("/healthcheck/other"))[0] == 404
            assert (await running.get("/healthz"))[0] == 200
            for body in ("x", "[{}]", '[{"name": "a..b", "type": "A"}]', '{"name": "a"}'):
                async with running.session.post(f"{running.url}/purge", data=body) as answer:
                    assert answer.status == 400


async def test_it_ends_in_its_time(tmp_path: Path) -> None:
    async with program(None, "--lameduck=60s") as running:
        running.process.send_signal(signal.SIGTERM)
        await running.until("/readiness", 503)
        assert (await running.get("/readiness"))[1] == "dnsmasq is about to end\n"
        assert await running.address("web.cluster.local") == "REFUSED"  # it answers still
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0
        with pytest.raises(NoAnswer):
            await Asking("127.0.0.1", running.asking.port, seconds=0.2, tries=1).ask("web.cluster.local", dns.A)


async def test_without_restart_it_ends_as_dnsmasq_does() -> None:
    process = await asyncio.create_subprocess_exec(
        *PODNET, "--no-restart", "--prometheus-port=0", "--", "--no-such-option", stderr=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[1].decode()
    assert process.returncode == 1
    assert "bad command line options" in said


@pytest.mark.parametrize(
    "args",
    [
        ["--probe", "x"],
        ["--probe", "a-b,127.0.0.1,web,5"],
        ["--probe", "a,dns.local,web,5"],
        ["--probe", "a,127.0.0.1,web,0"],
        ["--probe", "a,127.0.0.1,web,5,NO"],
        ["--probe", "a,127.0.0.1,w..b,5"],
        ["--probe", "a,127.0.0.1,web,5", "--probe", "a,127.0.0.1,web,5"],
        ["--kubedns-server", "kubedns"],
        ["--", "--no-daemon"],
        ["--dnsmasq-exec", "/no/such/dnsmasq", "--prometheus-port", "0"],
    ],
)
def test_what_is_wrong_is_said(args: list[str]) -> None:
    assert isinstance(CliRunner().invoke(command, args).exception, UserError)
