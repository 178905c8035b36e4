"""What leased ports become on a node, and that no claim of anybody spoils a node."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from podnet.network.desired import desired, node_state
from podnet.network.leases import assign, extended, leases, node_of
from podnet.network.memo import Memo
from podnet.network.view import PortMapping
from podnet.network.viewing import view
from podnet.objects.core import Pod, PodSpec
from podnet.objects.leases import EXTERNAL_ANNOTATION, DebugPort, DebugPortSpec, Published
from podnet.objects.meta import ObjectMeta
from podnet.state.nft import Element
from tests.worlds import attachment, cluster, config, facts, node

WEB = ("default", "web")


def pod(name: str = "web", node: str = "n1", *ports: Published, text: str = "", host: bool = False) -> Pod:
    annotation = text or msgspec.json.encode(ports).decode()
    metadata = ObjectMeta(name=name, namespace="default", annotations={EXTERNAL_ANNOTATION: annotation})
    return Pod(metadata, PodSpec(node_name=node, host_network=host))


def rpc(port: int = 30001, protocol: str = "TCP") -> Published:
    return Published("rpc", "10.0.0.1", port, 20880, protocol)


def debug(pod: str = "web", node_port: int = 30005) -> dict[tuple[str, str], DebugPort]:
    spec = DebugPortSpec(pod, 5005, "UDP", node_port=node_port)
    return {("default", "d"): DebugPort(ObjectMeta(name="d", namespace="default"), spec)}


def test_the_ports_of_each_pod() -> None:
    found = leases({WEB: pod("web", "n1", rpc())}, debug())
    assert found == {"default/web": (PortMapping(30001, 20880), PortMapping(30005, 5005, "udp"))}
    ending = {
        key: DebugPort(replace(each.metadata, deletion_timestamp="now"), each.spec) for key, each in debug().items()
    }
    assert leases({}, ending) == {}


def test_what_cannot_be_is_left_out() -> None:
    for text in ("", "nonsense", "[1]", '[{"port": "x"}]'):
        assert leases({WEB: pod(text=text)}, {}) == {}
    assert leases({WEB: pod("web", "n1", rpc(0), rpc(70000), rpc(30002, "ICMP"))}, {}) == {}
    assert leases({WEB: pod("web", "n1", rpc(), host=True)}, {}) == {}
    twice = {("default", name): pod(name, "n1", rpc()) for name in ("web", "abc")}
    assert set(leases(twice, {})) == {"default/abc"}
    assert node_of(pod("web", "n7")) == "n7"
    assert node_of(Pod(spec=PodSpec(node_name="n7"))) is None


def test_the_first_interface_of_the_newest_sandbox_has_them() -> None:
    port = (PortMapping(30001, 20880),)
    old, new = attachment(1, 1, pod="default/web"), attachment(1, 2, pod="default/web")
    second = replace(attachment(1, 3, pod="default/web"), default_route=False)
    other = attachment(1, 4, pod="default/other")
    assert assign((old, new, second, other), {"default/web": port}) == {new.id: port}
    assert assign((old, replace(new, ended=True)), {"default/web": port}) == {old.id: port}
    rival = replace(other, ports=port)
    assert assign((old, rival), {"default/web": port}) == {old.id: ()}, "a hostPort goes before"
    assert assign((old,), {}) == {}
    assert extended(old, ()) is old
    assert extended(rival, port).ports == port + port


def test_a_node_leads_its_own_pods_ports_and_takes_them_back() -> None:
    memo: Memo = {}
    own = attachment(1, 1, pod="default/web")
    world = cluster([node(1), node(2)], config()).with_objects(
        "pods", {WEB: pod("web", "n1", rpc()), ("default", "x"): pod("x", "n2", rpc())}
    )
    world = world.with_objects("debugports", debug())

    def elements(world_now: object) -> set[str]:
        seen = view(world_now, facts(1), (own,), memo)  # type: ignore[arg-type]
        assert seen is not None
        resources = node_state(desired(seen, memo)).values()
        return {
            f"{each.element} -> {each.value}"
            for each in resources
            if isinstance(each, Element) and each.table == "podnet-hostports" and each.value and each.set == "ports-ip"
        }

    address = own.addresses[0].partition("/")[0]
    assert elements(world) == {f"6 . 30001 -> {address} . 20880", f"17 . 30005 -> {address} . 5005"}
    assert elements(world.with_objects("debugports", {})) == {f"6 . 30001 -> {address} . 20880"}
    assert elements(cluster([node(1), node(2)], config())) == set()
