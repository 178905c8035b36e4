"""The SkyDNS-compatible server, asked by real dig, out of Debian's etcd; and kube2sky and it together."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from podnet.client.api import Api
from podnet.client.config import load
from podnet.client.etcd import Etcd
from podnet.client.etcd_dialects import ETCD
from podnet.client.manifest import apply
from podnet.objects.kinds import SERVICES
from tests.client.test_embedded import Server
from tests.lab.etcds import EtcdProcess, free_port
from tests.lab.test_kube2sky import SERVICE, SLICE

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        not shutil.which("etcd") or not shutil.which("dig"), reason="needs etcd-server and bind9-dnsutils"
    ),
]
WAIT = 60.0
SKY = "/skydns/local/skydns"
NS = f"{SKY}/dns/ns/a"
RUN = "from podnet.cli.main import main; main()"


class Program:
    """A `podnet dns` program of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, stderr: int | None = None) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, "dns", *self._arguments, env=self._environment, stderr=stderr
        )

    async def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()


class Sky(Program):
    """skydns at a port of its own."""

    def __init__(self, etcd: str, api: str, *arguments: str, domain: str = "skydns.local.") -> None:
        self.port, self.metrics, self.health = free_port(), free_port(), free_port()
        super().__init__(
            "skydns", f"-machines={etcd}", f"-addr=127.0.0.1:{self.port}", f"-domain={domain}", f"--etcd-api={api}",
            "-rtimeout=1s", "-lameduck=0", f"--healthz-port={self.health}", *arguments,
            PROMETHEUS_PORT=str(self.metrics),
        )  # fmt: skip

    async def dig(self, *words: str) -> str:
        """What dig prints of the answer."""
        made = await asyncio.create_subprocess_exec(
            "dig", "@127.0.0.1", "-p", str(self.port), "+tries=1", "+time=5", *words, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await made.communicate()
        return said.decode()

    async def short(self, *words: str) -> list[str]:
        return sorted((await self.dig("+short", *words)).split("\n"))[1:]

    async def until_short(self, wanted: list[str], *words: str) -> None:
        async with asyncio.timeout(WAIT):
            while (said := await self.short(*words)) != wanted:
                assert isinstance(said, list)
                await asyncio.sleep(0.02)

    async def get(self, port: int, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()


def put(**entries: Mapping[str, object]) -> dict[str, str]:
    return {f"{SKY}/{key.replace('__', '/')}": json.dumps(each) for key, each in entries.items()}


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[EtcdProcess]:
    made = EtcdProcess(tmp_path / "etcd")
    await made.start()
    yield made
    await made.end()


@pytest.fixture(params=["2", "3"])
async def etcd(process: EtcdProcess, request: pytest.FixtureRequest) -> AsyncIterator[Etcd]:
    async with ETCD[request.param]([process.url], timeout=5) as made:
        yield made


@pytest.fixture
async def sky(process: EtcdProcess, etcd: Etcd) -> AsyncIterator[Sky]:
    api = next(number for number, dialect in ETCD.items() if isinstance(etcd, dialect))
    await etcd.write({NS: '{"host":"192.0.2.53","ttl":30}'})
    made = Sky(process.url, api, "--no-rec")
    await made.start()
    await made.until_short(["192.0.2.53"], "ns.dns.skydns.local")
    yield made
    await made.end()


async def test_records_are_answered_as_soon_as_they_are_written(sky: Sky, etcd: Etcd) -> None:
    await etcd.write(put(east__web__1={"host": "10.0.0.1", "port": 80}, east__web__2={"host": "fd00::2", "port": 80}))
    await sky.until_short(["10.0.0.1"], "web.east.skydns.local")
    await sky.until_short(["fd00::2"], "web.east.skydns.local", "AAAA")
    await sky.until_short(["10 50 80 1.web.east.skydns.local.", "10 50 80 2.web.east.skydns.local."],
                          "web.*.skydns.local", "SRV")  # fmt: skip
    assert await sky.short("+tcp", "any.any.skydns.local", "AAAA") == ["fd00::2"]
    await etcd.write(put(out={"host": "web.east.skydns.local"}, text={"text": "a b"}))
    await sky.until_short(['"a b"'], "text.skydns.local", "TXT")
    assert await sky.short("out.skydns.local") == ["10.0.0.1", "web.east.skydns.local."]
    await etcd.write({"/skydns/arpa/in-addr/10/0/0/1": '{"host":"1.web.east.skydns.local"}'})
    await sky.until_short(["1.web.east.skydns.local."], "-x", "10.0.0.1")
    await etcd.write({}, trees=[f"{SKY}/east"])
    await sky.until_short([], "web.east.skydns.local")
    said = await sky.dig("web.east.skydns.local")
    assert "status: NXDOMAIN" in said
    assert "ns.dns.skydns.local. hostmaster.skydns.local." in said


async def test_what_begins_with_an_underscore_is_answered_when_it_is_named(sky: Sky, etcd: Etcd) -> None:
    await etcd.write({f"{SKY}/web/1": '{"host":"10.0.0.1"}',
                      f"{SKY}/web/_tcp/_http/1": '{"host":"1.web.skydns.local","port":80}'})  # fmt: skip
    await sky.until_short(["10 100 80 1.web.skydns.local."], "_http._tcp.web.skydns.local", "SRV")
    await sky.until_short(["10.0.0.1"], "web.skydns.local")
    assert "10.0.0.1" in await sky.dig("+noall", "+additional", "_http._tcp.web.skydns.local", "SRV")
    await etcd.write({}, gone=[f"{SKY}/web/_tcp/_http/1"])
    await sky.until_short([], "_http._tcp.web.skydns.local", "SRV")


async def test_truncation_case_and_edns(sky: Sky, etcd: Etcd) -> None:
    await etcd.write(put(**{f"many__{number}": {"host": f"10.0.0.{number}"} for number in range(100)}))
    async with asyncio.timeout(WAIT):
        while len(await sky.short("many.skydns.local")) != 100:  # noqa: ASYNC110 - dig asks again by TCP
            await asyncio.sleep(0.02)
    said = await sky.dig("+ignore", "+noedns", "MANY.skydns.local")
    assert " tc " in said
    assert "MANY.skydns.local" in said
    assert "status: REFUSED" in await sky.dig("many.skydns.local", "ANY", "+notcp")
    assert "status: SERVFAIL" in await sky.dig("www.example.com"), "nobody else is asked"
    assert '"podnet' in await sky.dig("version.bind", "CH", "TXT")


async def test_answers_outlive_etcd(sky: Sky, etcd: Etcd, process: EtcdProcess) -> None:
    await etcd.write(put(a={"host": "10.0.0.1"}))
    await sky.until_short(["10.0.0.1"], "a.skydns.local")
    await process.end()
    assert await sky.short("a.skydns.local") == ["10.0.0.1"]
    await process.start()
    await etcd.write(put(b={"host": "10.0.0.2"}))
    await sky.until_short(["10.0.0.2"], "b.skydns.local")
    assert await sky.short("a.skydns.local") == ["10.0.0.1"]


async def test_other_names_are_asked_of_others_and_metrics_count(process: EtcdProcess, sky: Sky, etcd: Etcd) -> None:
    await etcd.write(put(www={"host": "10.0.0.1"}))
    await sky.until_short(["10.0.0.1"], "www.skydns.local")
    api = next(number for number, dialect in ETCD.items() if isinstance(etcd, dialect))
    front = Sky(process.url, api, f"-nameservers=127.0.0.1:{sky.port}", domain="front.local.")
    await front.start()
    try:
        await etcd.write({"/skydns/local/front/out": '{"host":"www.skydns.local","port":80}', "/skydns/local/front/bad":
                          "{"})  # fmt: skip
        await front.until_short(["10.0.0.1", "www.skydns.local."], "out.front.local")
        assert await front.short("www.skydns.local") == ["10.0.0.1"]
        assert "10.0.0.1" in await front.dig("+noall", "+additional", "out.front.local", "SRV")
        assert "status: NXDOMAIN" in await front.dig("bad.front.local")
        assert await front.get(front.health, "/readiness") == (200, "ok\n")
        _, text = await front.get(front.metrics, "/metrics")
        for line in (
            'request_count_total{system="auth"}',
            'request_count_total{system="recursive"} 1.0',
            'error_count_total{cause="nxdomain",system="auth"}',
            'cachemiss_count_total{cache="response"}',
            'request_duration_seconds_bucket{le="0.003",system="auth"}',
            'response_size_bytes_bucket{le="512.0",system="auth"}',
        ):
            assert f"skydns_skydns_dns_{line}" in text
        assert await front.end(signal.SIGTERM) == 0
    finally:
        await front.end()


async def test_before_etcd_was_read_it_knows_nothing() -> None:
    sky = Sky(f"http://127.0.0.1:{free_port()}", "3")
    await sky.start()
    try:
        async with asyncio.timeout(WAIT):
            while "status: SERVFAIL" not in await sky.dig("a.skydns.local"):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
        assert (await sky.get(sky.health, "/readiness"))[0] == 503
    finally:
        await sky.end()


async def test_an_etcd_without_api_2_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    process = EtcdProcess(tmp_path / "etcd", plain=True)
    await process.start()
    where = f"{process.url} does not serve etcd's /v2/keys: start it with --enable-v2, or say --etcd-api 3\n"
    sky = Sky(process.url, "2")
    kube2sky = Program(
        "kube2sky", "--etcd-api=2", f"--etcd-server={process.url}", "--kube-master-url=http://127.0.0.1:1",
        "--healthz-port=0", KUBECONFIG=str(tmp_path / "none"),
    )  # fmt: skip
    try:
        for program in (sky, kube2sky):
            await program.start(asyncio.subprocess.PIPE)
            assert program.process
            _, said = await asyncio.wait_for(program.process.communicate(), WAIT)
            assert program.process.returncode == 2
            assert said.decode().endswith(f"podnet: {where}")
    finally:
        await process.end()


@pytest.mark.parametrize("api", ["2", "3"])
async def test_the_older_form_whole(process: EtcdProcess, tmp_path: Path, api: str) -> None:
    """API server, kube2sky, etcd, skydns: a name answers when its Service was created, and is gone with it."""
    server = Server(tmp_path)
    await server.start()
    sky = Sky(process.url, api, "--no-rec", domain="cluster.local.")
    kube2sky = Program(
        "kube2sky", "-domain=cluster.local", f"--etcd-server={process.url}", f"--etcd-api={api}",
        f"--kubecfg_file={server.kubeconfig}", "--healthz-port=0",
    )  # fmt: skip
    try:
        await asyncio.gather(sky.start(), kube2sky.start())
        async with Api(load(server.kubeconfig)) as client:
            await sky.until_short(["10.96.0.1"], "kubernetes.default.svc.cluster.local")
            await apply(client, SERVICE % ("web", "10.96.0.7") + "---" + SERVICE % ("db", "None") + "---" + SLICE)
            await sky.until_short(["10.96.0.7"], "web.default.svc.cluster.local")
            await sky.until_short(["10.244.1.2"], "db.default.svc.cluster.local")
            await sky.until_short(["10 100 80 web.default.svc.cluster.local."],
                                  "_http._tcp.web.default.svc.cluster.local", "SRV")  # fmt: skip
            await client.delete(SERVICES, "web", "default")
            await sky.until_short([], "web.default.svc.cluster.local")
            await sky.until_short([], "_http._tcp.web.default.svc.cluster.local", "SRV")
        assert await kube2sky.end(signal.SIGTERM) == 0
        assert await sky.end(signal.SIGTERM) == 0
    finally:
        await kube2sky.end()
        await sky.end()
        await server.end(signal.SIGKILL)
