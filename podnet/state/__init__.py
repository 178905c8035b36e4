"""What one node's kernel holds, as plain values: resources, their identity, and the one diff between two states."""
