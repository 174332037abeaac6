"""The sans-IO core of the link protocol: bytes in, events out; calls in, bytes out.

Nothing in here imports Twisted, sockets or time, so every rule of docs/protocol.md can be tested
by calling functions.  Time, where a rule needs it, is an argument (seconds of any monotonic clock).

::

      bytes from the transport                       bytes for the transport
                 |                                              ^
             frames.py  (header, sizes)                outgoing.py, scheduler.py (who is next)
                 |                                              ^
             connection.py  (hello, streams, credit, limits: one object per link)
                 |   events.py                                  |   sources.py
                 v                                              ^
         ends.py   one end of a stream: offsets, retained bytes, numbered events
         relay.py  the middle of a stream: two hops joined, nothing kept

``states.py`` says which frame may arrive when, ``table.py`` numbers and finds streams, ``pace.py``
decides how large a record may be, ``figures.py`` counts; ``messages.py`` has the typed control
payloads, ``limits.py`` the budgets and rates, ``constants.py`` each number with its reason,
``errors.py`` the two kinds of error.
"""
