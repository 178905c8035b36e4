"""Lists of the iptables match `recent`, in which kube-proxy's chains note who was at which endpoint, and when.

The kernel shows them below /proc/net/xt_recent of a namespace, with times in jiffies since 300 seconds before boot. How
long ago that is, the clock tells which advances with them. Source: Linux net/netfilter/xt_recent.c, linux/jiffies.h.
"""

from __future__ import annotations

import os
import re
import sys
import time
from ipaddress import ip_address

from podnet.kernel.netns import inside

FOLDER = "/proc/thread-self/net/xt_recent"
_SEEN = re.compile(r"src=(\S+) .*?last_seen: (\d+)")
_COARSE = 6
"""CLOCK_MONOTONIC_COARSE: its resolution is one jiffy."""

_BEFORE_BOOT = 300
_WRAPS = (sys.maxsize + 1) * 2


def remembered(name: str, netns: str = "", folder: str = FOLDER) -> tuple[str, ...]:
    """Who is in a list, as "ADDRESS : SECONDS" since last seen; nobody when there is no such list. Raises OSError,
    NoNamespace."""
    try:
        with inside(netns), open(os.path.join(folder, name), encoding="ascii") as file:
            text = file.read()
    except FileNotFoundError:
        return ()
    rate = round(1 / time.clock_getres(_COARSE))
    return decode(text, rate, time.monotonic())


def decode(text: str, rate: int, uptime: float) -> tuple[str, ...]:
    """The same from the file's text; `rate` in jiffies a second."""
    now = (1 << 32) + round((uptime - _BEFORE_BOOT) * rate)
    ages = ((found[1], max(now % _WRAPS - int(found[2]), 0) / rate) for found in _SEEN.finditer(text))
    return tuple(f"{ip_address(address)} : {age:.1f}" for address, age in ages)
