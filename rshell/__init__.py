"""rshell: remote shells on a fleet of devices behind NAT (see docs/architecture.md)."""

__version__ = "0.1.0"
