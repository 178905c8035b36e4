"""The embedded API server: the Kubernetes wire protocol over SQLite, for people who have no Kubernetes yet.

A request walks server.py (HTTP) → registry.py (the verbs) → lifecycle.py and validation/ (what becomes of the object;
no I/O; allocation.py gives Services their addresses) → store.py (one revision, one commit) and comes back as the very
bytes that were stored. Controllers and the log proxy sit beside it and use the same registry; there is no second way
in.
"""
