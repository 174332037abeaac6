"""The gateway's durable state: fleet, devices, operators, keys, invites and the audit log.

What it is: SQLAlchemy Core over SQLite, one writer thread with group commit, a few
readers.  What it is not: it knows no policy, no certificates and no links; it imports
no reactor, and of rshell only how ranges of addresses are read and types of handlers.  Importing
this package or ``records`` does not import SQLAlchemy.

::

    store.py      Store: every call returns a Deferred, fired in the reactor's thread
      writer.py     group commit: what queued during one commit is the next transaction
      alike.py      one statement for many of a kind
      lookups.py    look-ups of keys, several in one read
      threads.py    where work runs: inline (tests) or threads (the gateway)
      database.py   engines, pragmas, migrations, errors in plain words
    narrowing.py  which devices a question may be about;  clauses.py the same in SQL
    devices.py operators.py roles.py keys.py tokens.py audit.py meta.py facts.py
    token_keys.py (keys known before) pending.py accepting.py (devices that wait)
    recordings.py verifying.py (the audit's chain and checkpoints) touched_files.py
                  the queries: plain functions of a connection, no threads
    crash.py      points at which a test kills the gateway
    schema.py     the tables;  migrations/ makes them;  records.py what callers see

Times are integers: microseconds since 1970-01-01 UTC (``times.py``).
"""
