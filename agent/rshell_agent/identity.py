"""Which credentials this device dials with, and what it has learned that must survive a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
from twisted.logger import Logger

from rshell.identity.credentials import Credentials, CredentialStore
from rshell.identity.files import write_atomic

__all__ = ["DeviceIdentity", "LinkMemory"]


class DeviceIdentity:
    """The credentials in use.

    After a renewal the old ones stay until the new ones have been welcomed; if the gateway refuses
    the new ones, both are tried in turn.

    Args:
        store: Both slots on disk.
        credentials: Those that count, already loaded.
    """

    _log = Logger()

    def __init__(self, store: CredentialStore, credentials: Credentials) -> None:
        self.current = credentials
        self._store = store
        self._use_previous = False

    def for_dial(self) -> Credentials:
        """Return what to present at the next connection."""
        if self._use_previous:
            previous = self._store.previous()
            if previous is not None:
                return previous
        return self.current

    def replace(self, credentials: Credentials) -> None:
        """Store renewed credentials; the next connection uses them.

        Raises:
            OSError: They could not be stored; the old ones stay in use.
        """
        self._store.save(credentials)
        self.current = credentials
        self._use_previous = False

    def welcomed(self, credentials: Credentials) -> None:
        """The gateway accepted these: if they are the current ones, older ones may go."""
        if credentials is not self.current:
            return
        self._use_previous = False
        try:
            self._store.confirm()
        except OSError as error:
            self._log.warn("old credentials could not be removed: {error}", error=error)

    def refused(self) -> bool:
        """The gateway did not accept what was presented; say whether there is another to try."""
        if self._store.previous() is None:
            return False
        self._use_previous = not self._use_previous
        return True


class _Remembered(msgspec.Struct, frozen=True):
    name: str = ""
    link_generation: int = 0


class LinkMemory:
    """HOME/state/link.json: what the last WELCOME told and the next HELLO must present.

    Attributes:
        name: The device's name as the gateway knows it; "" before the first WELCOME.
        link_generation: As of the last WELCOME; 0 before the first.
    """

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        self._path = directory / "link.json"
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Remembered)
        except FileNotFoundError:
            found = _Remembered()
        except (OSError, msgspec.DecodeError) as error:
            self._log.warn("state/link.json cannot be used: {error}", error=error)
            found = _Remembered()
        self.name = found.name
        self.link_generation = found.link_generation

    def learn(self, name: str, link_generation: int) -> None:
        """Store both durably if they are news; a full disk must not stop the agent.

        A generation that could not be stored is never presented (rule H4): after a restart the
        older one would look like a copy of this device.
        """
        if (name, link_generation) == (self.name, self.link_generation):
            return
        self.name = name
        try:
            write_atomic(self._path, msgspec.json.encode(_Remembered(name, link_generation)))
        except OSError as error:
            self._log.error("state/link.json cannot be written: {error}", error=error)
        else:
            self.link_generation = link_generation
