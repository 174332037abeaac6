"""The link protocol: one authenticated TLS connection, many streams (docs/protocol.md).

``core/`` is the protocol itself, sans-IO.  The files here are thin Twisted adapters:

::

    dialling.py   TCP client whose socket options are set before connect(); racing several
    proxy.py      the same through an HTTP proxy
    addresses.py  "host:port", and all addresses of a name
    sockets.py    those options (rule P8), and TLS as a factory wrapper
    protocol.py   LinkProtocol: a core on a TLS transport, timers, one record at a time
    channel.py    StreamChannel: one end of a stream as a Twisted transport, producer and consumer
    receivers.py  who uses a channel
    regulator.py  paces what produces a channel's bytes
    hops.py       RelayedStream: two streams of two links joined by a relay
    clock.py      monotonic reactor clock and the one timer wheel

This package imports nothing else of rshell.
"""
