"""The tests of rshell: one derandomised Hypothesis profile without deadline, as trial's own."""

from hypothesis import settings

settings.register_profile("rshell", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("rshell")
