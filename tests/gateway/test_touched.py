"""Which files a session touched: told by its device, once in the audit log, found by path."""

from __future__ import annotations

import base64
from typing import Any

from rshell.client.records import AuditRow
from rshell.gateway.core import TOUCHED_BURST
from rshell.store.records import AuditRecord
from tests.gateway.ends import End
from tests.gateway.test_verbs import VerbTestCase

SESSION = b"s" * 16


def put(path: str, **more: Any) -> dict[str, Any]:
    return {"op": "put", "path": path, "size": 3, **more}


class TouchedCase(VerbTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.device: End = self.fleet.dial(self.pump)
        self.operator: End = self.fleet.dial(self.ann)
        self.began(SESSION)

    def began(self, session: bytes, handler: str = "files", **more: Any) -> None:
        record: dict[str, Any] = {
            "operator": "ann", "device": self.pump.owner, "device_name": "pump-1",
            "login": "root", "door": "link", "address": "192.0.2.1:5", "attempt": 1,
        }  # fmt: skip
        self.fleet.got(
            self.fleet.store.append_audit(
                AuditRecord(
                    **{
                        "kind": "session",
                        "opens": True,
                        "handler": handler,
                        "session": session.hex(),
                        "details": {"request": {"secret": 1}, "rule": "x"},
                        **record,
                        **more,
                    }
                )
            )
        )

    def tell(self, n: int, *files: Any, session: bytes = SESSION, **more: Any) -> Any:
        key = base64.b64encode(session).decode()
        return self.ask(self.device, "gateway.touched", session=key, n=n, files=list(files), **more)

    def rows(self, **more: Any) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.ask(
            self.operator, "gateway.audit", kind="session.files", **more
        ).answer()
        return answer


class TellingTests(TouchedCase):
    def test_row(self) -> None:
        """A part is a row that repeats who began the session, and nothing of what was asked."""
        self.assertEqual({"n": 1}, self.tell(1, put("/etc/motd"), left_out={"get": 7}).answer())
        (row,) = self.rows(files=True)
        self.assertEqual(
            ("ann", "pump-1", "files", "root", "link", SESSION.hex(), "part-1"),
            tuple(
                row[key]
                for key in ("operator", "device", "handler", "login", "door", "session", "code")
            ),
        )
        self.assertEqual(([put("/etc/motd")], {"get": 7}), (row["files"], row["left_out"]))
        self.assertEqual("put /etc/motd; not named: 7 get", row["summary"])
        (record,) = [row.record for row in self.fleet.audit("session.files")]
        self.assertEqual({"n", "files", "left_out"}, set(record.details))

    def test_told_again(self) -> None:
        """A part that is told again, in whatever order and at once, has one row."""
        talks = [self.device.call("gateway.touched", request=self.body(n)) for n in (2, 1, 2, 1, 3)]
        self.fleet.pump()
        self.assertEqual([2, 1, 2, 1, 3], [talk.answer()["n"] for talk in talks])
        self.tell(3, put("/another"))
        paths = [row["files"][0]["path"] for row in self.rows(files=True)]
        self.assertEqual(["/1", "/2", "/3"], sorted(paths))
        self.assertTrue(self.fleet.got(self.fleet.store.verify_audit()).sound)

    @staticmethod
    def body(n: int) -> dict[str, Any]:
        return {"session": base64.b64encode(SESSION).decode(), "n": n, "files": [put(f"/{n}")]}

    def test_two_sessions(self) -> None:
        """Parts of two sessions have numbers of their own."""
        self.began(b"t" * 16, "sftp")
        self.tell(1, put("/a"))
        self.tell(1, put("/b"), session=b"t" * 16)
        self.assertEqual({"files", "sftp"}, {row["handler"] for row in self.rows()})

    def test_not_its_own(self) -> None:
        """A device tells of its own sessions with files, and of no others."""
        self.began(b"o" * 16, device="another")
        self.began(b"e" * 16, "exec")
        for session in (b"o" * 16, b"e" * 16, b"x" * 16):
            talk = self.tell(1, put("/a"), session=session)
            self.assertEqual("policy", talk.code, session)
        self.assertEqual([], self.rows())

    def test_older_link(self) -> None:
        """Only the device's current link may tell."""
        renewing = self.fleet.dial(self.pump.changed(expired=True), instance=b"J" * 16)
        self.assertEqual("offline", self.refused(renewing, "gateway.touched", **self.body(1))[0])

    def test_hostile(self) -> None:
        """What is no report is refused as a whole; what a terminal would act on is not shown."""
        for bad in (
            {"n": 0},
            {"n": 10_001},
            {"n": "1"},
            {"session": "eA=="},
            {"session": "?"},
            {"files": [put("/x")] * 129},
            {"files": [{}]},
            {"files": [{"op": "put\x1b"}]},
            {"files": [{"op": "P"}]},
            {"files": ["x"]},
            {"files": [put("/" + "x" * 4096)]},
            {"files": [put("/x", size=-1)]},
            {"files": [put("/x", size=2**63)]},
            {"files": [put("/x", digest="x" * 64)]},
            {"files": [put("/x", code="x" * 33)]},
            {"files": [put("/x", mode="0999")]},
            {"left_out": {"put": -1}},
            {"left_out": {"a b": 1}},
            {"left_out": {f"a{n}": 1 for n in range(33)}},
        ):
            talk = self.ask(self.device, "gateway.touched", **{**self.body(1), **bad})
            self.assertEqual("bad-request", talk.code, bad)
        self.assertEqual([], self.rows())
        self.tell(1, put("/\x1b]52;c;x\x07\u202e", code="a\x1bb"), put("", path_b64="/xtbMW0="))
        (row,) = self.rows(files=True)
        self.assertTrue(row["summary"].isprintable(), row["summary"])

    def test_throttled(self) -> None:
        """A device that tells too much is asked to come back later; nothing is lost by that."""
        for _ in range(TOUCHED_BURST):
            self.fleet.gateway.touches.admit(self.pump.owner)
        self.assertEqual("overload", self.tell(1, put("/x")).code)
        self.fleet.advance(1)
        self.assertEqual({"n": 1}, self.tell(1, put("/x")).answer())


class FindingTests(TouchedCase):
    def setUp(self) -> None:
        super().setUp()
        self.tell(1, put("/etc/motd"), put("/srv/a b"), put("/srv/\u00e9t\u00e9"))
        self.tell(2, {"op": "rename", "path": "/tmp/x", "to": "/etc/shadow"})
        self.tell(3, {"op": "get", "path_b64": base64.b64encode(b"/raw/\xff").decode()})

    def found(self, pattern: str, **more: Any) -> list[str]:
        rows = self.rows(file=pattern, files=True, **more)
        return [entry.get("path") or entry["path_b64"] for row in rows for entry in row["files"]]

    def test_patterns(self) -> None:
        """A pattern is the shell's, also for new names, spaces, and bytes that are no text."""
        for pattern, paths in (
            ("/etc/motd", ["/etc/motd"]),
            ("/etc/*", ["/tmp/x", "/etc/motd"]),
            ("*shadow", ["/tmp/x"]),
            ("/srv/a b", ["/srv/a b"]),
            ("/srv/\u00e9*", ["/srv/\u00e9t\u00e9"]),
            ("/srv/?t?", ["/srv/\u00e9t\u00e9"]),
            ("/[es]*d", ["/etc/motd"]),
            ("/raw/*", [base64.b64encode(b"/raw/\xff").decode()]),
            ("/etc/%", []),
            ("/nothing", []),
        ):
            self.assertEqual(paths, self.found(pattern), pattern)

    def test_limits(self) -> None:
        """The newest rows come first, so many as are asked for, and older ones after them."""
        newest = self.rows(file="/etc/*", limit=1)
        self.assertEqual(["part-2"], [row["code"] for row in newest])
        older = self.rows(file="/etc/*", limit=1, before=newest[0]["seq"])
        self.assertEqual(["part-1"], [row["code"] for row in older])

    def test_following(self) -> None:
        """Following finds them too, oldest first."""
        answer = self.ask(
            self.operator, "gateway.audit-rows", after=0, file="/etc/*", files=True
        ).answer()
        self.assertEqual(["part-1", "part-2"], [row["code"] for row in answer["rows"]])
        self.assertEqual(1, len(answer["rows"][0]["files"]))

    def test_not_asked_for(self) -> None:
        """Without being asked for, files are in the summary only."""
        self.assertNotIn("files", self.rows()[0])
        self.assertIn("files", AuditRow.__struct_fields__)
