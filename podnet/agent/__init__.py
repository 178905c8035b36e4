"""The node agent: the one place that joins the pure core with a kernel and a cluster."""
