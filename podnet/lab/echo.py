"""What the demo pods run: an HTTP server that says who asks and who answers.

    $ curl http://10.244.1.2:8080/
    {"client": "10.244.2.3", "server": "10.244.1.2", "hostname": "web-1"}

It is run as `python -I -S echo.py PORT` and imports only what is built into the interpreter, so a pod is up in 15 ms.
"""

from __future__ import annotations

import _socket
import posix
import select
import sys

LIMIT = 65536
END = b"\r\n\r\n"


class Connection:
    """One client and what it asked so far."""

    def __init__(self, fd: int) -> None:
        self.socket = _socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.request = b""

    def talk(self) -> bool:
        """Take what came, and answer a whole request; true when the connection is over."""
        try:
            data = self.socket.recv(LIMIT)
            self.request += data
            if END in self.request:
                self.socket.send(answer(address(self.socket.getpeername()), address(self.socket.getsockname())))
                self.socket.shutdown(_socket.SHUT_WR)
            return not data or END in self.request or len(self.request) > LIMIT
        except OSError:
            return True


def address(name: tuple[str, int]) -> str:
    """An IPv4 address that came in over the IPv6 socket, in its own spelling."""
    return name[0].removeprefix("::ffff:")


def answer(client: str, server: str) -> bytes:
    """The response to whatever was asked."""
    body = f'{{"client": "{client}", "server": "{server}", "hostname": "{posix.uname().nodename}"}}\n'
    fields = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    return ("\r\n".join(fields) + "\r\n\r\n" + body).encode()


def listen(port: int) -> _socket.socket:
    """A socket for both families, or for IPv4 where there is no IPv6."""
    try:
        made = _socket.socket(_socket.AF_INET6, _socket.SOCK_STREAM)
        made.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        host = "::"
    except OSError:
        made, host = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM), "0.0.0.0"
    made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen(1024)
    made.setblocking(False)
    return made


def serve(server: _socket.socket) -> None:
    """Answer for ever; a client that never asks costs a file descriptor, no more."""
    poll = select.epoll()
    poll.register(server.fileno(), select.EPOLLIN)
    connections: dict[int, Connection] = {}
    while True:
        for fd, _ in poll.poll():
            if fd != server.fileno():
                if connections[fd].talk():
                    poll.unregister(fd)
                    connections.pop(fd).socket.close()
                continue
            try:
                accepted, _ = server._accept()  # type: ignore[attr-defined]
            except OSError:  # the client has gone again
                continue
            connections[accepted] = Connection(accepted)
            poll.register(accepted, select.EPOLLIN)


if __name__ == "__main__":
    serve(listen(int(sys.argv[1])))
