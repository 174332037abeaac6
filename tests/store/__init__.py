"""Tests of rshell.store."""
