"""Server-side Tables: what `kubectl get` prints, with upstream's columns.

A printer is a function from a document to its cells; columns with priority 1 show up with `-o wide`. Ages depend on the
time of asking, so rows are made per request and never kept.
Source: k8s.io/kubernetes pkg/printers/internalversion/printers.go, k8s.io/apimachinery pkg/util/duration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from podnet.apiserver.pod_cells import age, pod_cells
from podnet.apiserver.records import Record
from podnet.apiserver.status import Document
from podnet.objects.kinds import Kind

Cells = list[Any]


class Printer(NamedTuple):
    """The columns, + before those of `-o wide` and _ for a space, and the cells of a document at a moment."""

    columns: str
    cells: Callable[[Document, datetime], Cells]


def table(
    kind: Kind, records: Iterable[Record], now: datetime, include: str, metadata: Document, columns: bool = True
) -> Document:
    """A Table of the records; `include` is None, Metadata or Object; the first Table of a watch carries the columns."""
    printer = PRINTERS[kind.kind]
    rows = []
    for record in records:
        document = record.document()
        row: Document = {"cells": printer.cells(document, now)}
        if include != "None":
            row["object"] = document if include == "Object" else _partial(document)
        rows.append(row)
    definitions = _definitions(printer) if columns else None
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    }  # fmt: skip


def _partial(document: Document) -> Document:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": document["metadata"]}


def _definitions(printer: Printer) -> list[Document]:
    return [
        {
            "name": name.lstrip("+").replace("_", " "), "type": "integer" if name == "Data" else "string",
            "format": "name" if name == "Name" else "", "description": "", "priority": int(name.startswith("+")),
        }
        for name in printer.columns.split()
    ]  # fmt: skip


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])


def _created(document: Document, now: datetime) -> str:
    return age(document["metadata"].get("creationTimestamp"), now)


def _namespace(document: Document, now: datetime) -> Cells:
    return [_name(document), document.get("status", {}).get("phase", ""), _created(document, now)]


def _node(document: Document, now: datetime) -> Cells:
    spec, status = document.get("spec", {}), document.get("status", {})
    info, labels = status.get("nodeInfo", {}), document["metadata"].get("labels", {})
    ready = [item.get("status") for item in status.get("conditions", ()) if item.get("type") == "Ready"]
    state = "Unknown" if not ready else "Ready" if ready[0] == "True" else "NotReady"
    state += ",SchedulingDisabled" if spec.get("unschedulable") else ""
    prefix = "node-role.kubernetes.io/"
    roles = sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix)
    return [
        _name(document), state, ",".join(roles) or "<none>", _created(document, now), info.get("kubeletVersion", ""),
        _address(status, "InternalIP"), _address(status, "ExternalIP"), info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>", info.get("containerRuntimeVersion") or "<unknown>",
    ]  # fmt: skip


def _address(status: Document, kind: str) -> Any:
    found = (item.get("address", "") for item in status.get("addresses", ()) if item.get("type") == kind)
    return next(found, "<none>")


def _service(document: Document, now: datetime) -> Cells:
    spec = document["spec"]
    return [
        _name(document), spec["type"], next(iter(spec.get("clusterIPs", ())), "<none>"), _external(document),
        ",".join(map(_port, spec.get("ports", ()))) or "<none>", _created(document, now), _pairs(spec.get("selector")),
    ]  # fmt: skip


def _external(document: Document) -> str:
    """The addresses outside, as far as the type has any."""
    spec = document["spec"]
    if spec["type"] == "ExternalName":
        return str(spec.get("externalName", ""))
    balanced = spec["type"] == "LoadBalancer"
    ingress = document.get("status", {}).get("loadBalancer", {}).get("ingress", ()) if balanced else ()
    names = {item.get("ip") or item.get("hostname") for item in ingress} - {None, ""}
    return ",".join([*sorted(names), *spec.get("externalIPs", ())]) or ("<pending>" if balanced else "<none>")


def _port(port: Document) -> str:
    number = f"{port['port']}:{port['nodePort']}" if port.get("nodePort") else str(port["port"])
    return f"{number}/{port.get('protocol', 'TCP')}"


def _pairs(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def _config_map(document: Document, now: datetime) -> Cells:
    return [
        _name(document),
        len(document.get("data", ())) + len(document.get("binaryData", ())),
        _created(document, now),
    ]


def _secret(document: Document, now: datetime) -> Cells:
    return [_name(document), document.get("type", ""), len(document.get("data", ())), _created(document, now)]


def _event(document: Document, now: datetime) -> Cells:
    about, source = document.get("involvedObject", {}), document.get("source", {})
    first = document.get("firstTimestamp") or document.get("eventTime")
    last = document.get("lastTimestamp") or document.get("series", {}).get("lastObservedTime") or first
    origin = [source.get("component") or document.get("reportingComponent", ""), source.get("host", "")]
    return [
        age(last, now), document.get("type", ""), document.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}", about.get("fieldPath", ""),
        ", ".join(filter(None, origin)), document.get("message", "").strip(), age(first, now),
        str(document.get("count", 1)), _name(document),
    ]  # fmt: skip


def _endpoint_slice(document: Document, now: datetime) -> Cells:
    ports = [str(port.get("port", "*")) for port in document.get("ports") or ()]
    addresses = [address for endpoint in document.get("endpoints") or () for address in endpoint["addresses"]]
    return [
        _name(document),
        document["addressType"],
        _few(ports, "<unset>"),
        _few(addresses, "<unset>"),
        _created(document, now),
    ]


def _endpoints(document: Document, now: datetime) -> Cells:
    subsets = document.get("subsets") or ()
    found = [place for subset in subsets for place in _places(subset)]
    return [_name(document), _few(found, "") if subsets else "<none>", _created(document, now)]


def _places(subset: Document) -> Iterator[str]:
    """Each ready address at each port; a headless Service may have none."""
    addresses = [address["ip"] for address in subset.get("addresses") or ()]
    ports = [port["port"] for port in subset.get("ports") or ()]
    yield from addresses if not ports else ()
    for port in ports:
        yield from (f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses)


def _few(items: list[str], none: str) -> str:
    more = f" + {len(items) - 3} more..." if len(items) > 3 else ""
    return (",".join(items[:3]) + more) or none


def _lease(document: Document, now: datetime) -> Cells:
    return [_name(document), document.get("spec", {}).get("holderIdentity", ""), _created(document, now)]


def _network_config(document: Document, now: datetime) -> Cells:
    spec = document["spec"]
    mtu = str(spec["mtu"]) if spec.get("mtu") else "derived"
    return [
        _name(document), spec["backend"]["type"], ",".join(spec["podCIDRs"]), spec["attachment"],
        _created(document, now), mtu, "yes" if spec.get("masquerade") else "no",
    ]  # fmt: skip


def _service_route(document: Document, now: datetime) -> Cells:
    spec = document["spec"]
    sources = [cidr for segment in spec.get("segments", ()) for cidr in segment["from"]]
    conditions = document.get("status", {}).get("conditions", ())
    accepted = next((each["status"] for each in conditions if each["type"] == "Accepted"), "")
    return [_name(document), spec["service"], _few(sources, "<none>"), accepted, _created(document, now)]


def _external_pods(document: Document, now: datetime) -> Cells:
    ports = [f"{port['name']}:{port['containerPort']}/{port['protocol']}" for port in document["spec"]["ports"]]
    rows = document.get("status", {}).get("pods", ())
    full = sum(not row.get("waiting") for row in rows)
    return [_name(document), _few(ports, "<none>"), f"{full}/{len(rows)}", _created(document, now),
            _pairs(document["spec"].get("selector"))]  # fmt: skip


def _debug_port(document: Document, now: datetime) -> Cells:
    spec, status = document["spec"], document.get("status", {})
    place = f"{status.get('address') or '<pending>'}:{spec['nodePort']}"
    return [_name(document), spec["pod"], f"{spec['port']}/{spec['protocol']}", place,
            status.get("expires", ""), _created(document, now)]  # fmt: skip


PRINTERS: Mapping[str, Printer] = {
    "Pod": Printer("Name Ready Status Restarts Age +IP +Node +Nominated_Node +Readiness_Gates", pod_cells),
    "Namespace": Printer("Name Status Age", _namespace),
    "Node": Printer(
        "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime", _node
    ),
    "Service": Printer("Name Type Cluster-IP External-IP Port(s) Age +Selector", _service),
    "ConfigMap": Printer("Name Data Age", _config_map),
    "Secret": Printer("Name Type Data Age", _secret),
    "Event": Printer("Last_Seen Type Reason Object +Subobject +Source Message +First_Seen +Count +Name", _event),
    "EndpointSlice": Printer("Name AddressType Ports Endpoints Age", _endpoint_slice),
    "Endpoints": Printer("Name Endpoints Age", _endpoints),
    "Lease": Printer("Name Holder Age", _lease),
    "ServiceRoute": Printer("Name Service Segments Accepted Age", _service_route),
    "ExternalPods": Printer("Name Ports Pods Age +Selector", _external_pods),
    "DebugPort": Printer("Name Pod Port Address Expires Age", _debug_port),
    "NetworkConfig": Printer("Name Backend Pod-CIDRs Attachment Age +MTU +Masquerade", _network_config),
}
