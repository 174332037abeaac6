"""What `make bench` measures: one module a measurement, each runs alone as well.

``python -m benchmarks [SECTION…] [--quick]`` or ``python -m benchmarks.echo --quick``.

Measurements::

    startup.py     start of a gateway            listing.py     `rshell devices`, selectors, rows
    device.py      agent and keeper at rest      going_live.py  a device that comes, beside others
    command.py     latency of one command        comeback.py    a fleet after SIGKILL of its gateway
    forward.py     forwarded ports               fairness.py    keystrokes beside bulk, slow links
    echo.py        keystrokes                    grown.py       one fleet that grows, looked at by:
    bulk.py        one file up and down            fleet_size.py  memory, heartbeats
    audit.py       audit and recordings            echo_fleet.py  keystrokes among others
                                                   many.py        one command on many devices
                                                   soak.py        20,000 devices for ten minutes

Rooms that they share::

    program.py     options, order, where results go     notebook.py  rounds, samples, goals
    schedule.py    what runs when, and for how long     pinning.py   which core runs what
    summary.py     median, spread, ratios               tables.py    text and Markdown
    results.py     results.json, results.md             plots.py     curves
    performance.py README's table                       sizing.py    how large a gateway must be
    pages.py       figures in pages for people          machine.py   where it was measured
    tools.py       what is installed for it             stopwatch.py programs and terminals, timed
    proc.py        processor time, memory and bytes by /proc
    site.py        a gateway, devices, simulated fleets on loopback
    operator_link.py  a process that is an operator with an open link
    fleet.py       a process that is thousands of devices: fleet_device.py, fleet_keys.py
    network.py, deployment.py, typist.py                two namespaces and a slow wire, for fairness
    contestants/   what a user would pick instead, and the limit

Figures of different runs are not comparable; ratios and differences within one run are.
"""
