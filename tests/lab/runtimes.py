"""Real container runtimes on podnet, on a throw-away machine inside this one.

`Machine` is a set of namespaces (mount, PID, network) that ends with the test: /run is empty memory, what is written to
/etc, /opt, /var and /tmp lands in memory and is never seen outside, and every process dies with the first one, by the
kernel's hand. A podnet lab runs in there, and the runtimes run in its nodes, each node with an engine of its own.

How each engine is made to work in a network namespace of ours: entered with nsenter (`ip netns exec` would hide
/sys/fs/cgroup), with runc (crun refuses hybrid cgroups), and with limits that need no further privilege.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import platform
import select
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from podnet.lab.registry import DEFAULT_NAME, Lab, LabNode, folder

BIN = os.path.dirname(sys.executable)
APPLETS = ("sh", "sleep", "ip", "ping", "wget", "httpd", "nc", "hostname")
SECONDS = 60

_FIRST_PROCESS = """\
import os, signal, subprocess, sys
def run(*words): subprocess.run(words, check=True)
run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
for folder in ("etc", "opt", "var", "tmp"):
    os.makedirs(f"/mnt/{folder}/up"); os.makedirs(f"/mnt/{folder}/work")
    options = f"lowerdir=/{folder},upperdir=/mnt/{folder}/up,workdir=/mnt/{folder}/work"
    run("mount", "-t", "overlay", "overlay", "-o", options, f"/{folder}")
run("mount", "-t", "tmpfs", "tmpfs", "/run")
os.makedirs("/etc/cni/net.d", exist_ok=True); os.makedirs("/opt/cni/bin", exist_ok=True); os.mkdir("/run/test")
run("ip", "link", "set", "lo", "up")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""


