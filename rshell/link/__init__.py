"""The link protocol: one authenticated TLS connection, many streams (docs/protocol.md).

``core/`` is the protocol itself, sans-IO.  The files here are thin Twisted adapters:

::

    dialling.py   TCP client whose socket options are set before connect(); racing several
    proxy.py      the same through an HTTP proxy
    addresses.py  "host:port", and all addresses of a name
    sockets.py    those options (rule P8), and TLS as a factory wrapper
    read_size.py  how much is read at once
    tls_wire.py   TlsWire: that TLS, made for few calls and few wake-ups
    tls_calls.py  the calls of OpenSSL that every byte takes
    tls_memory.py what OpenSSL keeps of an idle connection, given back
    tls_records.py how many whole records came, and what an error of TLS means
    tls_factory.py makes wires, and what speaks inside them
    protocol.py   LinkProtocol: a core on a TLS transport, a record or a few at a time
    contracts.py  what it asks of its owner and of the receivers of its streams
    inbox.py      which event is which receiver's
    heartbeat.py  when to ask for a sign of life, and when to give a peer up
    pacing.py     records that fit a slow link, by what the kernel measures (kernel.py)
    polling.py    a leaner round of the reactor
    turn.py       frames of one read leave together; no link keeps the others waiting
    channel.py    StreamChannel: one end of a stream as a Twisted transport, producer and consumer
    receivers.py  who uses a channel
    regulator.py  paces what produces a channel's bytes
    hops.py       RelayedStream: two streams of two links joined by a relay
    clock.py      monotonic reactor clock and the one timer wheel

This package imports nothing else of rshell.
"""
