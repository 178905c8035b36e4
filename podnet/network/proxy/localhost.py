"""Node ports at 127.0.0.1: connections through it to pods live on whichever mode there is.

A packet that comes from 127.0.0.1 leaves the node only where `route_localnet` allows it, also when its connection was
translated long before. So every mode allows it, whether it leads new connections there or not, and every mode keeps
away those who would reach 127.0.0.1 from elsewhere now (CVE-2020-8558). Without a mode there is neither.
"""

from __future__ import annotations

from podnet.state.host import Sysctl

ALLOWED = Sysctl("net/ipv4/conf/all/route_localnet", "1")

STRANGER = 'iifname != "lo" ip daddr 127.0.0.0/8'

GUARD = f"{STRANGER} ct direction original drop"
"""Of packets for the node itself; answers to its own connections pass."""

GUARD_CHAIN = f"""\
  chain guard-localhost {{
    type filter hook input priority filter; policy accept;
    {GUARD}
  }}
"""
"""In a table of family ip."""
