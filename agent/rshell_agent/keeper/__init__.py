"""The keeper: the device's memory and its conscience (docs/keeper.md is its specification).

It owns processes and terminals, keeps each session's offsets, unread output and outcome, and
enforces the device's policy. No network, standard library only, one thread.

    command -> how the agent starts it
    main    -> process shape: home, lock, log, signals
    server  -> connections, HELLO, control calls          wire      frames and checked JSON
    sessions-> OPEN, joining, tombstones                   policy    what the device allows
    session -> one process and its stream                  offsets   byte and event counting, no I/O
    process -> logins, terminals, pipes, signals           loop      epoll and timers
    spawn   -> start a program, the cheap way              child     the same, or a worker, by fork
    mounts  -> can a file keep us waiting
    worker  -> in a forked child: be a worker of ours      constants every number, with its reason
    viewer  -> who watches a session                       touches   what workers tell of files

What must be written down before it is done (`rshell_agent.jobs` has the journal):

    jobs    -> sessions that are jobs; what earlier keepers left in the journal
    reboot  -> sessions of the handler reboot              guard     runs a rollback, once, in time
    guarded -> sessions that wait to be confirmed          revived   sessions of an earlier keeper

Where policy lets forwards go; the agent judges by it, `policy check` explains it:

    targets -> rules and targets                           addresses what an IP address is
"""
