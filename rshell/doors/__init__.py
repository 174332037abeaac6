"""The ways in for operators.  Each door authenticates; the gateway's switchboard decides.

link.py           operators' links: the ``rshell`` command and the Python library
ssh/              stock ssh and what is built on it
local.py          an operator's end of a session inside the gateway, for doors that speak no link
local_attempt.py  one attempt of such a session
"""
