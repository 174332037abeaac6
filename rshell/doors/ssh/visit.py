"""Visit: where one SSH connection goes, and as whom; what its channels open sessions by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from rshell.doors.local import DoorSession, EndReceiver, LocalSession
from rshell.doors.ssh.logins import Limits
from rshell.doors.ssh.names import BadUserName, Destination, read_user_name
from rshell.gateway.callers import Caller
from rshell.gateway.core import Gateway
from rshell.link.core.constants import BULK_WINDOW, DEFAULT_WINDOW

__all__ = ["ConsoleFactory", "NoDestination", "Visit"]

#: (caller, handler, its request, receiver) -> the console's end: `handler` is ``shell`` or
#: ``exec``, the request as a device would get it.
ConsoleFactory = Callable[[Caller, str, dict[str, Any], EndReceiver], DoorSession]


class NoDestination(Exception):
    """There is nowhere to go; the text is for the operator."""


@attrs.frozen
class Visit:
    """One operator's errand.

    Attributes:
        destination: Where to; None if the user name says no device.
        problem: Why not.
        console: Makes the gateway's console, where it is served.
        limits: Of the login.
    """

    gateway: Gateway
    caller: Caller
    destination: Destination | None
    problem: str
    console: ConsoleFactory | None
    limits: Limits

    @classmethod
    def new(
        cls,
        gateway: Gateway,
        caller: Caller,
        user: bytes,
        console: ConsoleFactory | None,
        limits: Limits,
    ) -> Visit:
        """Read the user name of a connection."""
        try:
            return cls(gateway, caller, read_user_name(user), "", console, limits)
        except BadUserName as error:
            return cls(gateway, caller, None, str(error), console, limits)

    @property
    def device(self) -> str:
        """The device's name, as it was asked for."""
        return self.destination.device if self.destination is not None else ""

    def open(self, handler: str, request: dict[str, Any], receiver: EndReceiver) -> DoorSession:
        """Return a session that was not started yet.

        Raises:
            NoDestination: The user name says no device, or what is not served here.
        """
        destination = self.destination
        if destination is None:
            raise NoDestination(self.problem)
        if not destination.is_console:
            return self._session(destination.device, handler, request, receiver, destination.login)
        if handler == "forward":
            return self._jump(request, receiver)
        if self.limits.command is not None:
            raise NoDestination("your certificate runs one command, on devices: no console")
        if self.console is None or handler not in ("shell", "exec"):
            raise NoDestination("this gateway serves no console by ssh")
        return self.console(self.caller, handler, request, receiver)

    def _jump(self, request: dict[str, Any], receiver: EndReceiver) -> DoorSession:
        """``ssh -J console@GATEWAY DEVICE``: the host is a device's name, the port its own."""
        host, port = request.get("host"), request.get("port")
        if not isinstance(host, str):
            raise NoDestination(
                "console is no device: forward with DEVICE@GATEWAY, or jump with "
                "ssh -J console@GATEWAY DEVICE"
            )
        asked = {"host": "localhost", "port": port}
        return self._session(host.removesuffix("."), "forward", asked, receiver, None)

    def _session(
        self,
        device: str,
        handler: str,
        request: dict[str, Any],
        receiver: EndReceiver,
        login: str | None,
    ) -> DoorSession:
        return LocalSession(
            self.gateway,
            self.caller,
            device,
            handler,
            receiver,
            login=login,
            request=request,
            window=BULK_WINDOW if handler == "sftp" else DEFAULT_WINDOW,
        )
