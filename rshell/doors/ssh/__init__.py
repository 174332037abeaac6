"""The SSH door: stock ``ssh``, ``scp``, ``sftp`` and what is built on them reach any device.

::

    TCP -> door (penalties, how many) -> transport (algorithms, strict kex, rekeying, grace)
             -> authentication (keys and CAs of the store) -> connection (channels, windows)
                  -> session, forwarding (one channel each) -> rshell.doors.local -> the one gate
                  -> remote_forwards (-R: the device listens) -> likewise

    door.py            SshDoor: what the service starts; who is connected, and is told to go
    penalties.py       which sources wait before they may try again
    host_key.py        the gateway's own key
    transport.py       twisted.conch's transport, hardened
    packets.py         its packets, on and off the wire
    authentication.py  ``ssh-userauth``: publickey and nothing else
    logins.py          whom a key or certificate lets in, and within which limits
    connection.py      ``ssh-connection``: opens channels, and moves their windows
    channel.py         one channel: bounded output, credit for what the device took
    session.py         ``session`` channels: shell, exec, sftp
    forwarding.py      ``direct-tcpip`` channels: -L, -W, -D, -J
    remote_forwards.py global requests, ``forwarded-tcpip`` channels: -R
    visit.py           where a connection goes, what its channels open sessions by
    names.py           ``[LOGIN@]DEVICE``
    metrics.py         what is counted
    wire.py            reading SSH's packets

What it is not: an SSH server on the devices.  SSH ends here, at the gateway; from here on it is
a session like those of any other door, with the same policy, audit and survival of broken links.
"""
