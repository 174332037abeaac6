"""Tests of rshell.gateway: a whole gateway in one process, on a fake clock, without a socket."""
