"""Frames that tell a link who has an address now, without being asked.

IPv4: a gratuitous ARP request (RFC 5227, section 3), which every host takes for the entries it has. IPv6: an
unsolicited neighbour advertisement to all nodes (RFC 4861, section 7.2.6) with the override flag.
"""

from __future__ import annotations

from struct import Struct

from podnet.wire.spelling import pack_ip, pack_mac

ARP, IPV6 = 0x0806, 0x86DD
_ETHERNET = Struct("!6s6sH")
_ARP = Struct("!HHBBH6s4s6s4s")
_IPV6 = Struct("!IHBB16s16s")
_ADVERTISEMENT = Struct("!BBHI16sBB6s")
_EVERYBODY, _ALL_NODES_MAC, _ALL_NODES = b"\xff" * 6, bytes.fromhex("333300000001"), pack_ip("ff02::1")
_ICMPV6, _TYPE, _TARGET_MAC = 58, 136, 2
_ROUTER_AND_OVERRIDE = 0xA0000000


def frame(mac: str, address: str) -> bytes:
    """The Ethernet frame which says that `address` is at `mac`. Raises ValueError."""
    hardware, ip = pack_mac(mac), pack_ip(address)
    if len(ip) == 4:
        body = _ARP.pack(1, 0x0800, 6, 4, 1, hardware, ip, bytes(6), ip)
        return _ETHERNET.pack(_EVERYBODY, hardware, ARP) + body
    message = _advertisement(hardware, ip, 0)
    message = _advertisement(hardware, ip, _checksum(ip + _ALL_NODES + _tail(len(message)) + message))
    header = _IPV6.pack(6 << 28, len(message), _ICMPV6, 255, ip, _ALL_NODES)
    return _ETHERNET.pack(_ALL_NODES_MAC, hardware, IPV6) + header + message


def _advertisement(hardware: bytes, ip: bytes, checksum: int) -> bytes:
    return _ADVERTISEMENT.pack(_TYPE, 0, checksum, _ROUTER_AND_OVERRIDE, ip, _TARGET_MAC, 1, hardware)


def _tail(length: int) -> bytes:
    """The end of the pseudo-header that the checksum covers (RFC 8200, section 8.1)."""
    return length.to_bytes(4, "big") + _ICMPV6.to_bytes(4, "big")


def _checksum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071); `data` has an even length."""
    total = sum(int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
