"""What several grants say together of a session's time and recording."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.access.grants import BadGrant, check_grant, grant_words, seconds_words
from rshell.access.recordings import RecordingPolicy, decide_recording
from rshell.access.terms import NO_TERMS, SessionTerms, terms_of
from rshell.store.records import Grant
from tests.access.test_roles import book, device, operator

TERMINAL: dict[str, Any] = {"terminal": {"rows": 24, "columns": 80, "term": "xterm"}}


def shell(**fields: Any) -> Grant:
    return Grant(handlers=("shell",), **fields)


class TermsTests(SynchronousTestCase):
    def test_most_generous(self) -> None:
        """The longest limit holds, and a grant without one is the longest."""
        roles = book(
            short=[shell(idle_limit=60, time_limit=3600)],
            long=[shell(idle_limit=900, time_limit=600)],
            free=[shell()],
        )
        for names, idle, time in (
            (("short",), (60, "short/1"), (3600, "short/1")),
            (("short", "long"), (900, "long/1"), (3600, "short/1")),
            (("long", "short"), (900, "long/1"), (3600, "short/1")),
            (("short", "free"), (0, "free/1"), (0, "free/1")),
            (("free", "short"), (0, "free/1"), (0, "free/1")),
            (("short", "admin"), (0, "admin"), (0, "admin")),
        ):
            terms = roles.terms(operator(*names), device(), "shell")
            self.assertEqual((terms.idle_seconds, terms.idle_rule), idle, names)
            self.assertEqual((terms.time_seconds, terms.time_rule), time, names)

    def test_only_what_allows_it(self) -> None:
        """A grant that does not allow the session has no say in it."""
        roles = book(
            a=[shell(idle_limit=60, record="input"), Grant(handlers=("exec",), record="output")],
            b=[Grant(select="valve-*", handlers=("shell",)), Grant(watch=True)],
        )
        bob = operator("a", "b", "gone")
        terms = roles.terms(bob, device(), "shell")
        self.assertEqual((terms.idle_seconds, terms.records), (60, (("a/1", "input"),)))
        self.assertEqual(roles.terms(bob, device(), "shell", "root"), NO_TERMS)
        self.assertEqual(terms_of(()), SessionTerms())

    def test_administrators(self) -> None:
        """A role that is everything may have limits, too; the built-in one has none."""
        roles = book(boss=[Grant(admin=True, idle_limit=300, record="input")])
        terms = roles.terms(operator("boss"), device(), "shell")
        self.assertEqual((terms.idle_seconds, terms.idle_rule), (300, "boss/1"))
        self.assertEqual(terms.recording("output"), ("input", "boss/1"))
        self.assertEqual(roles.terms(operator("admin"), device(), "shell").idle_seconds, 0)

    def test_strictest_recording(self) -> None:
        """The most is recorded; a grant that says nothing says what the configuration does."""
        for records, default, expected in (
            ((), "output", ("output", None)),
            ((("a/1", None),), "output", ("output", None)),
            ((("a/1", "off"),), "output", ("off", "a/1")),
            ((("a/1", "off"), ("b/1", None)), "output", ("output", None)),
            ((("a/1", "off"), ("b/1", None)), "off", ("off", None)),
            ((("a/1", "off"), ("b/1", "input")), "output", ("input", "b/1")),
            ((("a/1", "output"), ("admin", None)), "input", ("input", None)),
            ((("a/1", "output"),), "input", ("output", "a/1")),
        ):
            terms = SessionTerms(records=records)
            self.assertEqual(terms.recording(default), expected, (records, default))

    def test_deciding(self) -> None:
        """Only what has a terminal is recorded, whatever roles say."""
        policy, terms = RecordingPolicy(), SessionTerms(records=(("a/1", "input"),))
        self.assertEqual(decide_recording(policy, terms, "shell", TERMINAL), "input")
        self.assertEqual(decide_recording(policy, NO_TERMS, "exec", TERMINAL), "output")
        for request in ({}, {"terminal": None}, {"terminal": "xterm"}):
            self.assertEqual(decide_recording(policy, terms, "exec", request), "off")


class WatchingTests(SynchronousTestCase):
    def test_who_may(self) -> None:
        """Administrators watch everywhere, a grant with watch lets watch on its devices."""
        roles = book(eyes=[Grant(select="site=berlin", watch=True)], ops=[shell()])
        oslo = device("valve-1", labels={"site": "oslo"})
        for names, berlin, elsewhere in (
            (("eyes",), "eyes/1", None),
            (("ops",), None, None),
            (("admin",), "admin", "admin"),
            ((), None, None),
        ):
            who = operator(*names)
            self.assertEqual(roles.may_watch(who, device()), berlin)
            self.assertEqual(roles.may_watch(who, oslo), elsewhere)
            self.assertEqual(roles.may_watch_any(who), berlin is not None)
        gone = operator("admin", status="revoked")
        self.assertIsNone(roles.may_watch(gone, device()))
        self.assertFalse(roles.may_watch_any(gone))
        self.assertIsNone(roles.may_watch(operator("eyes"), device(provisional=True)))

    def test_grants_nothing_else(self) -> None:
        """Who may watch sees the device, and may open nothing on it."""
        roles, bob = book(eyes=[Grant(watch=True)]), operator("eyes")
        self.assertTrue(roles.sees(bob, device()))
        for handler in ("shell", "exec", "forward", "watch"):
            self.assertFalse(roles.decide(bob, device(), handler))


class CheckingTests(SynchronousTestCase):
    def test_bad(self) -> None:
        """What cannot be, or would do nothing, is refused with the reason."""
        for grant, words in (
            (shell(idle_limit=9), "idle limit is 0 for none, or from 10 seconds"),
            (shell(idle_limit=-60), "idle limit"),
            (shell(time_limit=10**9), "time limit"),
            (shell(record="all"), "off, output, input"),
            (shell(record="\x1b[2J"), "off, output, input"),
            (Grant(watch=True, idle_limit=60), "go with handlers"),
            (Grant(watch=True, logins=("root",)), "go with handlers"),
            (Grant(watch=True, record="off"), "go with handlers"),
            (Grant(idle_limit=60), "names a handler"),
            (Grant(admin=True, watch=True), "admin is everything"),
        ):
            error = self.assertRaises(BadGrant, check_grant, grant)
            self.assertIn(words, str(error))
            self.assertNotIn("\x1b", str(error))

    def test_good(self) -> None:
        """Limits and recording go with handlers, with forward, and with everything."""
        for grant in (
            shell(idle_limit=10, time_limit=86_400, record="off"),
            Grant(forward=("*",), time_limit=60),
            Grant(console=True, idle_limit=60, record="input"),
            Grant(select="site=berlin", watch=True),
            shell(watch=True, idle_limit=60),
        ):
            self.assertEqual(check_grant(grant), grant)

    def test_words(self) -> None:
        """A grant in words has its terms, with spans as they are typed."""
        grant = shell(watch=True, idle_limit=900, time_limit=28_800, record="input")
        words = "on *; allow shell; watch; idle-limit 15m; time-limit 8h; record input"
        self.assertEqual(grant_words(grant), words)
        for seconds, text in ((0, "0s"), (59, "59s"), (60, "1m"), (90, "90s"), (172_800, "2d")):
            self.assertEqual(seconds_words(seconds), text)
