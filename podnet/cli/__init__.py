"""The `podnet` command: one file per subcommand; main.py finds them lazily, output.py prints what they return."""
