"""Text that devices choose, through every verb, as a table and as JSON: nothing of it acts.

The gateway of these tests says the worst that a gateway could pass on: every text in every answer
is hostile.  What is a session's own bytes (`run`, `shell`, `attach`, `call`, and `tail` and `cat`
that do not write to a terminal) is passed on as it is, by design, and not tested here.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from rshell.cli.main import VERBS
from rshell.client import join_records, records
from rshell.client.ssh_ca_verbs import SshCa
from rshell.gateway.ca_report import Report
from tests.cli.rshell_process import ROOT, CliCase
from tests.client.fake_gateway import FakeStream, refuses
from tests.hostile import EVIL, acting, hostile

#: Verb -> the command lines that show what devices choose, or why there are none.
TABLE: dict[str, str | list[list[str]]] = {
    "accept": [["accept", "pump"]],
    "attach": "a session's own bytes; what it says besides is that of shell",
    "audit": [["audit"], ["audit", "--session", "ab" * 16], ["audit", "--verify"],
              ["audit", "--file", "*"], ["audit", "export", "--format", "syslog"],
              ["audit", "export"]],
    "ca": [["ca", "show"]],
    "call": [["call", "pump", "evil", "--help"], ["call", "pump", "evil", "a=1"],
             ["call", "refusing", "evil"]],
    "cat": [["cat", "refusing:/x"]],
    "confirm": [["confirm", "ab" * 16]],
    "console": "the console's own tests have it",
    "cp": [["cp", "refusing:/x", "/tmp/rshell-never-written"]],
    "demo": "has devices of its own",
    "devices": [["devices"], ["devices", "-o", "wide"], ["devices", "--columns", "name,facts.os"]],
    "facts": [["facts", "pump"]],
    "forward": [["forward", "refusing", "0:localhost:1"]],
    "handlers": [["handlers", "pump"], ["handlers"]],
    "inventory": [
        ["inventory", "--ansible", "--facts", "os", "--group-by-fact", "os"],
        ["inventory", "--ssh-config"], ["inventory", "--known-hosts"],
    ],
    "invite": [["invite", "device", "--name", "a"]],
    "invites": [["invites"], ["invites", "ab"]],
    "join": "asks a gateway that it does not know for nothing but a certificate",
    "keys": [["keys", "list", "ann"], ["keys", "list", "--ca"]],
    "label": [["label", "pump", "a=b"]],
    "ls": [["ls", "refusing:/x"]],
    "metrics": [["metrics"]],
    "operators": [["operators"]],
    "pending": [["pending"]],
    "play": "a recording's own bytes, which tests.cli.test_playback tames",
    "probe": [["probe", "pump"]],
    "quarantine": [["quarantine", "pump"]],
    "reboot": [["reboot", "refusing"]],
    "recordings": [["recordings"]],
    "reject": [["reject", "pump"]],
    "rename": [["rename", "pump", "b"]],
    "revoke": [["revoke", "device", "pump"]],
    "rm": [["rm", "-y", "refusing:/x"]],
    "roles": [["roles", "list"], ["roles", "show", "r"], ["roles", "check", "ann", "pump", "exec"]],
    "run": [["run", "refusing", "--", "x"], ["run", "ending", "--", "x"]],
    "sessions": [["sessions"], ["sessions", "--end", "ab" * 16]],
    "shell": [["shell", "refusing"]],
    "tail": [["tail", "refusing:/x"]],
    "whoami": [["whoami"]],
    "why": [["why", "pump"]],
}  # fmt: skip


def answers() -> dict[str, Any]:
    """Return what the gateway says to each of its verbs."""
    device = hostile(records.Device) | {"state": "live"}
    named = [device | {"name": name} for name in ("pump", "refusing", "ending")]

    def devices(request: dict[str, Any]) -> Any:
        chosen = request.get("selector")
        return [one for one in named if one["name"] == chosen] or [device, *named]

    rows = [hostile(records.AuditRow) | {"files": [
        {"op": EVIL, "path": EVIL, "to": EVIL, "code": EVIL},
        {"op": "get", "path_b64": base64.b64encode(b"\xff\x1b[2J").decode()},
    ]}]  # fmt: skip
    whole = hostile(records.WholeAuditRow)
    failed = {"status": "error", "message": EVIL}
    return {
        "audit": rows,
        "audit-rows": lambda request: {
            "rows": [whole] if request["after"] == 0 else [], "through": 1
        },
        "audit-verify": hostile(records.AuditVerdict) | {"sound": False},
        "devices": devices,
        "doors": hostile(records.Doors),
        "facts": hostile(records.DeviceFacts),
        "handlers": [hostile(records.Handler) | {"name": "evil"}],
        "accept": [hostile(join_records.Decision)],
        "reject": [hostile(join_records.Decision) | {"ok": False}],
        "pending": [hostile(join_records.PendingDevice)],
        "invites": [hostile(join_records.Invite)],
        "ca": hostile(Report),
        "keys.list-cas": [hostile(SshCa)],
        "invite": hostile(join_records.Invitation) | {"join": "J"},
        "keys.list": [hostile(records.SshKey)],
        "label": device,
        "metrics": {"text": f"# HELP x {EVIL}\nx{{a=\"{EVIL}\"}} 1\n"},
        "operators": [hostile(records.OperatorInfo)],
        "probe": hostile(records.Probe) | {"alive": False},
        "quarantine": device,
        "recordings": [hostile(records.Recording)],
        "rename": device,
        "revoke": {"name": EVIL, "links": 1},
        "roles.list": [hostile(records.Role)],
        "roles.check": hostile(records.RoleCheck),
        "sessions": [hostile(records.SessionInfo) | {"outcome": failed}],
        "end-session": {"ended": True, "message": EVIL},
        "whoami": hostile(records.Whoami),
        "why": [hostile(records.LinkRecord)],
    }  # fmt: skip


def ends(stream: FakeStream) -> None:
    stream.accept()
    stream.finish(status="error", code="x", message=EVIL, result={EVIL: [EVIL]})


class Zygote(ProcessProtocol):
    """The process that runs command lines."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: Deferred[dict[str, Any]] | None = None
        self.ended: Deferred[None] = Deferred()

    def run(self, argv: list[str]) -> Deferred[dict[str, Any]]:
        transport: Any = self.transport
        self._waiting = waiting = Deferred()
        transport.write(json.dumps({"argv": argv}).encode() + b"\n")
        return waiting

    def outReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.endswith(b"\n"):
            waiting, self._waiting = self._waiting, None
            line, self._buffer = self._buffer, b""
            if waiting is not None:
                waiting.callback(json.loads(line))

    def processEnded(self, reason: Failure) -> None:
        if self._waiting is not None:
            self._waiting.errback(reason)
        self.ended.callback(None)


