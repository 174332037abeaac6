"""Telling systemd that we live: sd_notify(3) without its library.

The watchdog is fed from the reactor's loop and from nowhere else: an agent whose loop hangs is
killed and started again, and its keeper with all sessions lives on.  It is not fed by success: an
agent without network is healthy, and starting it again every minute would help nobody.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["Watchdog"]

#: systemd.service(5) advises half; a third survives one turn of the loop that is late.
_SHARE = 3


class Watchdog:
    """One service manager's ear.

    Args:
        clock: The reactor's.
        address: Of the notification socket; None when nobody listens.
        interval_seconds: How often the manager wants to hear of us; None for never.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, address: str | None, interval_seconds: float | None = None
    ) -> None:
        self._clock = clock
        self._address = address
        self._every = None if interval_seconds is None else interval_seconds / _SHARE
        self._timer: IDelayedCall | None = None

    @classmethod
    def from_environment(
        cls,
        clock: IReactorTime,
        environment: MutableMapping[str, str],
        pid: Callable[[], int] = os.getpid,
    ) -> Watchdog:
        """Read what systemd set, and take it out: no child shall speak in our name."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", "") in ("", str(pid()))
        usable = address is not None and address[:1] in ("/", "@")
        every = None
        if ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0:
            every = int(microseconds) / 1_000_000
        return cls(clock, address if usable else None, every)

    def start(self) -> None:
        """We are up; from now on we are heard of."""
        self._tell("READY=1")
        if self._timer is None and self._address is not None and self._every is not None:
            self._timer = self._clock.callLater(self._every, self._feed)

    def stop(self) -> None:
        """We end on purpose."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        self._tell("STOPPING=1")

    def _feed(self) -> None:
        assert self._every is not None
        self._timer = self._clock.callLater(self._every, self._feed)
        self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if self._address is None:
            return
        # a leading @ means the abstract namespace (unix(7))
        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), name)
        except OSError as error:
            self._log.warn("systemd was not told {text}: {error}", text=text, error=error)
