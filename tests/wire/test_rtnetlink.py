"""Events: each message is decoded as what it is, and told apart into what came and what went."""

from __future__ import annotations

import pytest

from podnet.wire import links, routes, rtnetlink, tc
from podnet.wire.links import LinkMessage
from podnet.wire.netlink import Message, Request
from podnet.wire.routes import AddressMessage, FdbMessage, NeighbourMessage, RouteMessage
from podnet.wire.rtnetlink import Change
from podnet.wire.tc import QdiscMessage

LINK = LinkMessage(index=3, name="podnet0", kind="bridge", mtu=1450, mac="ee:ee:ee:ee:ee:01", up=True, master=0)
ADDRESS = AddressMessage(3, "10.244.1.1", 24, protocol=112)
ROUTE = RouteMessage("10.244.2.0", 24, "10.0.0.2", 2, protocol=112)
NEIGHBOUR = NeighbourMessage(3, "fd00::1", "0a:00:00:00:00:01")
FDB = FdbMessage(3, "0a:00:00:00:00:01", "10.0.0.2")


@pytest.mark.parametrize(
    ("request_", "verb", "body"),
    [
        (links.create(LINK), "new", LINK),
        (Request(links.DELETE, 0, links.create(LINK).body), "del", LINK),
        (routes.add_address(ADDRESS), "new", ADDRESS),
        (routes.delete_address(ADDRESS), "del", ADDRESS),
        (routes.replace_route(ROUTE), "new", ROUTE),
        (routes.delete_route(ROUTE), "del", ROUTE),
        (routes.replace_neighbour(NEIGHBOUR), "new", NEIGHBOUR),
        (routes.delete_neighbour(NEIGHBOUR), "del", NEIGHBOUR),
        (routes.replace_fdb(FDB), "new", FDB),
        (routes.delete_fdb(FDB), "del", FDB),
        (tc.ingress(3), "new", QdiscMessage(3, tc.INGRESS, "ingress")),
        (tc.delete_qdisc(3, tc.ROOT), "del", QdiscMessage(3, tc.ROOT, "")),
    ],
)
def test_a_message_is_a_change(request_: Request, verb: str, body: object) -> None:
    message = Message(request_.kind, 0, 0, 77, request_.body)
    assert rtnetlink.decode(message) == Change(verb, body, 77)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [2, 3, 32, 66, 80, 88])
def test_other_messages_are_none(kind: int) -> None:
    assert rtnetlink.decode(Message(kind, 0, 0, 0, bytes(64))) is None


def test_a_local_route_is_none() -> None:
    body = bytearray(routes.replace_route(ROUTE).body)
    body[7] = 2  # RTN_LOCAL
    assert rtnetlink.decode(Message(routes.NEW_ROUTE, 0, 0, 0, bytes(body))) is None