class Machine:
    """See above. Everything that is given as `words` runs in it."""

    def __init__(self) -> None:
        flags = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *flags, sys.executable, "-c", _FIRST_PROCESS]
        self._outer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._outer.stdout
        assert self._outer.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        self.pid = int(children[0])
        self._end = os.pidfd_open(self.pid)  # readable when the last process is gone
        self.cgroup = f"podnet-test-{self.pid}"
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outer.kill()  # --kill-child takes the first process along, and with it all others
        self._outer.communicate()
        select.select([self._end], [], [], SECONDS)
        os.close(self._end)
        for program in self._started:
            program.wait()
        for path in sorted(_cgroups(self.cgroup), key=len, reverse=True):
            with suppress(FileNotFoundError):
                os.rmdir(path)

    def outside(self, path: str) -> Path:
        """Where this test finds a file of the machine."""
        return Path(f"/proc/{self.pid}/root{path}")

    def command(self, words: Sequence[str], netns: str = "") -> list[str]:
        """The command line that runs `words` in there, in the network namespace at a path of the machine."""
        inner = ["nsenter", f"--net={netns}"] if netns else []
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", *inner, *words]

    def run(
        self, *words: str, netns: str = "", env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a failure shows what it wrote."""
        done = subprocess.run(
            self.command(words, netns),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def start(self, *words: str, netns: str = "", log: str) -> subprocess.Popen[bytes]:
        """Start a program that lives until the machine ends; its output goes to a file of the machine."""
        with self.outside(log).open("wb") as file:
            started = subprocess.Popen(
                self.command(words, netns), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._started.append(started)
        return started

    def lab(self, *options: str) -> Lab:
        """Bring up a lab in there; without DNS servers, unless the options say --dns."""
        self.run(f"{BIN}/podnet", "lab", "up", "--no-dns", *options)
        return msgspec.json.decode(self.outside(f"{folder(DEFAULT_NAME)}/lab.json").read_bytes(), type=Lab)

    def ask(self, node: LabNode, path: str) -> Any:
        """What the agent of a node answers on its socket."""
        connection = http.client.HTTPConnection("agent")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(SECONDS)
        connection.sock.connect(str(self.outside(f"{node.run_dir}/agent.sock")))
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _cgroups(name: str) -> list[str]:
    """Every cgroup of this name or below one, in every hierarchy."""
    found = []
    for top in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        found += [path for path, _, _ in os.walk(top)]
    return found


def root_filesystem() -> bytes:
    """The files of a container: a static busybox, and a web page that says who asks for it."""
    page = b"#!/bin/sh\necho Content-Type: text/plain\necho\necho $REMOTE_ADDR\n"
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "bin/busybox", Path("/bin/busybox").read_bytes())
        _add(tar, "www/cgi-bin/whoami", page)
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, BytesIO(content))


WEB = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
"""What the containers run: `/cgi-bin/whoami` tells a client its own address."""


class Engine(Protocol):
    """A container runtime on one node."""

    def run(self, name: str, ports: Mapping[int, int] = {}) -> None:
        """Start a container that serves WEB; `ports` are host port: container port."""

    def execute(self, name: str, *words: str) -> str:
        """Run a command in a container; its output."""

    def remove(self, name: str) -> None:
        """Kill and forget a container."""


class Podman:
    """podman with CNI as network backend."""

    CONFIG = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
pids_limit = 0
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin}"]
network_config_dir = "{node.conf_dir}"
default_network = "podnet"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
static_dir = "{folder}/static"
tmp_dir = "{folder}/tmp"
volume_path = "{folder}/volumes"
"""
    STORAGE = '[storage]\ndriver = "vfs"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'

    def __init__(self, machine: Machine, node: LabNode) -> None:
        self.machine, self.node = machine, node
        self.folder = f"/run/test/podman-{node.name}"
        place = machine.outside(self.folder)
        place.mkdir()
        (place / "containers.conf").write_text(self.CONFIG.format(bin=BIN, node=node, folder=self.folder))
        (place / "storage.conf").write_text(self.STORAGE.format(folder=self.folder))
        (place / "root.tar").write_bytes(root_filesystem())
        self.podman("import", f"{self.folder}/root.tar", "busybox:test")

    def podman(self, *words: str) -> str:
        """Run podman in the node."""
        env = {
            "CONTAINERS_CONF": f"{self.folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
        }
        return self.machine.run("podman", "--runtime", "runc", *words, netns=self.node.netns, env=env).stdout

    def run(self, name: str, ports: Mapping[int, int] = {}) -> None:
        published = [word for host, inner in ports.items() for word in ("-p", f"{host}:{inner}")]
        options = ["--name", name, "--network", "podnet", "--cgroup-parent", f"/{self.machine.cgroup}"]
        self.podman("run", "-d", *options, *published, "busybox:test", *WEB)

    def execute(self, name: str, *words: str) -> str:
        return self.podman("exec", name, *words)

    def remove(self, name: str) -> None:
        self.podman("rm", "-f", "-t", "0", name)


class Containerd:
    """containerd, driven by `ctr run --cni`."""

    CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{folder}/sock"
[ttrpc]
address = "{folder}/ttrpc"
"""

    def __init__(self, machine: Machine, node: LabNode) -> None:
        self.machine, self.node = machine, node
        self.folder = f"/run/test/containerd-{node.name}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        place = machine.outside(self.folder)
        place.mkdir()
        (place / "config.toml").write_text(self.CONFIG.format(folder=self.folder))
        (place / "image.tar").write_bytes(image())
        words = ("containerd", "--config", f"{self.folder}/config.toml")
        machine.start(*words, netns=node.netns, log=f"{self.folder}/log")
        until(
            lambda: self.machine.run(*self._ctr("version"), check=False).returncode == 0, lambda: "containerd answers"
        )
        self.ctr("image", "import", "--snapshotter", "native", f"{self.folder}/image.tar")

    def _ctr(self, *words: str) -> list[str]:
        """ctr where the node's CNI configuration and our plugin are in the places that it knows."""
        binds = f"mount --bind {self.node.conf_dir} /etc/cni/net.d && mount --bind {BIN} /opt/cni/bin"
        ctr = ["ctr", "--address", f"{self.folder}/sock", "--namespace", "k8s.io", *words]
        return ["unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh", *ctr]

    def ctr(self, *words: str) -> str:
        """Run ctr in the node."""
        return self.machine.run(*self._ctr(*words), netns=self.node.netns).stdout

    def run(self, name: str, ports: Mapping[int, int] = {}) -> None:
        """In the foreground, as only then ctr asks CNI to remove what it had it make."""
        assert not ports, "ctr publishes no ports"
        full, log = self._full(name), f"{self.folder}/{name}.log"
        options = ["--rm", "--cni", "--snapshotter", "native", "--cgroup", f"/{self.machine.cgroup}/{full}"]
        words = self._ctr("run", *options, IMAGE, full, *WEB)
        self.running[name] = self.machine.start(*words, netns=self.node.netns, log=log)
        until(lambda: "RUNNING" in self._state(full), lambda: f"{name} runs: {self.machine.outside(log).read_text()}")

    def _full(self, name: str) -> str:
        """Both nodes' containerds have the same folder for runc, as it can't be chosen."""
        return f"{name}-{self.node.name}"

    def _state(self, full: str) -> str:
        return "".join(line for line in self.ctr("task", "list").splitlines() if line.startswith(f"{full} "))

    def execute(self, name: str, *words: str) -> str:
        """In the container's namespaces: `ctr task exec` may end before what the command said came through."""
        pid = self._state(self._full(name)).split()[1]
        return self.machine.run("nsenter", "--target", pid, "--all", "--root", "--wd", *words).stdout

    def remove(self, name: str) -> None:
        self.ctr("task", "kill", "--signal", "SIGKILL", self._full(name))
        self.running.pop(name).wait(SECONDS)


ENGINES: Mapping[str, type[Podman | Containerd]] = {"podman": Podman, "containerd": Containerd}
IMAGE = "docker.io/library/busybox:test"


def image() -> bytes:
    """The same files as an OCI image in an archive, as `ctr image import` takes it."""
    layer = root_filesystem()
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def blob(kind: str, content: bytes) -> dict[str, Any]:
            digest = hashlib.sha256(content).hexdigest()
            _add(tar, f"blobs/sha256/{digest}", content)
            return {
                "mediaType": f"application/vnd.oci.image.{kind}",
                "digest": f"sha256:{digest}",
                "size": len(content),
            }

        below = blob("layer.v1.tar", layer)
        rootfs = {"type": "layers", "diff_ids": [below["digest"]]}
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        described = {"os": "linux", "architecture": architecture, "config": {}, "rootfs": rootfs}
        config = blob("config.v1+json", json.dumps(described).encode())
        manifest = blob(
            "manifest.v1+json", json.dumps({"schemaVersion": 2, "config": config, "layers": [below]}).encode()
        )
        manifest["annotations"] = {"io.containerd.image.name": IMAGE}
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    return archive.getvalue()


def until(happened: Callable[[], bool], what: Callable[[], str], seconds: float = 10.0) -> None:
    """Wait for something that needs a moment; fails with what it was."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s: {what()}"
        time.sleep(0.05)
