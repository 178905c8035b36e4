"""Do the records of given addresses agree with what the node really holds? (`podnet ipam check`)

The agent repairs what a pod with a namespace lacks by itself, so a finding of kind `missing` that stays means that it
is down or fails. What nobody repairs without being asked is a record whose pod vanished without a DEL (`leaked`): it
keeps its address from being given again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from podnet.network.view import Attachment, base_address


class Found(msgspec.Struct, frozen=True, gc=False):
    """What is there of one attachment; `addresses` (ip/prefix) are those in the pod, link-local ones left out."""

    netns: bool = False
    link: bool = False
    addresses: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One disagreement. `subject` is what it is about, `repair` what `--repair` does about it ("" = nothing)."""

    kind: str
    subject: str
    message: str
    repair: str = ""
    container_id: str = ""
    ifname: str = ""


NOTHING = Found()


def audit(
    records: Iterable[Attachment],
    found: Mapping[tuple[str, str], Found],
    strays: Iterable[str] = (),
    pod_cidrs: Iterable[str] = (),
) -> Iterator[Finding]:
    """Every disagreement between `records` and what was `found` for them, by Attachment.id.

    `strays` are links with our mark that belong to no record; without `pod_cidrs` nothing is said about them.
    """
    ranges = [ip_network(cidr) for cidr in pod_cidrs]
    owner: dict[str, Attachment] = {}
    for record in records:
        yield from _presence(record, found.get(record.id, NOTHING))
        for address in map(base_address, record.addresses):
            other = owner.setdefault(address, record)
            if other is not record:
                yield _finding("duplicate", record, f"{address} is recorded for {_name(other)} too", "", address)
            if ranges and not any(ip_address(address) in each for each in ranges):
                message = f"{address} is outside the node's range ({', '.join(map(str, ranges))}); restart the pod"
                yield _finding("outside", record, message, "", address)
    yield from (Finding("stray", link, f"link {link} belongs to no record", "delete the link") for link in strays)
    yield from _shared(owner, found)


def _presence(record: Attachment, there: Found) -> Iterator[Finding]:
    if not there.netns:
        message = f"its namespace {record.netns} is gone, but the address is still held"
        yield _finding("leaked", record, message, "remove the record")
        return
    if not there.link:
        yield _finding("missing", record, "its link is missing on the node; is the agent running?")
    lacking = _hosts(record.addresses) - _hosts(there.addresses)
    surplus = _hosts(there.addresses) - _hosts(record.addresses)
    if lacking:
        yield _finding("missing", record, f"the pod does not have {', '.join(sorted(lacking))}")
    if surplus:
        yield _finding("foreign", record, f"the pod also has {', '.join(sorted(surplus))}, given by nobody here")


def _shared(owner: Mapping[str, Attachment], found: Mapping[tuple[str, str], Found]) -> Iterator[Finding]:
    """Recorded addresses that another pod than the recorded one really has."""
    for identity, there in found.items():
        for address in sorted(_hosts(there.addresses)):
            record = owner.get(address)
            if record is not None and record.id != identity:
                message = f"{'/'.join(identity)} has {address}, which is recorded for {_name(record)}"
                yield Finding("duplicate", address, message, container_id=identity[0], ifname=identity[1])


def _hosts(addresses: Iterable[str]) -> set[str]:
    return set(map(base_address, addresses))


def _name(record: Attachment) -> str:
    return record.pod or "/".join(record.id)


def _finding(kind: str, record: Attachment, message: str, repair: str = "", subject: str = "") -> Finding:
    addresses = ",".join(map(base_address, record.addresses)) or _name(record)
    return Finding(kind, subject or addresses, f"{_name(record)}: {message}", repair, *record.id)
