"""What is really there of each attachment: read from the node's kernel and from inside each pod, changing nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from podnet.kernel.decode import address as decoded
from podnet.kernel.netlink import ROUTE, Netlink
from podnet.kernel.netns import NoNamespace, inside
from podnet.network.ipam.audit import Found
from podnet.network.pods import host_ifname
from podnet.network.view import Attachment
from podnet.state.resource import LINK_PREFIX
from podnet.wire import links, routes

POD_LINK = re.compile(rf"{LINK_PREFIX}[0-9a-f]{{9}}")
"""Names of host_ifname; the node's other links of ours have a dot, a letter beyond f or another length."""

LINK_LOCAL = "fe80:"


def pod_links(netns: str) -> frozenset[str]:
    """The node's ends of pods' links in the namespace at `netns` ("": our own). Raises NoNamespace."""
    with Netlink(ROUTE, netns) as netlink:
        names = (links.decode(body).name for body in netlink.dump(links.dump()))
        return frozenset(name for name in names if POD_LINK.fullmatch(name))


def census(records: Iterable[Attachment], on_node: frozenset[str]) -> dict[tuple[str, str], Found]:
    """What is there of each record, by its id; `on_node` are the pod links of the node."""
    return {record.id: _found(record, host_ifname(record) in on_node) for record in records}


def strays(records: Iterable[Attachment], on_node: frozenset[str]) -> list[str]:
    """The pod links of the node that belong to no record."""
    return sorted(on_node - set(map(host_ifname, records)))


def _found(record: Attachment, link: bool) -> Found:
    try:
        with inside(record.netns), Netlink(ROUTE) as netlink:
            return Found(netns=True, link=link, addresses=tuple(_addresses(netlink, record.ifname)))
    except NoNamespace:
        return Found(link=link)


def _addresses(netlink: Netlink, ifname: str) -> Iterator[str]:
    """The addresses of one interface, without the link-local ones that the kernel makes."""
    names = {link.index: link.name for link in map(links.decode, netlink.dump(links.dump()))}
    for body in netlink.dump(routes.dump_addresses()):
        found = decoded(routes.decode_address(body), names, "")
        if found.dev == ifname and not found.address.startswith(LINK_LOCAL):
            yield found.address
