"""syncflow beside its peers: the same work, the same server, in turn. Run it with `python -m benchmarks`."""
