"""The Container Network Interface as data: requests read strictly, results and errors written for each version.

Nothing here touches the network; agent/cni_server.py answers the requests. Specification: CNI 0.3.1 to 1.1.0.
"""
