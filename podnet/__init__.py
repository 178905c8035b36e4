"""podnet: a Kubernetes network. A pure core decides what each node's kernel should hold; a thin shell keeps it so."""

from __future__ import annotations

__version__ = "0.1.0"
