"""What a user would pick instead of rshell, and the limit of the machine.

::

    openssh.py            `ssh -R` from a device with sshd to a gateway with sshd
    asyncssh_reverse.py   starts asyncssh_roles.py: AsyncSSH's reverse connections
    asyncssh_roles.py     the 60-line gateway and the device that somebody would write with it
    bare_tls.py           TLS with certificates on both sides and nothing else: Twisted and they
    nginx.py, stunnel.py  TLS in, TLS out, nothing between: what bulk through a relay can reach

Each has ``missing()``, which says why it cannot take part, or an empty string.
"""
