"""Kubernetes over HTTP: credentials, the REST verbs, and informers that keep a `Cluster` snapshot up to date."""
