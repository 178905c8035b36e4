"""Names: what a cluster's objects mean to a resolver, and what a question meets."""
