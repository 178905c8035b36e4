"""The kubelet's loop: which pods it begins, tells and ends; the network's coming and going. With fakes all around."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from podnet.lab import kubelet as kubelets
from podnet.lab import registry
from podnet.lab.kubelet import Kubelet
from podnet.lab.libcni import Network, PluginError
from podnet.objects.codec import encode
from podnet.objects.core import Pod
from podnet.objects.services import Service
from tests.labs.values import pod, sandbox, until, write_text

CONFLIST = '{"cniVersion": "1.1.0", "name": "podnet", "plugins": [{"type": "podnet-cni"}]}'


class FakeLife:
    """Remembers what it was told; `done` ends it, `error` makes it fail."""

    def __init__(self, of: Pod, *rest: Any) -> None:
        self.pod = of
        self.updates: list[Pod] = []
        self.ends = 0
        self.done = asyncio.Event()
        self.error: Exception | None = None
        FakeLife.made.append(self)

    made: list[FakeLife] = []

    def update(self, of: Pod) -> None:
        self.updates.append(of)

    def end(self) -> None:
        self.ends += 1

    async def run(self) -> None:
        await self.done.wait()
        if self.error:
            raise self.error


class FakeInformers:
    """A cluster that the test changes."""

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], Pod] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.synced = asyncio.Event()
        self.synced.set()
        self._changed = asyncio.Event()

    @property
    def cluster(self) -> Any:
        return self

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def until_synced(self) -> Any:
        await self.synced.wait()
        return self

    async def changed(self, after: object) -> Any:
        await self._changed.wait()
        self._changed.clear()
        return self

    def put(self, *pods: Pod) -> None:
        self.pods = {each.key: each for each in pods}
        self._changed.set()


class FakeRegistration:
    def __init__(self) -> None:
        self.troubles: list[str] = []

    def network_trouble(self, trouble: str) -> None:
        if self.troubles[-1:] != [trouble]:
            self.troubles.append(trouble)

    async def run(self) -> None:
        await asyncio.Event().wait()


class FakeCni:
    def __init__(self) -> None:
        self.collected: list[list[tuple[str, str]]] = []
        self.errors: list[PluginError] = []

    async def collect(self, network: Network, valid: list[tuple[str, str]]) -> list[PluginError]:
        self.collected.append(valid)
        return self.errors


class World:
    """A running kubelet."""

    def __init__(self, folder: Path) -> None:
        self.node = registry.make_node(str(folder), 1, False)
        for path in (self.node.conf_dir, self.node.pods_dir):
            Path(path).mkdir(parents=True)
        self.informers = FakeInformers()
        self.registration = FakeRegistration()
        self.cni = FakeCni()
        self.kubelet = Kubelet(self.node, SimpleNamespace(server="fake"))  # type: ignore[arg-type]
        self.services = FakeInformers()
        self.kubelet._pods = self.informers  # type: ignore[assignment]
        self.kubelet._cluster = self.services  # type: ignore[assignment]
        self.kubelet._registration = self.registration  # type: ignore[assignment]
        self.kubelet._cni = self.cni  # type: ignore[assignment]

    def conflist(self, text: str | None = CONFLIST) -> None:
        path = Path(self.node.conf_dir, "10-podnet.conflist")
        path.write_text(text) if text is not None else path.unlink()

    def life(self, name: str) -> FakeLife:
        found: Any = self.kubelet.find("default", name)
        assert isinstance(found, FakeLife)
        return found


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(kubelets, "PodLife", FakeLife)
    monkeypatch.setattr(kubelets, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(kubelets, "RETRY_SECONDS", 0.01)
    FakeLife.made = []
    found = World(tmp_path)
    task = asyncio.create_task(found.kubelet.run())
    yield found
    task.cancel()
    await asyncio.wait([task])


# -- pods


async def test_every_pod_gets_a_life(world: World) -> None:
    world.informers.put(pod(name="one"), pod(name="two"))
    await until(lambda: len(world.kubelet.lives) == 2)
    assert world.life("one").updates[-1] == pod(name="one")
    assert world.kubelet.known.is_set()


async def test_a_changed_pod_is_told(world: World) -> None:
    world.informers.put(pod())
    await until(lambda: world.kubelet.lives)
    changed = pod(metadata={"labels": {"a": "b"}})
    world.informers.put(changed)
    await until(lambda: changed in world.life("web").updates)
    assert len(FakeLife.made) == 1


async def test_a_pod_that_vanished_is_ended(world: World) -> None:
    world.informers.put(pod(name="one"), pod(name="two"))
    await until(lambda: len(world.kubelet.lives) == 2)
    world.informers.put(pod(name="two"))
    await until(lambda: world.life("one").ends == 1)
    assert world.life("two").ends == 0


async def test_a_new_pod_of_the_same_name_is_another(world: World) -> None:
    world.informers.put(pod())
    await until(lambda: world.kubelet.lives)
    first = world.life("web")
    second = pod(metadata={"uid": "another"})
    world.informers.put(second)
    await until(lambda: len(world.kubelet.lives) == 2)
    assert first.ends == 1
    assert world.life("web").pod is second


async def test_a_life_that_is_over_is_forgotten(world: World) -> None:
    world.informers.put(pod())
    await until(lambda: world.kubelet.lives)
    life = world.life("web")
    world.informers.pods = {}
    life.done.set()
    await until(lambda: not world.kubelet.lives)
    assert world.kubelet.find("default", "web") is None


async def test_a_life_that_broke_begins_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.informers.put(pod())
    await until(lambda: world.kubelet.lives)
    life = world.life("web")
    life.error = OSError(28, "No space left on device")
    with caplog.at_level(logging.ERROR):
        life.done.set()
        await until(lambda: len(FakeLife.made) == 2)
    assert "No space left" in caplog.text


async def test_what_the_api_no_longer_has_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelets, "PodLife", FakeLife)
    FakeLife.made = []
    world = World(tmp_path)
    for name in ("known", "forgotten"):
        made = sandbox(Path(world.node.pods_dir), name)
        write_text(f"{made.folder}/pod.json", encode(pod(name=name)).decode())
    sandbox(Path(world.node.pods_dir), "unreadable")
    world.informers.put(pod(name="known"))
    task = asyncio.create_task(world.kubelet.run())
    await until(lambda: len(world.kubelet.lives) == 3)
    task.cancel()
    await asyncio.wait([task])
    ends = {life.pod.metadata.name: life.ends for life in FakeLife.made}
    assert ends["known"] == 0
    assert min(ends["forgotten"], ends["unreadable"]) >= 1


async def test_no_pod_begins_before_the_services_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelets, "PodLife", FakeLife)
    world = World(tmp_path)
    world.services.synced.clear()
    world.informers.put(pod())
    task = asyncio.create_task(world.kubelet.run())
    await asyncio.sleep(0.05)
    assert world.kubelet.lives == {}
    web = Service()
    world.services.services["default", "web"] = web
    world.services.synced.set()
    await until(lambda: world.kubelet.lives)
    assert list(world.kubelet._host.services()) == [web]
    task.cancel()
    await asyncio.wait([task])


# -- network


async def test_without_a_conflist_the_network_is_not_ready(world: World) -> None:
    await until(lambda: world.registration.troubles)
    assert world.registration.troubles == ["cni plugin not initialized"]
    assert not world.kubelet._network_ready.is_set()


async def test_the_network_comes_and_goes_with_the_conflist(world: World) -> None:
    world.conflist()
    await until(world.kubelet._network_ready.is_set)
    world.conflist(None)
    await until(lambda: not world.kubelet._network_ready.is_set())
    world.conflist()
    await until(world.kubelet._network_ready.is_set)
    assert world.registration.troubles[-3:] == ["", "cni plugin not initialized", ""]


async def test_a_broken_conflist_says_what_is_wrong(world: World) -> None:
    world.conflist("{}")
    await until(lambda: any("plugins" in trouble for trouble in world.registration.troubles))
    assert not world.kubelet._network_ready.is_set()


async def test_garbage_is_collected_once_before_the_first_pod(world: World) -> None:
    ready = sandbox(Path(world.node.pods_dir), "ready")
    sandbox(Path(world.node.pods_dir), "half", ips=())
    world.cni.errors = [PluginError("podnet-cni", "GC", 11, "later")]
    world.conflist()
    await until(world.kubelet._network_ready.is_set)
    world.conflist(None)
    await until(lambda: not world.kubelet._network_ready.is_set())
    world.conflist()
    await until(world.kubelet._network_ready.is_set)
    assert world.cni.collected == [[(ready.id, "eth0")]]


# -- the process


def test_an_unknown_node_is_said(root: Path) -> None:
    from tests.labs.test_registry import lab

    lab(root)
    with pytest.raises(SystemExit, match="has no node 'node9'"):
        kubelets.main(["one", "node9"])


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(SystemExit):
        kubelets.main(["one"])


def test_a_pod_goes_to_disk_and_back() -> None:
    assert msgspec.json.decode(encode(pod()), type=Pod) == pod()
