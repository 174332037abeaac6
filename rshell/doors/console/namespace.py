"""The names that a console begins with, and ``help()``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rshell.client import Client
from rshell.doors.console.device import Device, HandlerMethod, Workbench
from rshell.doors.console.fleet import Fleet
from rshell.doors.console.listings import Links, Pending, Sessions, Text, metrics_of, why_of
from rshell.doors.console.painting import DIM, safe_text, tint
from rshell.doors.console.results import Call
from rshell.doors.console.screen import Screen
from rshell.gateway.core import Gateway
from rshell.link.clock import TimerWheel

__all__ = ["BANNER", "HELP", "make_namespace"]

BANNER = (
    "rshell console: Python in the running gateway of fleet {fleet}, as operator {operator}.\n"
    "Every line is written to the audit log before it runs. help() tells more, Ctrl-D leaves."
)

HELP = """\
fleet                                   all devices; fleet.select("site=berlin") picks some
fleet["pump-1"].run("uptime")           a command; ["df", "-h"] runs without a shell
fleet["pump-1"].shell()                 a shell that takes this terminal; Ctrl-] gives it back
fleet["pump-1"].tail("/var/log/syslog", follow=True)     until Ctrl-C
fleet["pump-1"].put("fw.bin", "/tmp/")  and get("/etc/hosts"): files of the gateway's machine
fleet["pump-1"].reboot()                and wait until it is back
fleet["pump-1"].facts()                 also info(), handlers(), probe()
fleet["pump-1"].HANDLER(key=value)      any handler, also a plug-in's; help(fleet["pump-1"].HANDLER)
fleet.select("site=berlin").run("uptime")                on many, with a table
sessions   links   pending   why("pump-1")   metrics("streams")
sessions.watch("4f2a")                  on this terminal; sessions.end("4f2a")
pending.accept("ABCD-EFGH-IJKL-MNOP", name="pump-7")     lets a device in; also reject()

What is typed alone is waited for; in an expression write await: x = await fleet["pump-1"].run("id")
The last value is _. A Deferred is shown when it fires. Ctrl-C interrupts, Tab completes.
login="root" asks for another account, timeout=5 ends a command on the device.

client is the rshell.client.Client behind all this, gateway the running server itself. A line that
keeps the server from its work for 5 s is interrupted."""


class _Help:
    """``help``, ``help()`` and ``help(something)``."""

    def __repr__(self) -> str:
        return "<help>"

    def default_call(self) -> Call[Text]:
        """Return the overview, for ``help`` alone."""
        return self()

    def __call__(self, *about: Any) -> Call[Text]:
        """Tell about the console, or about something in it."""

        async def work() -> Text:
            if not about:
                return Text(HELP)
            value = about[0]
            if isinstance(value, HandlerMethod):
                return Text(await value._help_text())
            return Text(describe(value))

        return Call("help", work)


def describe(value: Any) -> str:
    """Return what is known of an object: its signature, its words, its methods."""
    parts = [_heading(value), inspect.getdoc(value) or "(no documentation)"]
    own = type(value).__module__.startswith(__name__.rpartition(".")[0])
    if own and not inspect.isroutine(value):
        for name in sorted(n for n in dir(type(value)) if not n.startswith("_")):
            member = getattr(type(value), name)
            if inspect.isfunction(member):
                words = (inspect.getdoc(member) or "").partition("\n")[0]
                parts.append(f"{name}{_signature(member)}\n    {words}")
    return "\n\n".join(parts)


def _heading(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if not isinstance(name, str):
        return repr(value)
    return name + (_signature(value) if callable(value) else "")


def _signature(value: Any) -> str:
    try:
        found = inspect.signature(value)
    except (ValueError, TypeError, AttributeError):
        return "(…)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in found.parameters.items()
        if name != "self"
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _Exit:
    """``exit`` and ``exit()``."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave

    def __repr__(self) -> str:
        return "<exit: leaves the console>"

    def __call__(self, *_status: Any) -> None:
        """Leave the console."""
        self._leave()

    def default_call(self) -> Call[None]:
        """Leave, for ``exit`` alone."""

        async def work() -> None:
            self._leave()

        return Call("exit", work)


def make_namespace(
    gateway: Gateway, client: Client, screen: Screen, leave: Callable[[], None]
) -> dict[str, Any]:
    """Return a new console's names.

    Args:
        gateway: The running server.
        client: Acts as the console's operator.
        screen: Shows.
        leave: Ends the console.
    """
    wheel: TimerWheel = gateway.wheel
    fleet = Fleet(Workbench(client, screen, wheel))

    def why(device: str | Device, limit: int = 50) -> Call[Any]:
        """Tell what happened to a device's link, and why it was away."""
        return why_of(client, device, limit)

    def metrics(containing: str = "") -> Call[Text]:
        """Tell the gateway's counters, those whose lines contain a text."""
        return metrics_of(client, containing)

    def noticed(device: str, _code: str, message: str) -> None:
        screen.show(tint(DIM, safe_text(f"{device}: {message}")))

    client.on_notice(noticed)
    end = _Exit(leave)
    return {
        "__name__": "__console__",
        "__doc__": None,
        "client": client,
        "exit": end,
        "fleet": fleet,
        "gateway": gateway,
        "help": _Help(),
        "links": Links(client),
        "metrics": metrics,
        "pending": Pending(client),
        "print": screen.print,
        "quit": end,
        "sessions": Sessions(client, screen),
        "why": why,
    }
