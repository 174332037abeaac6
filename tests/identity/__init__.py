"""Tests of rshell.identity."""
