"""What a cluster needs decided for it: namespaces emptied, ranges given to nodes, pods to nodes, the dead swept away.

Each module is one decision: a function from objects to actions. Nothing here reads a clock, keeps state or does I/O;
the API server's process (apiserver/controllers.py) hands in the objects and carries the actions out.
"""
