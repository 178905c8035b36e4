"""What the cluster says: typed, frozen Kubernetes objects. Values only; nothing here does I/O."""
