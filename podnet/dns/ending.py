"""How a DNS server ends: it says first that it will, and goes on answering until nobody asks it any more.

On SIGTERM or SIGINT readiness fails from then on, so that proxies take the pod out of their Services; questions are
answered for some seconds more, while the last of them learn of it (CoreDNS calls that the lameduck time). A second
signal ends it at once.
"""

from __future__ import annotations

import asyncio
import signal


class Ending:
    """Listens for the signals from now on; make it inside the event loop.

    begun  whether it was told to end: it is not ready any more, and answers still
    """

    def __init__(self, lameduck: float) -> None:
        """`lameduck` in seconds."""
        self.begun = False
        self._lameduck = lameduck
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.begin)

    def begin(self) -> None:
        """As a signal does."""
        if self.begun or not self._lameduck:
            self.end()
        else:
            self._loop.call_later(self._lameduck, self._over.set)
        self.begun = True

    def end(self) -> None:
        """At once."""
        self.begun = True
        self._over.set()

    async def wait(self) -> None:
        """Until it is time to be gone."""
        await self._over.wait()
