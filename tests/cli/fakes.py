"""An agent for the commands to talk to: canned answers on a real unix socket, and labs that are only a lab.json."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from podnet.lab import registry

STATUS: dict[str, Any] = {
    "node": "node1",
    "version": "0.1.0",
    "ready": True,
    "reason": None,
    "podCIDRs": ["10.244.0.0/24"],
    "uplink": "up0",
    "backend": {"type": "vxlan"},
    "accepts": ["vxlan"],
    "sends": ["vxlan"],
    "mtu": 1450,
    "addresses": ["127.0.0.2"],
    "attachments": 1,
    "problems": [],
    "passes": 3,
    "lastPass": {"steps": 0, "failed": [], "held": [], "seconds": 0.001},
}
ATTACHMENT: dict[str, Any] = {
    "container_id": "c1",
    "ifname": "lo",
    "netns": "",
    "addresses": ["127.0.0.1/8"],
    "pod": "default/p",
}
ANSWERS: dict[str, Any] = {
    "status": STATUS,
    "attachments": {"attachments": [ATTACHMENT]},
    "desired": {"units": {"forwarding": ["sysctl net/ipv4/ip_forward value=1"]}, "text": "sysctl ip_forward value=1\n"},
    "plan": {"steps": [], "text": ""},
}


class FakeAgent:
    """Answers GET /v1/WHAT with `answers[WHAT]`; bytes go out as they are."""

    def __init__(self, run_dir: Path, answers: Mapping[str, Any] = ANSWERS) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        run_dir.mkdir(parents=True, exist_ok=True)
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "unix"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                what = self.path.removeprefix("/v1/")
                agent.asked.append(what)
                answer = agent.answers.get(what)
                self.send_response(200 if answer is not None else 404)
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        self.path = str(run_dir / "agent.sock")
        self._server = socketserver.ThreadingUnixStreamServer(self.path, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        Path(self.path).unlink()


def make_lab(name: str = "default", nodes: int = 2, netns: str = "") -> registry.Lab:
    """A lab that is no more than its lab.json; its nodes live in `netns`. Redirect registry.ROOT first."""
    folder = registry.folder(name)
    Path(folder).mkdir(parents=True)
    made = []
    for number in range(1, nodes + 1):
        place = f"{folder}/nodes/node{number}"
        made.append(
            registry.LabNode(f"node{number}", number, place, netns, (f"127.0.0.{number + 1}",), f"{folder}/kube")
        )
    lab = registry.Lab(name, folder, 6443, tuple(made))
    registry.save(lab)
    return lab
