"""rshell-agent: the device side of rshell (see docs/architecture.md)."""

__version__ = "0.1.0"
