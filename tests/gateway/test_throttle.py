"""Throttle, summaries and the catalogue cache: small things that keep us bounded."""

from __future__ import annotations

import base64

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.gateway.core import Catalogues
from rshell.gateway.summaries import kept, summary
from rshell.gateway.throttle import MAX_KEYS, Throttle


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class ThrottleTests(SynchronousTestCase):
    def test_burst_then_rate(self) -> None:
        """A key has its burst at once, then one turn each period; what was refused is counted."""
        clock = Clock()
        throttle = Throttle(clock.seconds, 1 / 10, 3)
        self.assertEqual([throttle.admit("a") for _ in range(5)], [0, 0, 0, None, None])
        self.assertEqual(throttle.admit("b"), 0)
        clock.advance(10)
        self.assertEqual([throttle.admit("a"), throttle.admit("a")], [2, None])

    def test_after_months(self) -> None:
        """The burst is whole on a machine that has been up for long: sums of seconds round."""
        for up, rate, burst in ((1e5 + 1 / 3, 1000, 2000), (1e7 + 1 / 3, 3, 30), (4e7, 200, 1000)):
            clock = Clock()
            clock.advance(up)
            throttle = Throttle(clock.seconds, rate, burst)
            admitted = [throttle.admit("a") for _ in range(burst + 1)]
            self.assertEqual([0] * burst + [None], admitted, up)

    def test_bounded(self) -> None:
        """Many keys cost bounded memory: the one quiet for longest is forgotten."""
        throttle = Throttle(Clock().seconds, 1, 1)
        throttle.admit("first")
        for number in range(MAX_KEYS):
            throttle.admit(number)
        self.assertEqual(len(throttle._full_at), MAX_KEYS)
        self.assertEqual(throttle.admit("first"), 0)


class SummaryTests(SynchronousTestCase):
    def test_environment_values_are_not_kept(self) -> None:
        """Of an environment the audit keeps the names only."""
        request = {"argv": [b64("env")], "environment": [[b64("TOKEN"), b64("hunter2")]]}
        self.assertNotIn(b64("hunter2"), msgspec.json.encode(kept(request)).decode())
        self.assertIn(b64("TOKEN"), msgspec.json.encode(kept(request)).decode())
        self.assertEqual(kept({"line": "x"}), {"line": "x"})
        self.assertEqual(kept({"environment": 7}), {"environment": 7})

    def test_summary(self) -> None:
        """A row tells the command line, or the parameters that were given."""
        for request, expected in (
            ({"argv": [b64("ls"), b64("a b")]}, "ls 'a b'"),
            ({"line": b64("uptime | cat")}, "uptime | cat"),
            ({"kind": "device", "name": "pump-1", "role": None}, "kind=device name=pump-1"),
            ({"device": "pump-1", "set": {"site": "oslo"}}, 'device=pump-1 set={"site":"oslo"}'),
            ({"line": "not base64!"}, "not base64!"),
            ({"argv": [b64("\x1b[2J")]}, "'\ufffd[2J'"),
        ):
            self.assertEqual(summary({"request": request}), expected)
        paths = {"request": {"paths": [b64("/var/log/a\x1b"), "not base64!"], "lines": 3}}
        told = 'paths=["/var/log/a\\u001b","not base64!"] lines=3'
        self.assertEqual(summary(paths, None, "tail"), told)
        # A handler's own text is told as it was given.
        text = {"request": {"paths": ["d2Vi"]}}
        self.assertEqual(summary(text, None, "acme"), 'paths=["d2Vi"]')
        self.assertEqual(summary({"session_of": "ann"}, 2), "takes over ann's session")
        self.assertEqual(summary({"session_of": "ann", "view": True}), "view of ann's session")
        for nothing in ({}, {"request": {}}, {"request": 5}, {"epoch": 3}):
            self.assertIsNone(summary(nothing))


class CataloguesTests(SynchronousTestCase):
    def test_bounded_by_bytes(self) -> None:
        """The catalogues asked for last are at hand; the others make room."""
        entry = [{"name": "exec", "summary": "s" * 100, "schema": {}, "priority": "normal"}]
        body = msgspec.json.encode(entry).decode()
        catalogues = Catalogues(max_bytes=3 * len(body))
        for digest in "abc":
            catalogues.keep(digest, body)
        self.assertIsNotNone(catalogues.get("a"))
        catalogues.keep("d", body)
        self.assertIsNone(catalogues.get("b"))
        self.assertIsNotNone(catalogues.get("a"))
        catalogues.keep("a", body)
        self.assertIsNotNone(catalogues.get("c"))
