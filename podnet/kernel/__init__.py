"""The kernel edge: what reads and writes the network state of one node, and nothing that decides."""
