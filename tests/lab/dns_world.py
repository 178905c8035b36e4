"""A lab with its cluster's DNS, Services and pods of every kind of name, and ways to ask for them.

default: web (both families), db (headless, db-0 and db-1 with hostnames, one without), alias, gone, many
shop:    web, in IPv6 alone
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import yaml

from podnet.client.manifest import apply
from podnet.kernel.netns import inside
from podnet.lab import entering
from podnet.objects.core import Pod
from podnet.objects.kinds import PODS, SERVICES
from podnet.objects.services import Service
from podnet.wire import dns
from tests.lab.labs import LiveLab, live_lab, until

DOMAIN = "svc.cluster.local"
SERVERS = ("kube-dns-1", "kube-dns-2")
SYSTEM = "kube-system"
KUBEDNS = 10053
MANY = 60
Json = dict[str, Any]

LOOK_UP = """\
import json, socket, sys, time
found = {}
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        said = sorted({place[4][0] for place in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except OSError as error:
        said = [str(error.args[0])]
    found[name] = [said, time.monotonic() - start]
print(json.dumps(found))
"""


class World:
    """The lab, and what its names should mean."""

    def __init__(self, live: LiveLab) -> None:
        self.live = live
        web, other, kube_dns = (
            self.service(*key) for key in (("default", "web"), ("shop", "web"), (SYSTEM, "kube-dns"))
        )
        self.web = web.spec.cluster_ips
        self.other = other.spec.cluster_ips
        self.server4, self.server6 = kube_dns.spec.cluster_ips
        self.client = live.place("client")

    def service(self, namespace: str, name: str) -> Service:
        """As the API has it."""
        return self.live.api(lambda api: api.get(SERVICES, name, namespace, into=Service))

    def make(self, *documents: Json) -> None:
        """Apply these."""
        text = yaml.safe_dump_all(documents)
        self.live.api(lambda api: apply(api, text))

    def delete_service(self, name: str) -> None:
        """In default."""
        self.live.api(lambda api: api.delete(SERVICES, name, "default"))

    def looked_up(self, pod: str, *names: str) -> dict[str, tuple[list[str], float]]:
        """By the C library in a container of default: the addresses, or what getaddrinfo said; seconds."""
        words = (sys.executable, "-I", "-S", "-c", LOOK_UP, *names)
        found: Json = json.loads(self.execute(f"default/{pod}", *words))
        return {name: (said, seconds) for name, (said, seconds) in found.items()}

    def execute(self, pod: str, *words: str, container: str = "") -> str:
        """As `podnet lab exec`."""
        entry = entering.into_pod(self.live.lab, pod, container, words)
        done = subprocess.run(entry.argv, env=entry.env, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def dig(self, *words: str, server: str = "", code: int | None = 0) -> str:
        """From the client's namespace."""
        return self.live.run("default/client", ["dig", f"@{server or self.server4}", "+tries=2", *words], code=code)

    def short(self, *words: str, server: str = "") -> list[str]:
        """What dig says in short, sorted."""
        return sorted(self.dig("+short", *words, server=server).splitlines())

    def ask(self, name: str, server: str, port: int = 53, type_: int = dns.A, seconds: float = 2.0) -> dns.Message:
        """One datagram from the client's namespace, never sent again. Raises TimeoutError, ConnectionError."""
        return ask(self.client.netns, name, server, port, type_, seconds)

    def address(self, pod: str) -> str:
        """A server's own."""
        return self.live.place(pod).addresses[0]

    def container(self, pod: str, name: str) -> int:
        """The process of a container, 0 when it does not run."""
        for found in entering.sandboxes(self.live.lab):
            if found.name == pod:
                return dict(entering.containers(found)).get(name, 0)
        return 0


class Heard(NamedTuple):
    """The answers of one try; `said` "" means silence."""

    said: str
    seconds: float


def ask(
    netns: str, name: str, server: str, port: int = 53, type_: int = dns.A, seconds: float = 2.0
) -> dns.Message:  # fmt: skip
    """One datagram. Raises TimeoutError, ConnectionError."""
    with inside(netns):
        channel = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    with channel:
        channel.settimeout(seconds)
        channel.connect((server, port))
        channel.send(dns.question(struct.unpack(">H", name.encode()[:2])[0], dns.name(name), type_))
        return dns.read(channel.recv(4096))


def addresses(message: dns.Message) -> list[str]:
    """Of all answers, sorted."""
    return sorted(dns.shown(each) for each in message.answers)


def heard(netns: str, name: str, server: str, port: int = 53, seconds: float = 1.0) -> Heard:
    """One try: the first address, else the RCODE, else silence."""
    start = time.monotonic()
    said = ""
    with suppress(TimeoutError, ConnectionError):
        message = ask(netns, name, server, port, seconds=seconds)
        said = dns.shown(message.answers[0]) if message.answers else dns.RCODES[message.rcode]
    return Heard(said, time.monotonic() - start)


class Load(threading.Thread):
    """Asks a server for one name, each time from a new socket, until `stopped`; `heard`: what became of each try."""

    def __init__(self, netns: str, name: str, server: str) -> None:
        super().__init__(daemon=True)
        self.heard: list[Heard] = []
        self._asked = (netns, name, server)
        self._over = threading.Event()

    def run(self) -> None:
        """See threading."""
        while not self._over.wait(0.005):
            self.heard.append(heard(*self._asked))

    def stopped(self) -> list[Heard]:
        """All that it heard."""
        self._over.set()
        self.join()
        return self.heard


@contextmanager
def loaded(world: World, server: str, names: Sequence[str]) -> Iterator[list[Heard]]:
    """One Load for each name meanwhile; afterwards the list has what all of them heard."""
    loads = [Load(world.client.netns, name, server) for name in names]
    found: list[Heard] = []
    for load in loads:
        load.start()
    try:
        until(lambda: all(len(load.heard) > 10 for load in loads), "questions are asked", 20.0)
        yield found
    finally:
        for load in loads:
            found += load.stopped()


# -- objects


def document(kind: str, name: str, namespace: str = "default", **rest: Any) -> Json:
    """One of the core group."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}} | rest


def service(name: str, namespace: str = "default", **spec: Any) -> Json:
    """With one named port, unless the spec says otherwise."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return document("Service", name, namespace, spec={"ports": ports} | spec)


def pod(name: str, *command: str, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    """One container, a pause when there is no command."""
    container = {"name": "main", "image": "test", "command": [*command] or ["sleep", "infinity"]}
    made = document("Pod", name, spec={"containers": [container], "terminationGracePeriodSeconds": 0} | spec)
    made["metadata"]["labels"] = labels or {}
    return made


def pods() -> Iterator[Json]:
    """All of the world."""
    yield pod("client")
    yield pod("hosted", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    for name in ("db-0", "db-1"):
        yield pod(name, labels={"app": "db"}, hostname=name, subdomain="db")
    yield pod("db-x", labels={"app": "db"})


def services() -> Iterator[Json]:
    """All of the world."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    both = {"ipFamilyPolicy": "RequireDualStack"}
    yield service("web", selector={"app": "web"}, **both)
    yield service("web", "shop", ipFamilies=["IPv6"], selector={"app": "web"})
    yield service("db", clusterIP="None", selector={"app": "db"}, **both)
    yield service("gone", clusterIP="None", selector={"app": "nobody"})
    yield service("many", clusterIP="None")
    yield document("Service", "alias", spec={"type": "ExternalName", "externalName": f"web.default.{DOMAIN}"})
    endpoints = [{"addresses": [f"10.200.0.{number}"], "conditions": {"ready": True}} for number in range(1, MANY + 1)]
    slice_ = document("EndpointSlice", "many-1", addressType="IPv4", endpoints=endpoints,
                      ports=[{"name": "http", "port": 80, "protocol": "TCP"}])  # fmt: skip
    slice_["apiVersion"] = "discovery.k8s.io/v1"
    slice_["metadata"]["labels"] = {"kubernetes.io/service-name": "many"}
    yield slice_


@contextmanager
def dns_world(what: str) -> Iterator[World]:
    """The lab, up and ready. Services come last: what a cache hears of half of their pods it keeps for 30 s."""
    with live_lab(what, "--nodes", "2", "--no-demo", "--dual-stack", "--dns") as live:
        live.api(lambda api: apply(api, yaml.safe_dump_all(pods())))
        names = {each["metadata"]["name"] for each in pods()}
        until(lambda: ready(live, "default", names), "the pods are ready", 30.0, 0.05)
        live.api(lambda api: apply(api, yaml.safe_dump_all(services())))
        world = World(live)
        for server in SERVERS:  # not dnsmasq, see above
            at, kept = world.address(server), f"db.default.{DOMAIN}"
            until(lambda at=at, kept=kept: len(addresses(world.ask(kept, at, KUBEDNS))) == 3, "db has its pods", 20.0)  # type: ignore[misc]
        yield world


def ready(live: LiveLab, namespace: str, names: set[str]) -> bool:
    """Whether these pods are, in the words of the API."""
    found = live.api(lambda api: api.list(PODS, namespace, into=Pod))
    return names <= {pod.metadata.name for pod in found if not pod.metadata.deletion_timestamp and _ready(pod)}


def _ready(pod: Pod) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)


def words(*found: Sequence[str]) -> list[str]:
    """Sorted together."""
    return sorted(each for some in found for each in some)
