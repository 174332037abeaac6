"""Tests of rshell.doors."""
