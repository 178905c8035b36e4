"""What the cluster's objects mean for one node, as pure functions. Start at desired.py."""
