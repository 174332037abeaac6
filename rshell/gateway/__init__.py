"""The heart of the server: who is there, and the one gate to them.

::

    arrivals.py      every new connection: TLS, who is it, which protocol; admission
    joining.py       the join exchange (no certificate yet)
    device_links.py  a device's link from HELLO to its end: epochs, catalogue, sessions
    presence.py      which device is live, on which link, since when
    switchboard.py   the one gate: policy, audit, route, stream
    verbs.py         what the gateway itself answers (``gateway.*``), and for whom
    services.py      those verbs' work
    throttle.py      how often one peer may make us write what stays
    summaries.py     what a request asked for, in a line
    revocation.py    ends what is no longer allowed, within a second
    home.py          a gateway's directory: first start, certificates, the local administrator
    config.py        what one gateway is told to do, validated
    core.py          Gateway: all of these joined, without a single port

Doors (``rshell.doors``) bring operators in; ``rshell.tap`` opens the ports.
"""
