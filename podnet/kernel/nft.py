"""nftables through libnftables, in this process: a transaction is a text, as for the nft command.

A table is replaced as a whole, together with the elements it held and the steps about them, in one transaction, so
there is no moment without enforcement. Whether a table is still ours is told by the hash of its listing without
elements: it is remembered when the table was written, beside the body that was written, and survives us in nft.json.
A table that is not remembered, or that was changed by someone, is read as its raw listing, so that it is made anew.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import socket
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from podnet.kernel.files import load, store
from podnet.kernel.netlink import NETFILTER
from podnet.kernel.netns import inside
from podnet.kernel.outcome import Tally
from podnet.state.nft import Element, NftTable
from podnet.state.plan import Step
from podnet.state.resource import TABLE_PREFIX, Key, Resource
from podnet.wire import nftables
from podnet.wire.netlink import Failure

_STATELESS, _NUMERIC, _TERSE = 1 << 2, 0xF << 7, 1 << 11
_SO_PROTOCOL = 38
_MOST_DESCRIPTORS = 1024

PORTION = 10_000
"""Elements in one transaction, where it is allowed to take several."""


class NftError(Exception):
    """libnftables refused a command; `failure` is the errno and nft's first line about it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Library:
    """One libnftables context, bound to the namespace in which it was made."""

    def __init__(self, netns: str) -> None:
        """Raises OSError when the library is missing, NoNamespace."""
        self._netns = netns
        self._nft = ctypes.CDLL("libnftables.so.1")
        for name in ("nft_ctx_new", "nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._nft, name).restype = ctypes.c_void_p if name == "nft_ctx_new" else ctypes.c_char_p
        before = _netfilter_sockets()
        with inside(netns):
            self._context = ctypes.c_void_p(self._nft.nft_ctx_new(0))
        self._descriptor = next(iter(_netfilter_sockets() - before), -1)
        if self._descriptor >= _MOST_DESCRIPTORS:
            raise OSError(errno.EMFILE, "libnftables aborts on descriptors above 1023, which its select() can't hold")
        self._nft.nft_ctx_buffer_output(self._context)
        self._nft.nft_ctx_buffer_error(self._context)

    def port(self) -> int:
        """The netlink port that our transactions come from; 0 when it is unknown."""
        return _port(self._descriptor) or 0

    def run(self, commands: str, flags: int = _STATELESS) -> str:
        """Run commands as one transaction; returns what they list. Raises NftError."""
        self._nft.nft_ctx_output_set_flags(self._context, flags | _NUMERIC)
        with inside(self._netns):  # names of links are looked up in the namespace of the thread
            failed = self._nft.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._nft.nft_ctx_get_output_buffer(self._context)
        if failed:
            words: bytes = self._nft.nft_ctx_get_error_buffer(self._context)
            raise NftError(_failure(words.decode(errors="replace")))
        return output.decode(errors="replace")

    def close(self) -> None:
        """Free the context."""
        self._nft.nft_ctx_free(self._context)


def _netfilter_sockets() -> set[int]:
    """libnftables does not tell its socket, so its netlink port is found by looking for what is new."""
    return {number for name in os.listdir("/proc/self/fd") if _port(number := int(name)) is not None}


def _port(descriptor: int) -> int | None:
    """The port of a netfilter netlink socket; None for any other descriptor."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        copy = os.dup(descriptor)
    except OSError:
        return None
    with socket.socket(fileno=copy) as channel:
        if channel.family != socket.AF_NETLINK or channel.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) != NETFILTER:
            return None
        port: int = channel.getsockname()[0]
        return port


def _failure(words: str) -> Failure:
    errors = [line.removeprefix("Error: ") for line in words.splitlines() if line.startswith("Error: ")]
    first = errors[0] if errors else " ".join(words.split())
    for number in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EOPNOTSUPP, errno.EPERM, errno.ENOMEM):
        if os.strerror(number) in first:
            return Failure(number, first)
    return Failure(errno.EINVAL, first)


class Written(msgspec.Struct, frozen=True):
    """What we remember of a table that we wrote: the hash of its listing, and its body."""

    hash: str
    body: str


class Nft:
    """Our tables in one namespace."""

    def __init__(self, state_dir: str, netns: str) -> None:
        """Raises OSError when the library is missing, NoNamespace."""
        self.library = Library(netns)
        self._file = os.path.join(state_dir, "nft.json")
        self._written = load(self._file, dict[str, Written]) or {}

    def read(self, kinds: frozenset[str]) -> Iterator[Resource]:
        """Our tables and the elements of their sets, except what comes and goes by itself. Raises NftError."""
        whole = "Element" in kinds
        for family, name in nftables.table_names(self.library.run("list tables")):
            listing = self._list(family, name, _STATELESS | (0 if whole else _TERSE)) if _ours(name) else None
            if listing is None:
                continue
            if "NftTable" in kinds:
                yield self._table(family, name, listing.skeleton)
            for found in listing.sets if whole else ():
                if not found.transient:
                    yield from (nftables.resource(family, name, found.name, each) for each in found.elements)

    def remembered(self, family: str, table: str, name: str) -> tuple[str, ...]:
        """The elements that one set holds now, also those that come and go by themselves; none when it is not there.
        `name` with its sort, as in "set ejected" or "map affinity-10800". Raises NftError."""
        try:
            sort, _, name = name.partition(" ")
            listing = nftables.parse(self.library.run(f"list {sort} {family} {table} {name}"))
            return listing.sets[0].elements if listing.sets else ()
        except NftError as error:
            if error.failure.errno == errno.ENOENT:
                return ()
            raise

    def forget(self, family: str, table: str, name: str, elements: Iterable[str]) -> None:
        """Take elements out of such a set; those that have gone by themselves do not matter. Raises NftError."""
        which = f"element {family} {table} {name.partition(' ')[2]} {{ {', '.join(elements)} }}"
        try:
            self.library.run(f"add {which}\ndelete {which}")
        except NftError as error:
            if error.failure.errno != errno.ENOENT:
                raise

    def _list(self, family: str, name: str, flags: int) -> nftables.Listing | None:
        """None when the table is not there."""
        try:
            return nftables.parse(self.library.run(f"list table {family} {name}", flags))
        except NftError as error:
            if error.failure.errno == errno.ENOENT:
                return None
            raise

    def _table(self, family: str, name: str, skeleton: str) -> NftTable:
        known = self._written.get(f"{family} {name}")
        same = known is not None and known.hash == _hash(skeleton)
        return NftTable(family, name, known.body if known is not None and same else nftables.body(skeleton))

    def apply(self, steps: Sequence[Step], tally: Tally) -> None:
        """Carry out steps in one transaction, or a few when there is much to add (see portions)."""
        for portion in portions(steps):
            self._transact(portion, tally)

    def _transact(self, steps: Sequence[Step], tally: Tally) -> None:
        """When nft refuses them together, in halves, until it is known which steps fail."""
        if not steps:
            return
        ordered = sorted(steps, key=lambda step: isinstance(step.resource, Element))
        try:
            self.library.run(self._commands(ordered))
        except (NftError, ValueError) as error:
            if len(ordered) > 1:
                half = len(ordered) // 2
                self._transact(ordered[:half], tally)
                self._transact(ordered[half:], tally)
                return
            self._last_try(ordered[0], error, tally)
            return
        self._remember(ordered)
        for step in ordered:
            tally.succeed(step)

    def _last_try(self, step: Step, error: NftError | ValueError, tally: Tally) -> None:
        """A step that was refused by itself: perhaps it is done already, or something else has its place."""
        failure = error.failure if isinstance(error, NftError) else Failure(errno.EINVAL, str(error))
        resource = step.resource
        if step.verb == "delete" and failure.errno == errno.ENOENT:
            tally.succeed(step)
            return
        if isinstance(resource, Element) and failure.errno == errno.EEXIST:
            again = nftables.delete_elements((resource,)) + nftables.add_elements((resource,))
        elif isinstance(resource, NftTable) and step.verb != "delete":
            again = nftables.replace_table(resource)  # without what it held: that may not fit the new sets
        else:
            tally.fail(step, failure)
            return
        try:
            self.library.run(again)
        except (NftError, ValueError):
            tally.fail(step, failure)
            return
        self._remember((step,))
        tally.succeed(step)

    def _commands(self, steps: Sequence[Step]) -> str:
        """One transaction: elements go, tables come with what they hold, elements come."""
        tables = [(step.verb, step.resource) for step in steps if isinstance(step.resource, NftTable)]
        elements = [(step.verb, step.resource) for step in steps if isinstance(step.resource, Element)]
        away = {table.home for verb, table in tables if verb == "delete"}
        anew = {table.home for verb, table in tables} - away
        if away:
            elements = [(verb, element) for verb, element in elements if element.home not in away]
        dropped = {element.key for _, element in elements if element.home in anew} if anew else set()
        old = [element for verb, element in elements if verb != "add" and element.home not in anew]
        new = [element for verb, element in elements if verb != "delete"]
        text = [nftables.delete_elements(old)]
        for verb, table in tables:
            text.append(nftables.delete_table(table) if verb == "delete" else self._replace(table, dropped))
        return "".join((*text, nftables.add_elements(new)))

    def _replace(self, table: NftTable, dropped: Collection[Key]) -> str:
        """The table, and the elements that it held except those about which there are steps."""
        wanted = nftables.declared(table.body)
        listing = self._list(table.family, table.name, 0)
        held = {
            found.name: [each for each in found.elements if _element(table, found, each).key not in dropped]
            for found in (listing.sets if listing else ())
            if found.name in wanted
        }
        return nftables.replace_table(table) + nftables.restore_elements(table, held)

    def _remember(self, steps: Iterable[Step]) -> None:
        tables = [(step.verb, step.resource) for step in steps if isinstance(step.resource, NftTable)]
        for verb, table in tables:
            listing = self._list(table.family, table.name, _STATELESS | _TERSE) if verb != "delete" else None
            if listing is None:
                self._written.pop(f"{table.family} {table.name}", None)
            else:
                self._written[f"{table.family} {table.name}"] = Written(_hash(listing.skeleton), table.body)
        if tables:
            store(self._file, self._written)

    def close(self) -> None:
        """Free the library's context."""
        self.library.close()


def portions(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """A transaction costs more than its size tells: a quarter of a million elements take a third of the time in
    portions. Data that nothing leads to yet may be added in advance: verdicts, changes and all else come together at
    the end. A table that is made anew keeps everything in one transaction."""
    early = [step for step in steps if _early(step)]
    tables = [step for step in steps if isinstance(step.resource, NftTable)]
    if len(early) <= PORTION or any(step.verb != "add" for step in tables):
        yield steps
        return
    yield tables
    for start in range(0, len(early), PORTION):
        yield early[start : start + PORTION]
    yield [step for step in steps if isinstance(step.resource, Element) and not _early(step)]


def _early(step: Step) -> bool:
    resource = step.resource
    return step.verb == "add" and isinstance(resource, Element) and not resource.value.startswith(("goto ", "jump "))


def split(steps: Iterable[Step]) -> tuple[list[Step], list[Step]]:
    """(first, last). What is added or changed goes first, together with what stands in its way: a table's own, and
    intervals of the same set. What is only deleted goes last: policy outlives the link it was for, and a packet that
    looked up the old number of endpoints still finds each of them."""
    steps = [step for step in steps if isinstance(step.resource, NftTable | Element)]
    made = [step.resource for step in steps if step.verb != "delete"]
    tables = {resource.home for resource in made if isinstance(resource, NftTable)}
    sets = {(*resource.home, resource.set): False for resource in made if isinstance(resource, Element)}
    sets |= {(*each.home, each.set): True for each in made if isinstance(each, Element) and _interval(each)}
    first: list[Step] = []
    last: list[Step] = []
    for step in steps:
        (first if step.verb != "delete" or _beside(step.resource, tables, sets) else last).append(step)
    return first, last


def _beside(resource: Resource, tables: Collection[Key], sets: Mapping[Key, bool]) -> bool:
    """`sets` to which elements are added, and whether an interval is among those."""
    if isinstance(resource, Element):
        intervals = sets.get((*resource.home, resource.set))
        return resource.home in tables or bool(intervals) or (intervals is not None and _interval(resource))
    return isinstance(resource, NftTable) and resource.home in tables


def _interval(element: Element) -> bool:
    return "/" in element.element or "-" in element.element


def _element(table: NftTable, found: nftables.NftSet, text: str) -> Element:
    return nftables.resource(table.family, table.name, found.name, text)


def _ours(name: str) -> bool:
    return name.startswith(TABLE_PREFIX)


def _hash(skeleton: str) -> str:
    return hashlib.sha256(skeleton.encode()).hexdigest()
