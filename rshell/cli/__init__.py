"""The ``rshell`` command: every verb is a small program on `rshell.client`.

::

    main.py       entry point: the group, errors to lines and exit statuses
    options.py    --home and --json, before or after the verb
    running.py    a coroutine on the reactor; signals
    run.py call.py shell.py         verbs that open sessions
    listings.py handlers.py facts.py admin.py demo.py    the other verbs
    fanout.py     one session or many, shown as they go     statuses.py  exit statuses
    presenting.py bytes of sessions as text, prefixed lines or JSON lines (pure)
    arguments.py  key=value by a handler's JSON schema (pure)
    handler_help.py what a handler takes, by its schema (pure)   progress_line.py how far it is
    columns.py    columns of devices, and facts as people read them (pure)
    tables.py     listings as tables                        pipes.py     stdin, stdout, stderr
    terminal.py   raw mode, ``~`` escapes

What it is not: a second way in.  All it can do, the library can.
"""
