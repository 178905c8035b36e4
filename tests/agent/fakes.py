"""A node's network in memory, for the CNI server: it can be slow, refuse, hang, and it notices what must never be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from podnet.cni.errors import CniError
from podnet.network.view import Attachment, LocalFacts, NodeInfo, NodeView, base_address
from podnet.objects.network import NetworkSpec

CIDRS = ("10.244.1.0/24", "fd00:1::/64")


def node_view(cidrs: tuple[str, ...] = CIDRS, **spec: Any) -> NodeView:
    return NodeView(NodeInfo("n1", ("192.168.0.1",), cidrs), (), NetworkSpec(**spec), LocalFacts("n1", "eth0", 1500))


class FakeNetwork:
    """Implements PodNetwork: `kernel` is what it holds. `pause` is awaited in the middle of every change."""

    def __init__(self, view: NodeView | None = None, pause: Callable[[], Awaitable[None]] | None = None) -> None:
        self.view: NodeView | None = view or node_view()
        self.reason: str | None = None
        self.kernel: dict[tuple[str, str], Attachment] = {}
        self.differences: dict[tuple[str, str], tuple[str, ...]] = {}
        self.calls: list[str] = []
        self.attach_error: BaseException | None = None
        self.detach_error: CniError | None = None
        self.hang: asyncio.Event | None = None
        self._pause = pause or (lambda: asyncio.sleep(0))

    def not_ready(self) -> str | None:
        return self.reason

    def template(self) -> NodeView | None:
        return self.view

    async def attach(self, attachment: Attachment) -> None:
        self.calls.append(f"attach {attachment.container_id}")
        held = {base_address(each) for other in self.kernel.values() for each in other.addresses}
        assert held.isdisjoint(map(base_address, attachment.addresses)), "an address is in the kernel twice"
        assert attachment.id not in self.kernel
        self.kernel[attachment.id] = attachment
        await self._pause()
        if self.hang:
            await self.hang.wait()
        if self.attach_error:
            raise self.attach_error

    async def forget(self, attachment: Attachment) -> None:
        self.calls.append(f"forget {attachment.container_id}")
        await self._pause()

    async def detach(self, attachment: Attachment) -> None:
        self.calls.append(f"detach {attachment.container_id}")
        await self._pause()
        if self.detach_error:
            raise self.detach_error
        self.kernel.pop(attachment.id, None)

    async def verify(self, attachment: Attachment) -> tuple[str, ...]:
        await self._pause()
        missing = () if attachment.id in self.kernel else ("add veth",)
        return missing or self.differences.get(attachment.id, ())


class Answer(msgspec.Struct):
    """An answer of the CNI server, taken apart."""

    exit: int
    text: bytes

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text)
        return document

    @property
    def code(self) -> int:
        """The CNI error code, 0 for success."""
        return int(self.json["code"]) if self.exit else 0

    @property
    def address(self) -> str:
        """The first address of a result, without its prefix."""
        return base_address(self.json["ips"][0]["address"])
