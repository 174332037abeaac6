"""Tests of the link protocol; `pairs` joins cores in memory."""
