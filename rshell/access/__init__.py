"""Who may do what to which device, and how it is written down.

::

    roles.py      RoleBook.decide: the one function every door's request passes
    grants.py     what may be written into a role; grants compiled for deciding
    forward_rules.py  which targets a role lets operators forward to
    selectors.py  which devices are meant: ``pump-*,site=berlin,tier!=test``
    labels.py     the syntax of labels          names.py  the rule for device names
    printable.py  hostile text made safe to show
    audit.py      the audit log's records and how a row reads; syslog.py as RFC 5424
    audit_key.py  the key that signs its checkpoints; touched.py a touched file in a line
    recordings.py whether a session is recorded; asciicast.py the format

What it is not: it keeps nothing (``rshell.store`` does) and opens nothing (the gateway's
switchboard does).  All but ``roles``, ``grants``, ``recordings`` and ``audit`` know no
records of the store, so the client may use them too.
"""