class HostileTextTests(CliCase):
    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        self.gateway.answers.update(answers())
        self.gateway.devices.update(
            {"pump": ends, "refusing": refuses("policy", EVIL[:200]), "ending": ends}
        )
        self.zygote = Zygote()
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'agent'}",
            "HOME": str(self.home), "RSHELL_HOME": str(self.home), "TERM": "xterm",
        }  # fmt: skip
        program = str(Path(__file__).with_name("zygote.py"))
        transport = reactor.spawnProcess(
            self.zygote, sys.executable, [sys.executable, program], env, path="/"
        )

        def stop() -> Deferred[None]:
            transport.closeStdin()
            return self.zygote.ended

        self.addCleanup(stop)

    async def _through(self, choose: Callable[[list[str]], list[str]]) -> list[str]:
        """Run every command line of the table; return what was wrong."""
        wrong = []
        for lines in TABLE.values():
            for argv in [] if isinstance(lines, str) else lines:
                done = await self.zygote.run(choose(argv))
                shown = [base64.b64decode(done[name]) for name in ("out", "err")]
                wrong += [f"{argv}: {found}" for text in shown for found in acting(text)]
                if b"Traceback" in shown[1] or done["status"] in (2, -14) or not any(shown):
                    wrong.append(f"{argv}: {done['status']} {shown[1][-500:]!r}")
        return wrong

    async def test_tables(self) -> None:
        """No listing, message or help lets a device's text act on the terminal."""
        self.assertEqual([], await self._through(lambda argv: argv))

    async def test_json(self) -> None:
        """Nor does JSON, which is the same text, escaped."""
        self.assertEqual([], await self._through(lambda argv: ["--json", *argv]))
        done = await self.zygote.run(["--json", "devices"])
        self.assertEqual(EVIL, json.loads(base64.b64decode(done["out"]))[0]["name"])

    def test_every_verb(self) -> None:
        """A new verb is put into the table: with a command line, or with why there is none."""
        self.assertEqual(set(VERBS), set(TABLE))
