"""The agent's CNI side: every call of a container runtime arrives here through the shim and a unix socket.

The record (agent/attachments.py) is the truth and frames everything else: it is durable before the kernel is touched
and goes after the kernel is clean, so whatever is killed at whatever moment, a later DEL or GC finds what to remove.
A call for a container and interface waits for the one before; calls for others run beside it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from podnet.agent.attachments import Attachments, Id, StoreFailed, Taken
from podnet.agent.unix_server import UnixServer
from podnet.cni.config import range_sets
from podnet.cni.errors import NEWEST, VERSIONS, CniError, Code
from podnet.cni.request import Request, parse, version_of
from podnet.cni.result import Dns, disagreements, result
from podnet.network.ipam import ranges
from podnet.network.memo import Memo, recall
from podnet.network.migration import pod_mtu
from podnet.network.pods import attach, segment
from podnet.network.view import Attachment, NodeView

log = logging.getLogger(__name__)

ADD_SECONDS = 10.0
"""How long an ADD may take; then it is undone and the runtime told to try again."""

UNDO_SECONDS = 1.0
"""How long the answer to such an ADD waits for the undoing, which goes on afterwards."""

Observe = Callable[[str, int, float], None]
"""Told of every call: command, CNI code (0 = success), seconds."""


class PodNetwork(Protocol):
    """What the CNI server needs of the rest of the agent."""

    def not_ready(self) -> str | None:
        """Why no pod can be attached now; None when one can."""

    def template(self) -> NodeView | None:
        """The newest view: the node's podCIDRs, the cluster's settings."""

    async def attach(self, attachment: Attachment) -> None:
        """Bring a recorded attachment into the kernel and wait for it; raises CniError."""

    async def detach(self, attachment: Attachment) -> None:
        """Take it out of the kernel; nothing to remove is fine. Raises CniError."""

    async def forget(self, attachment: Attachment) -> None:
        """Remove what flows its addresses had from connection tracking. Raises CniError."""

    async def verify(self, attachment: Attachment) -> tuple[str, ...]:
        """How the kernel differs from what the attachment needs; empty when all is there."""


def check_netns(path: str, own_allowed: bool) -> int:
    """The inode of a namespace. Refuses what is none, and the agent's own: a pod's routes there would cut off the node.

    Raises CniError 8.
    """
    own = os.stat("/proc/self/ns/net")
    try:
        found = os.stat(path)
    except OSError as error:
        raise CniError(Code.NETNS, f"{path} is no network namespace", error.strerror or "") from None
    if found.st_dev != own.st_dev:
        raise CniError(Code.NETNS, f"{path} is no network namespace")
    if found.st_ino == own.st_ino and not own_allowed:
        raise CniError(Code.NETNS, f"{path} is the node's own network namespace")
    return found.st_ino


class CniServer:
    """Answers CNI calls on the unix socket `path`."""

    def __init__(
        self,
        path: str,
        store: Attachments,
        network: PodNetwork,
        observe: Observe = lambda command, code, seconds: None,
        seconds: float = ADD_SECONDS,
        inspect: Callable[[str, bool], int] = check_netns,
    ) -> None:
        self._store = store
        self._network = network
        self._observe = observe
        self._seconds = seconds
        self._inspect = inspect
        self._server = UnixServer(path, self.answer)
        self._locks: WeakValueDictionary[Id, asyncio.Lock] = WeakValueDictionary()
        self._adding: set[asyncio.Task[bytes]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._memo: Memo = {}
        self._commands: dict[str, Callable[[Request], Awaitable[bytes]]] = {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "GC": self._collect,
            "STATUS": self._status,
            "VERSION": self._version,
        }

    async def start(self) -> None:
        """Listen, and finish what an earlier agent left; raises UserError when the socket can't be made."""
        await self._server.start()
        for attachment in self._store.ended:
            self._in_background(self._finish_later(attachment))

    async def close(self) -> None:
        """Accept no more calls, finish those under way."""
        await self._server.close()
        if self._adding:
            await asyncio.wait(self._adding)
        await self.settled()

    async def settled(self) -> None:
        """Wait until whatever DEL has answered for is finished, and the addresses can be given again."""
        if self._ending:
            await asyncio.wait(self._ending)

    async def answer(self, frame: bytes) -> bytes:
        """The answer to one call: exit code byte and stdout. Whatever is wrong with it becomes a CNI error document."""
        start = asyncio.get_running_loop().time()
        command, code = "?", 0
        try:
            request = parse(frame)
            command = request.command
            return b"\0" + await self._commands[command](request)
        except CniError as error:
            code = error.code
            log.warning("%s failed: %s", command, error)
            return b"\1" + error.document(version_of(frame))
        finally:
            self._observe(command, code, asyncio.get_running_loop().time() - start)

    # -- ADD

    async def _add(self, request: Request) -> bytes:
        """An ADD that is answered in time, even when undoing it takes longer."""
        task = asyncio.create_task(self._add_within(request, asyncio.get_running_loop().time() + self._seconds))
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)
        await asyncio.wait({task}, timeout=self._seconds + UNDO_SECONDS)
        if not task.done():
            task.add_done_callback(_log_failure)
            raise _late(self._seconds)
        return task.result()

    async def _add_within(self, request: Request, deadline: float) -> bytes:
        view = self._ready(Code.TRY_AGAIN)
        self._inspect(request.draft.netns, request.own_netns)
        draft = _settled(request, view, any(each.netns == request.draft.netns for each in self._store.all()))
        try:
            async with asyncio.timeout_at(deadline):
                await self._make_way(draft)
            async with self._locked(draft.id, deadline):
                attachment = await self._record(draft, request, view, deadline)
                await self._attach(attachment, deadline)
        except TimeoutError:
            raise _late(self._seconds) from None
        return self._result(request, attachment, self._network.template() or view)

    async def _make_way(self, draft: Attachment) -> None:
        """A namespace's path names another namespace once the first is gone; then the record of the first is stale."""
        holder = self._store.holder(draft.netns, draft.ifname)
        if holder and holder.id != draft.id and self._store.get(holder.id) and await self._network.verify(holder):
            await self._forget(holder)

    async def _record(self, draft: Attachment, request: Request, view: NodeView, deadline: float) -> Attachment:
        sets = range_sets(request.config, view.me.pod_cidrs)
        try:
            try:
                return await self._store.add(draft, sets, request.ips)
            except (ranges.Exhausted, ranges.AddressTaken):
                await self._given_back(deadline)
                return await self._store.add(draft, sets, request.ips)
        except ranges.Exhausted as error:
            raise CniError(Code.EXHAUSTED, str(error), "remove pods, or give the node a larger podCIDR") from None
        except ranges.AddressTaken as error:
            raise CniError(Code.TAKEN, str(error)) from None
        except ranges.RangeError as error:
            raise CniError(Code.CONFIG, str(error)) from None
        except Taken as error:
            exists = error.claim[0] in ("attachment", "interface")
            raise CniError(
                Code.EXISTS if exists else Code.TAKEN, str(error), "DEL it first" if exists else ""
            ) from None
        except StoreFailed as error:
            raise CniError(Code.IO, str(error)) from None

    async def _given_back(self, deadline: float) -> None:
        """Wait for the addresses that are about to be free; not for a DEL that waits itself, perhaps for our lock."""
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=deadline - asyncio.get_running_loop().time())

    async def _attach(self, attachment: Attachment, deadline: float) -> None:
        """All or nothing: what fails, or is not done by the deadline, is undone."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._network.attach(attachment)
        except BaseException:
            try:
                await self._undo(attachment)
            except CniError as error:
                log.warning("%s stays until DEL or GC: %s", "/".join(attachment.id), error)
            raise

    def _result(self, request: Request, attachment: Attachment, view: NodeView) -> bytes:
        parts = (view.me, view.peers, view.network, view.facts)
        mtu = recall(self._memo, "mtu", parts, lambda: pod_mtu(view))
        view = msgspec.structs.replace(view, mtu=mtu)
        applied = (
            (*segment(view), *attach(view, attachment)) if attachment.mode == "bridge" else attach(view, attachment)
        )
        config = request.config
        return result(config.cni_version, attachment, applied, config.prev_result, _dns(request)).document()

    # -- the other commands

    async def _delete(self, request: Request) -> bytes:
        """Whatever is not there any more is fine: DEL may come twice, late, and without a namespace."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._in_background(self._end(request, answer))
        return await answer

    async def _end(self, request: Request, answer: asyncio.Future[bytes]) -> None:
        """The answer is given when the pod's network is gone and that is on record; its flows, which take the kernel
        long to find, go next, and last its addresses, which nobody gets before."""
        try:
            async with self._locked(request.id):
                attachment = self._store.get(request.id)
                if attachment is None or attachment.network != request.config.name:
                    answer.set_result(b"")
                    return
                await self._network.detach(attachment)
                ended = await self._store.end(attachment)
                answer.set_result(b"")
                await self._finish(ended)
        except (CniError, StoreFailed) as error:
            if answer.done():
                log.warning("%s: its flows stay until the agent restarts: %s", "/".join(request.id), error)
            else:
                answer.set_exception(error if isinstance(error, CniError) else CniError(Code.IO, str(error)))

    async def _finish(self, ended: Attachment) -> None:
        task = asyncio.current_task()
        assert task
        self._finishing.add(task)
        try:
            await self._network.forget(ended)
            await self._store.remove(ended)
        finally:
            self._finishing.discard(task)

    async def _finish_later(self, ended: Attachment) -> None:
        try:
            async with self._locked(ended.id):
                await self._finish(ended)
        except (CniError, StoreFailed) as error:
            log.warning("%s: its flows stay until the agent restarts: %s", "/".join(ended.id), error)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _check(self, request: Request) -> bytes:
        self._ready(Code.TRY_AGAIN)
        if request.config.prev_result is None:
            raise CniError(Code.CONFIG, "CHECK needs prevResult, the result of the ADD")
        async with self._locked(request.id):
            attachment = self._store.get(request.id)
            if attachment is None or attachment.network != request.config.name:
                raise CniError(Code.UNKNOWN_CONTAINER, f"{'/'.join(request.id)} is not attached to this network")
            wrong = [*disagreements(attachment, request.config.prev_result), *await self._network.verify(attachment)]
        if attachment.netns != request.draft.netns:
            wrong.append(f"it was attached in {attachment.netns}, not in {request.draft.netns}")
        if wrong:
            raise CniError(Code.NOT_APPLIED, "the pod's network is not as it was made", "; ".join(wrong))
        return b""

    async def _collect(self, request: Request) -> bytes:
        """Remove each attachment of the network that the runtime does not list; a failure does not stop the rest.

        A runtime starts no ADD beside GC, but one whose plugin it has killed may still be under way here.
        """
        if request.config.valid is None:
            raise CniError(Code.CONFIG, "GC needs cni.dev/valid-attachments, the attachments to keep")
        if self._adding:
            await asyncio.wait(self._adding)
        valid = {(each.container_id, each.ifname) for each in request.config.valid}
        stale = [each for each in self._store.all() if each.network == request.config.name and each.id not in valid]
        failures = [error for error in await asyncio.gather(*map(self._collected, stale)) if error]
        if failures:
            raise CniError(
                failures[0].code, f"{len(failures)} of {len(stale)} stale attachments remain", str(failures[0])
            )
        return b""

    async def _collected(self, attachment: Attachment) -> CniError | None:
        try:
            await self._forget(attachment)
        except CniError as error:
            return error
        return None

    async def _status(self, request: Request) -> bytes:
        view = self._ready(Code.UNAVAILABLE)
        try:
            self._store.has_room(range_sets(request.config, view.me.pod_cidrs))
        except ranges.Exhausted as error:
            raise CniError(Code.UNAVAILABLE, str(error)) from None
        return b""

    async def _version(self, request: Request) -> bytes:
        return msgspec.json.encode({"cniVersion": NEWEST, "supportedVersions": VERSIONS}) + b"\n"

    # -- shared steps

    def _ready(self, otherwise: Code) -> NodeView:
        reason, view = self._network.not_ready(), self._network.template()
        if reason is None and view is not None and view.me.pod_cidrs:
            return view
        why = reason or ("the node has no podCIDR yet" if view else "the cluster's settings are not known yet")
        raise CniError(otherwise, f"the node's network is not ready: {why}")

    async def _forget(self, attachment: Attachment) -> None:
        async with self._locked(attachment.id):
            if self._store.get(attachment.id) is attachment:
                await self._undo(attachment)

    async def _undo(self, attachment: Attachment) -> None:
        """Kernel first, record last: until the kernel is clean, nobody else gets the address."""
        await self._network.detach(attachment)
        await self._network.forget(attachment)
        try:
            await self._store.remove(attachment)
        except StoreFailed as error:
            raise CniError(Code.IO, str(error)) from None

    @asynccontextmanager
    async def _locked(self, identity: Id, deadline: float | None = None) -> AsyncIterator[None]:
        lock = self._locks.setdefault(identity, asyncio.Lock())
        async with asyncio.timeout_at(deadline):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _settled(request: Request, view: NodeView, second: bool) -> Attachment:
    """The draft with the cluster's settings where the configuration has none; `second`: not alone in its namespace."""
    config = request.config
    if config.ip_masq is not None and (config.ip_masq in (True, "true")) != view.network.masquerade:
        why = "spec.masquerade of NetworkConfig/default decides that for the whole cluster"
        raise CniError(Code.UNSUPPORTED, f"ipMasq {config.ip_masq} is not the cluster's setting", why)
    mode = config.attachment or view.network.attachment
    return msgspec.structs.replace(request.draft, mode=mode, default_route=not second)


def _dns(request: Request) -> Dns:
    runtime = request.config.runtime_config.dns
    if runtime is None:
        return request.config.dns
    return Dns(nameservers=runtime.servers, search=runtime.searches, options=runtime.options)


def _late(seconds: float) -> CniError:
    return CniError(Code.TRY_AGAIN, f"the pod's network was not ready within {seconds:g} s")


def _log_failure(task: asyncio.Task[bytes]) -> None:
    """The end of an ADD whose caller has its answer already."""
    error = task.exception()
    if not isinstance(error, CniError | None):
        log.error("undoing an ADD failed", exc_info=error)
