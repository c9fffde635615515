"""What svcinit costs, beside its peers: start-up, memory, imports. `make bench`, or `python -m bench --help`."""
