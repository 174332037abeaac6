"""What `make bench` measures: one module a measurement, each runs alone as well.

``python -m benchmarks [SECTION…] [--quick]`` or ``python -m benchmarks.echo --quick``.

Measurements::

    startup.py     start of a gateway            listing.py     `rshell devices`, selectors, rows
    device.py      agent and keeper at rest      many.py        one command on many devices
    command.py     latency of one command        fleet_size.py  memory, going live, heartbeats
    echo.py        keystrokes                    comeback.py    a fleet after SIGKILL of its gateway
    bulk.py        one file up and down          fairness.py    keystrokes beside bulk, slow links
    audit.py       audit and recordings          soak.py        20,000 devices for ten minutes

Rooms that they share::

    program.py     options, order, where results go     notebook.py  rounds, samples, goals
    summary.py     median, spread, ratios               tables.py    text and Markdown
    results.py     results.json, results.md             plots.py     curves
    machine.py     where it was measured                tools.py     what is installed for it
    proc.py        processor time and memory by /proc   stopwatch.py programs and terminals, timed
    site.py        a gateway, devices, simulated fleets on loopback
    operator_link.py  a process that is an operator with an open link
    fleet.py       a process that is thousands of devices: fleet_device.py, fleet_keys.py
    network.py, deployment.py, typist.py                two namespaces and a slow wire, for fairness
    contestants/   what a user would pick instead, and the limit

Figures of different runs are not comparable; ratios and differences within one run are.
"""
