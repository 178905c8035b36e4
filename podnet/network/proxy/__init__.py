"""Services on one node: what a packet to a Service meets, and how each mode says it to a kernel.

Service + its slices + where we are --> service_ports.py (choice.py) --> ServicePort values
                                                                              |
                                          nftables.py, iptables.py, userspace.py render them
"""
