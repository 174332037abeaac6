"""The measurements: one section each, run by ``make bench`` or ``python -m bench [SECTION…]``.

::

    __main__.py    picks sections, prints their tables and goals, fails if a goal is missed
    report.py      what a section hands back: tables, goals, quantiles
    network.py     two network namespaces joined by a wire of a given rate
    deployment.py  a real gateway and a real agent, each in a namespace
    typist.py      the operator: a program that types and copies at once over one link
    fairness.py    section: keystrokes beside a bulk transfer on a slow link
    storm.py       section: a fleet that returns after its gateway was killed

Figures of different runs are not comparable; ratios and differences within one run are.
"""
