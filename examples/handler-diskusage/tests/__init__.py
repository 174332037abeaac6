"""Tests of the handler; run them with: python -m twisted.trial tests."""
