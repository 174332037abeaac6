"""The ways in for operators.  Each door authenticates; the gateway's switchboard decides.

link.py   operators' links: the ``rshell`` command and the Python library
"""
