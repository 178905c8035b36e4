"""Measures podnet against what it is compared with, on this machine, in one run: `podnet bench SUITE`."""
