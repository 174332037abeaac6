"""Tests of the keeper; the rule numbers are those of docs/keeper.md."""
