"""The console door: Python in the running gateway, for people, through the one gate.

::

    door.py        Consoles: who may, the audit's row, the client on a link of its own
    wire.py        that link's connection           link_stream.py  ``rshell console``'s stream
    session.py     ConsoleSession: one console, as a door drives it
    console.py     lines in, values out             interpreter.py  top-level await, tracebacks
    watchdog.py    interrupts a line that blocks    completion.py   what Tab offers
    editor.py      the input line, on conch's Manhole               terminal.py  keys
    screen.py      everything else that is shown    painting.py     colours, tables, safe text
    namespace.py   the names and help()             fleet.py device.py listings.py  what they are
    results.py     what they answer                 signatures.py   a handler as a method
    takeover.py    a device's shell on the console's terminal

::

    rshell console --link--> LinkStream --\\
    ssh console@gw --------> the SSH door --> ConsoleSession --> Console --> fleet, sessions ...
                                                                              | rshell.client
    gateway: LinkDoor <---------------- a wire in this process <--------------+

What the objects do, passes the same door, gate, roles and audit as the ``rshell`` command.  Below
that it is Python in the server: whoever may have a console may do everything, so it needs the role
for it, and each line is committed to the audit log before it runs.
"""
