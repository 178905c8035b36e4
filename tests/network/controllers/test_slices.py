"""As few writes of slices as will do."""

from __future__ import annotations

from msgspec.structs import replace

from podnet.network.controllers.actions import Action, Create, Delete, Replace
from podnet.network.controllers.slices import Draft, order, owner, plain, settle, with_change_time
from podnet.objects.cluster import Key
from podnet.objects.kinds import SERVICES
from podnet.objects.meta import ObjectMeta, OwnerReference
from podnet.objects.services import CHANGE_TIME, EndpointSlice, SliceEndpoint, SlicePort
from tests.network.controllers.backed import service

KEY: Key = ("default", "web")
PORTS = (SlicePort("http", port=80),)
ONE = SliceEndpoint(("10.0.0.1",))


def stored(name: str) -> EndpointSlice:
    return EndpointSlice(ObjectMeta(name, "default", f"uid-{name}", "7"), "IPv4", (ONE,), PORTS)


def new() -> Draft:
    return Draft("IPv4", PORTS, [ONE])


def going(name: str) -> Draft:
    return Draft("IPv4", PORTS, old=stored(name))


def done(*drafts: Draft, grow: bool = True, taken: frozenset[Key] = frozenset()) -> list[Action]:
    return list(settle(drafts, KEY, lambda meta: meta, taken, grow))


def names(actions: list[Action]) -> list[str]:
    return [f"{type(each).__name__} {getattr(each, 'name', '')}".strip() for each in actions]


def test_what_did_not_change_is_not_written() -> None:
    assert done(Draft("IPv4", PORTS, [ONE], stored("a"), changed=False)) == []
    assert done() == []


def test_a_slice_that_goes_makes_room_for_one_that_comes() -> None:
    (action,) = done(going("a"), new())
    assert isinstance(action, Replace)
    assert action.name == "a"
    assert action.document["endpoints"] == [{"addresses": ["10.0.0.1"]}]
    assert action.document["metadata"]["resourceVersion"] == "7"


def test_more_come_than_go_and_the_other_way_round() -> None:
    assert names(done(going("a"), new(), new())) == ["Replace a", "Create"]
    assert names(done(going("a"), going("b"), new())) == ["Replace a", "Delete b"]


def test_what_must_not_grow_still_shrinks() -> None:
    assert names(done(new(), going("a"), new(), grow=False)) == ["Replace a"]
    (action,) = done(going("a"), grow=False)
    assert action == Delete(action.kind, "default", "a", "uid-a") if isinstance(action, Delete) else False


def test_new_names_are_always_the_same_and_nobody_elses() -> None:
    first, second = (each.document["metadata"]["name"] for each in done(new(), new()) if isinstance(each, Create))
    assert first != second
    assert first.startswith("web-")
    (other,) = done(new(), taken=frozenset({("default", first)}))
    assert isinstance(other, Create)
    assert other.document["metadata"]["name"] == second
    (six,) = settle([replace(new(), family="IPv6")], KEY, lambda meta: meta, (), True)
    assert isinstance(six, Create)
    assert six.document["metadata"]["name"] not in (first, second)


def test_a_long_name_leaves_room_for_the_rest() -> None:
    (action,) = settle([new()], ("default", "x" * 253), lambda meta: meta, (), True)
    assert isinstance(action, Create)
    assert len(action.document["metadata"]["name"]) == 253


def test_an_empty_slice_still_says_that_it_is_empty() -> None:
    (action,) = done(Draft("IPv4", (), empty=True))
    assert isinstance(action, Create)
    assert (action.document["endpoints"], action.document["ports"]) == ([], [])


def test_ports_have_an_order() -> None:
    one, two, three = SlicePort("a", "TCP", 1), SlicePort("a", "UDP", 1), SlicePort("b")
    assert order([three, two, one]) == (one, two, three)


def test_the_time_of_a_change_comes_and_goes() -> None:
    meta = ObjectMeta("a", annotations={"x": "y"})
    dated = with_change_time(meta, "noon")
    assert dated.annotations == {"x": "y", CHANGE_TIME: "noon"}
    assert with_change_time(dated, None) == meta


def test_owners_are_controllers() -> None:
    assert owner(SERVICES, service()) == OwnerReference("v1", "Service", "web", "uid-web", True, True)
    assert plain(service().spec.ports[0]) == {"name": "http", "port": 80, "targetPort": 8080}
