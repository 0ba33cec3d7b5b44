"""Benchmarks: bpnet against its peers and against the machine's own limit. See benchmarks/README.md."""
