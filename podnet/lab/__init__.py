"""A cluster of nodes on one machine: every node a network namespace, every container a process of this machine."""
