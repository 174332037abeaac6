"""HandlerHarness runs a handler as an agent would."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rshell.handlers import Outcome, ProcessRequest
from rshell.interfaces import ICommandHandler
from rshell.testing import HandlerHarness
from rshell_agent.registry import BadHandler


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do."""

    what: str = "flood"


@implementer(ICommandHandler)
class Doing:
    name = "doing"
    summary = "Do one thing or another"
    request_type = Request
    priority = "normal"

    async def run(self, request: Any, channel: Any, device: Any) -> Outcome:
        if request.what == "splice":
            done: Outcome = await channel.splice(ProcessRequest(kind="exec", argv=[b"cat"]))
            return done
        if request.what == "fail":
            channel.write(b"so far")
            raise RuntimeError("as asked")
        if request.what == "tell":
            channel.write_stderr(f"{channel.operator} {device.name} {device.fact('os')}".encode())
            return Outcome(status="ok")
        channel.write(bytes(300_000))
        return Outcome(status="ok")


class HarnessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.harness = HandlerHarness(Doing(), name="pump-9", facts={"os": "Plan 9"})
        self.addCleanup(self.harness.close)

    def test_splice(self) -> None:
        """A handler that splices gets a simulated process, whose outcome is the session's."""
        call = self.harness.call(Request("splice"))
        call.write(b"through the keeper")
        call.write_eof()
        self.assertEqual(bytes(call.stdout), b"through the keeper")
        assert call.outcome is not None
        self.assertEqual(call.outcome.status, "ok")
        self.assertEqual(self.harness.runs, [[b"cat"]])

    def test_failure(self) -> None:
        """A handler that raises ends with an error, and the traceback is in the log."""
        call = self.harness.call(Request("fail"))
        assert call.outcome is not None
        self.assertEqual((call.outcome.status, call.outcome.code), ("error", "internal"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_device(self) -> None:
        """The handler sees operator, device and facts as they were given."""
        call = self.harness.call(Request("tell"), operator="bob")
        self.assertEqual(bytes(call.stderr), b"bob pump-9 Plan 9")

    def test_back_pressure(self) -> None:
        """An operator that does not read stalls the stream, and gets it all in the end."""
        call = self.harness.call(Request("flood"), window=65_536, paused=True)
        self.harness.advance(5)
        self.assertEqual((len(call.stdout), call.outcome), (0, None))
        call.resume()
        self.assertEqual(len(call.stdout), 300_000)
        self.assertIsNotNone(call.outcome)

    def test_link_cut(self) -> None:
        """The link can be cut under a session; the next one has a new link."""
        call = self.harness.call(Request("splice"))
        call.cut_link()
        assert call.refused is not None
        self.assertEqual(call.refused[0], "link-lost")
        self.assertEqual(len(self.harness.call(Request("flood")).stdout), 300_000)

    def test_policy(self) -> None:
        """A policy that forbids the handler is heeded."""
        harness = HandlerHarness(Doing(), policy='handlers = ["shell"]')
        self.addCleanup(harness.close)
        call = harness.call(Request())
        assert call.refused is not None
        self.assertEqual(call.refused[0], "policy")

    def test_no_handler(self) -> None:
        """What agents would skip is refused with the reason."""

        class Wrong(Doing):
            name = "Not A Name"

        self.assertRaises(BadHandler, HandlerHarness, Wrong())
