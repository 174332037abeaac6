"""Tests of rshell.access."""
