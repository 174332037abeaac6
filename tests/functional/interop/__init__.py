"""SSH clients that others made, each at the gateway's SSH door, and one list of what must work.

::

    clients.py           what a client is: the command lines by which it does each item
    openssh.py           ssh and sftp
    dropbear.py          dbclient, and sftp over it
    putty.py             plink and psftp
    libraries.py         paramiko and asyncssh: programs of ours, one process each
    paramiko_client.py   such a program
    asyncssh_client.py   such a program
    crowd.py             asyncssh, many times in one process
    asyncssh_crowd.py    that process
    sshd.py              a device's own sshd, to jump to
    test_interop.py      the list, once for each client: the test names are the matrix
    test_crowds.py       many at once: operators, strangers, guessers, and one who never reads
    test_tools.py        rsync, git, tar, sshfs over ssh
    test_audit.py        what ssh-audit says of the door
"""
