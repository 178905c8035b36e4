"""Codecs and protocol machines: bytes and ticks in, bytes and events out. No sockets, no clock."""
