"""The keeper: the device's memory and its conscience (docs/keeper.md is its specification).

It owns processes and terminals, keeps each session's offsets, unread output and outcome, and
enforces the device's policy. No network, standard library only, one thread.

    command -> how the agent starts it
    main    -> process shape: home, lock, log, signals
    server  -> connections, HELLO, control calls          wire      frames and checked JSON
    sessions-> OPEN, joining, tombstones                   policy    what the device allows
    session -> one process and its stream                  offsets   byte and event counting, no I/O
    process -> logins, fork, terminals, signals            loop      epoll and timers
    worker  -> in a forked child: be a worker of ours      constants every number, with its reason
"""
