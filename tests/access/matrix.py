"""The golden table of who may do what, ``matrix.toml``, and the fleet that it is asked in.

A verb, a handler, a command or a door that is added without a row fails the suite.  Columns:

``nobody``     a key that is registered nowhere
``revoked``    an operator who was revoked
``device``     pump-1, which is in Berlin, about itself
``none``       an operator without a role
``berlin``     exec on site=berlin as web, and nothing else
``elsewhere``  the same operator, asking for valve-1, which is in Oslo
``watch``      tail and facts on every device
``fleet``      every handler on every device as any login, every forward target
``admin``      the built-in role
"""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path
from typing import Any

from rshell.doors.console.door import Consoles
from rshell.identity.keys import make_csr, new_key
from rshell.link.core.messages import Positions
from rshell.store.pending_records import KnownKey
from rshell.store.recordings import NewRecording
from rshell.store.records import AuditRecord, Grant, NewToken
from tests.doors.console.ends import QuietWatchdog
from tests.gateway.ends import End
from tests.gateway.fleet import FleetTestCase, Peer

__all__ = ["COLUMNS", "GOLDEN", "MatrixTestCase", "asks"]

GOLDEN: dict[str, Any] = tomllib.loads((Path(__file__).parent / "matrix.toml").read_text())
COLUMNS: list[str] = GOLDEN["columns"]
#: A session of ann's on pump-3 that can be ended.
SESSION = "0" * 32
ROLES = {
    "berlin": Grant(select="site=berlin", handlers=("exec",), logins=("web",)),
    "watch": Grant(handlers=("tail", "facts")),
    "fleet": Grant(handlers=("*",), logins=("*",), forward=("*",), forward_back=("*",)),
}


def asks(verb: str) -> dict[str, Any]:
    """Return the request that a verb is asked with: one that works for an administrator."""
    request: dict[str, Any] = GOLDEN["ask"].get(verb, {})
    if request.get("csr") == "(made)":
        return {"csr": base64.b64encode(make_csr(new_key())).decode()}
    return request


class MatrixTestCase(FleetTestCase):
    """A fleet with a device in Berlin, one in Oslo, and an operator of each kind."""

    def setUp(self) -> None:
        super().setUp()
        store = self.fleet.store
        self.fleet.got(store.set_labels("pump-1", {"site": "berlin"}))
        for name in ("pump-2", "valve-1", "valve-2"):
            self.fleet.enrol(name)
        for name in ("valve-1", "valve-2"):
            self.fleet.got(store.set_labels(name, {"site": "oslo"}))
        self.busy = self.fleet.enrol("pump-3")
        self.fleet.dial(self.busy)
        begun = AuditRecord(
            kind="session", opens=True, operator="ann", device=self.busy.owner, session=SESSION
        )
        self.fleet.got(store.append_audit(begun))
        recorded = NewRecording(
            session=SESSION,
            device=self.busy.owner,
            device_name="pump-3",
            operator="ann",
            handler="shell",
            login=None,
            mode="output",
            path="2026/01/01/x.cast",
        )
        self.fleet.got(store.begin_recording(recorded))
        keys = NewToken(
            id=b"k" * 8,
            secret_hash=bytes(32),
            kind="device",
            expires_at=self.fleet.gateway.now_us() + 3600 * 1_000_000,
            created_by="ann",
            mode="keys",
        )
        self.fleet.got(store.add_token(keys, [KnownKey(spki=b"k" * 32)]))
        self.fleet.got(store.add_ssh_ca("old-ca", "SHA256:x", "ssh-ed25519", b"x", "c"))
        for name, grant in ROLES.items():
            self.fleet.add_role(name, grant)
        fleet = self.fleet
        fleet.door.consoles = Consoles(
            fleet.gateway, fleet.clock, fleet.door.vouch, QuietWatchdog()
        )

    def peer(self, column: str) -> Peer:
        """Return who asks in a column."""
        if column == "device":
            return self.pump
        if column == "admin":
            return self.ann
        if column == "nobody":
            return self.ann.changed(spki=b"?" * 32)
        if column == "revoked":
            eve = self.fleet.add_operator("eve")
            self.fleet.got(self.fleet.store.revoke_operator("eve"))
            return eve
        if column == "none":
            peer = self.fleet.add_operator("zoe", "berlin")
            self.fleet.run(self.fleet.gateway.rights.assign("zoe", (), ("berlin",)))
            return peer
        role = "berlin" if column == "elsewhere" else column
        return self.fleet.add_operator(f"{role}-1", role)

    def verb_result(self, end: End, verb: str, column: str) -> str:
        """Ask the gateway; return ``ok`` or the code of the refusal."""
        if end.welcome is None:
            return end.told or "nothing"
        request = asks(verb)
        if column == "elsewhere":
            request = {key: _elsewhere(value) for key, value in request.items()}
        talk = end.call(verb, request=request)
        self.fleet.pump()
        return "ok" if talk.outcome == {"status": "ok"} else talk.code or "nothing"

    def console_result(self, end: End, verb: str, column: str) -> str:
        """Run a line at the console; return ``ok`` or the code of the refusal."""
        if end.welcome is None:
            return end.told or "nothing"
        talk = end.call(verb, request={"line": base64.b64encode(b"1").decode()})
        for _ in range(30):
            self.fleet.clock.advance(0)
            self.fleet.pump()
        return "ok" if bytes(talk.data) == b"1\n" else talk.code or "nothing"

    def session_result(self, end: End, words: str, column: str) -> str:
        """Join ann's session on pump-3; return ``ok`` if that got there, else the code."""
        if end.welcome is None:
            return end.told or "nothing"
        joining: dict[str, Any] = {"attempt": 2, "resume": Positions(0, 4096, 0)}
        joining = {"view": True} if words == "watch" else joining
        session = bytes.fromhex(SESSION)
        asked = end.ask("shell", device="pump-3", session=session, **joining)
        self.fleet.pump()
        return asked.code or "ok"

    def handler_result(self, end: End, words: str, column: str) -> str:
        """Open a stream to a device; return ``ok`` if it got there, else the code."""
        if end.welcome is None:
            return end.told or "nothing"
        handler, _, login = words.partition(" as ")
        device = "valve-1" if column == "elsewhere" else "pump-1"
        request = GOLDEN["ask"].get(words, {})
        talk = end.call(
            handler.split()[0],
            device=device,
            login=login or None,
            request=request,
            session=words.encode().ljust(16, b".")[:16],
        )
        self.fleet.pump()
        # Offline: it passed the gate, and nobody is there.
        return "ok" if talk.code == "offline" else talk.code or "nothing"


def _elsewhere(value: Any) -> Any:
    return "valve-1" if value == "pump-1" else value
