"""The edge to one node's kernel: reading what it holds and applying plans. Knows nothing of clusters."""
