"""svcinit: the PID 1 for containers on plain Docker hosts with Consul."""

__version__ = "0.1.0"
