"""The test kit: a fleet in one process, on a fake clock, and a harness for one handler.

::

    fleet.py      SimulatedFleet: the whole, its time, and what can happen to it
    mishaps.py    what can happen to its network
    gateways.py   the gateway's process          agents.py     a device
    keepers.py    a device's keeper              operators.py  an operator's client
    network.py    who reaches whom               wires.py      one connection, to the byte
    clocks.py     time of a process              machines.py   what an agent asks of a reactor
    loops.py      what a keeper asks of one      programs.py   what simulated devices can run
    handlers.py   HandlerHarness: one handler, no network
    churn.py      hours of bad luck

It uses everything else; nothing else of the product uses it.
"""

from rshell.testing.fleet import DidNotHappen, SimulatedFleet
from rshell.testing.handlers import HandlerCall, HandlerHarness
from rshell.testing.operators import Recorder
from rshell.testing.programs import PROGRAMS, Program, ProgramIO, exchange_report, pattern

__all__ = [
    "PROGRAMS",
    "DidNotHappen",
    "HandlerCall",
    "HandlerHarness",
    "Program",
    "ProgramIO",
    "Recorder",
    "SimulatedFleet",
    "exchange_report",
    "pattern",
]
