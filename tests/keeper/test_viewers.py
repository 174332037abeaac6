"""Viewers: they see, and nothing else (docs/keeper.md K37 to K41)."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper import constants, wire
from tests.keeper.client import BIG, Stream
from tests.keeper.inprocess import InProcess, PlayedProcess, View

TERMINAL = {"rows": 24, "columns": 80, "term": "xterm"}
SIXTEEN = 16 * 1024


class ViewerCase(SynchronousTestCase):
    policy = ""

    def setUp(self) -> None:
        self.keeper = InProcess(self.policy)
        self.addCleanup(self.keeper.stop)
        self.session = os.urandom(16)

    def started(self, **fields: Any) -> tuple[Stream, PlayedProcess]:
        """A shell on a terminal, and its driver."""
        stream = View(self.keeper.connect())
        stream.open(self.session, pty=TERMINAL, **fields)
        self.assertIsNone(stream.refused)
        return stream, self.keeper.processes[-1]

    def print(self, process: PlayedProcess, data: bytes) -> None:
        """The program prints, and is never made to wait."""
        while data:
            data = data[process.write(data[:SIXTEEN]) :]
            self.keeper.settle()

    def everything(self, stream: Stream) -> bytes:
        assert isinstance(stream, View)
        return stream.everything()


class SeeingTests(ViewerCase):
    def test_joins_beside_the_driver(self) -> None:
        """A viewer sees what comes from then on, and displaces nobody (R9)."""
        driver, process = self.started()
        self.print(process, b"before ")
        self.everything(driver)
        driver.tell()
        viewer = self.keeper.watch(self.session)
        self.print(process, b"after")
        self.assertEqual(b"before after", self.everything(driver))
        self.assertEqual(b"before after", self.everything(viewer))
        opened = {key: viewer.opened[key] for key in ("consumed", "limit", "events", "replay")}
        self.assertEqual({"consumed": 0, "limit": 0, "events": 0, "replay": 7}, opened)

    def test_no_replay(self) -> None:
        """Where nothing was printed yet there is no replay to tell of."""
        self.started()
        self.assertNotIn("replay", self.keeper.watch(self.session).opened)

    def test_history_is_bounded(self) -> None:
        """Of what the driver acknowledged the last 16 KiB are shown, and all it did not."""
        driver, process = self.started()
        text = os.urandom(3 * SIXTEEN)
        self.print(process, text)
        self.everything(driver)
        driver.consumed = 2 * SIXTEEN + 5
        driver.tell()
        viewer = self.keeper.watch(self.session)
        self.assertEqual(text[SIXTEEN + 5 :], self.everything(viewer))
        self.assertEqual(2 * SIXTEEN - 5, viewer.opened["replay"])

    def test_replay_is_bounded(self) -> None:
        """Of a full ring the newest 64 KiB are shown."""
        driver, process = self.started()
        driver.close()
        text = os.urandom(constants.WINDOW)
        self.print(process, text)
        viewer = self.keeper.watch(self.session)
        self.assertEqual(text[-constants.VIEW_BYTES :], self.everything(viewer))

    def test_pipes_have_no_history(self) -> None:
        """A command on pipes keeps nothing that was acknowledged; both channels are shown."""
        driver = self.keeper.open(self.session, "x")
        process = self.keeper.processes[0]
        process.write(b"old")
        while driver.consumed < 3:
            driver.step()
        driver.tell()
        viewer = self.keeper.watch(self.session)
        process.write(b"new")
        viewer.everything()
        process.write(b"bad", stderr=True)
        viewer.everything()
        self.assertEqual((b"new", b"bad"), (viewer.stdout, viewer.stderr))

    def test_driver_is_displaced(self) -> None:
        """A driver that is displaced by another one does not disturb who watches."""
        _, process = self.started()
        viewer = self.keeper.watch(self.session)
        self.print(process, b"one ")
        second = self.keeper.attach(self.session, 2)
        self.print(process, b"two")
        self.assertEqual(b"one two", self.everything(viewer))
        self.assertEqual(b"one two", self.everything(second))

    def test_driver_waits(self) -> None:
        """A viewer sees output before the driver does; it does not ask for more of it."""
        _, process = self.started(limit=0)
        viewer = self.keeper.watch(self.session)
        total = 0
        while process.write(b"x" * 4096):
            total += 4096
            self.keeper.settle()
        self.assertGreater(total, constants.WINDOW)
        self.assertEqual(constants.WINDOW, len(self.everything(viewer)))
        self.assertEqual([], viewer.gaps)


class SlowViewerTests(ViewerCase):
    def test_gap(self) -> None:
        """What a viewer has no room for is left out at its place, and counted exactly (R9)."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session, limit=1000)
        text = os.urandom(5 * constants.VIEW_BYTES)
        for start in range(0, len(text), SIXTEEN):
            self.print(process, text[start : start + SIXTEEN])
            self.everything(driver)
            driver.tell()
        self.assertEqual(text, driver.stdout)
        self.assertEqual(text[:1000], self.everything(viewer))
        self.assertEqual([], viewer.gaps)
        viewer.tell(BIG)
        tail = text[-constants.VIEW_BYTES :]
        self.assertEqual(text[:1000] + tail, self.everything(viewer))
        self.assertEqual([(1000, len(text) - 1000 - len(tail))], viewer.gaps)

    def test_replay_is_whole(self) -> None:
        """A gap never falls into the replay, so that its bytes can be told from others."""
        driver, process = self.started()
        self.print(process, b"r" * 9000)
        viewer = self.keeper.watch(self.session, limit=10)
        for _ in range(8):
            self.print(process, b"l" * SIXTEEN)
            self.everything(driver)
            driver.tell()
        viewer.tell(BIG)
        self.assertEqual(b"r" * 9000 + b"l" * constants.VIEW_BYTES, self.everything(viewer))
        self.assertEqual([(9000, 8 * SIXTEEN - constants.VIEW_BYTES)], viewer.gaps)

    def test_gaps_add_up(self) -> None:
        """With credit by drops, bytes seen and bytes left out are all there were, in order."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session, limit=0)
        text = b"".join(b"%07d\n" % number for number in range(60_000))
        for start in range(0, len(text), 10_000):
            self.print(process, text[start : start + 10_000])
            self.everything(driver)
            driver.tell()
            viewer.tell(viewer.limit + 777)
            self.everything(viewer)
        viewer.tell(BIG)
        self.everything(viewer)
        self.assertGreater(len(viewer.gaps), 5)
        left_out, seen = 0, 0
        for place, count in [*viewer.gaps, (len(viewer.stdout), 0)]:
            part = viewer.stdout[seen:place]
            self.assertEqual(text[seen + left_out : place + left_out], part)
            seen, left_out = place, left_out + count
        self.assertEqual(len(text), seen + left_out)

    def test_unacknowledged_events(self) -> None:
        """A viewer that acknowledges no event gets 64, and goes on when it does (V4)."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session, limit=0)
        for _ in range(100):
            self.print(process, os.urandom(constants.VIEW_BYTES + 1))
            self.everything(driver)
            driver.tell()
            events, viewer.events = viewer.events, 0
            viewer.tell(viewer.limit + 1)
            viewer.events = events
            self.everything(viewer)
        self.assertEqual(constants.MAX_EVENTS, len(viewer.gaps))
        viewer.tell()
        self.everything(viewer)
        self.assertEqual(constants.MAX_EVENTS + 1, len(viewer.gaps))

    def test_nobody_drives(self) -> None:
        """A viewer is nobody: without a driver the program waits 60 s, then is read on (K32)."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session)
        driver.close()
        while process.write(b"x" * 4096):
            self.keeper.settle()
        self.everything(viewer)
        self.assertFalse(self.keeper.described(self.session)["attached"])
        self.keeper.advance(59.9)
        self.assertEqual(0, process.write(b"y"))
        self.keeper.advance(0.1)
        self.assertEqual(1, process.write(b"y"))
        self.assertTrue(self.everything(viewer).endswith(b"xy"))


class ActingTests(ViewerCase):
    def test_events_have_no_effect(self) -> None:
        """Events of a viewer are counted within a second, and nothing more (R9)."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session)
        process.told.clear()
        viewer.event(1, "window", rows=5, columns=5)
        viewer.event(2, "signal", signal="INT")
        viewer.event(3, "cancel")
        self.keeper.advance(1.0)
        self.everything(viewer)
        self.assertEqual((0, 0, 3), viewer.granted)
        self.assertEqual([], process.told)
        self.everything(driver)
        self.assertEqual(0, driver.granted[2])

    def test_input_is_an_error(self) -> None:
        """Input of a viewer ends the viewing; the end of input, which needs no credit, does not."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session)
        viewer.send(wire.DATA, b"", wire.EOF)
        self.print(process, b"on")
        self.assertEqual(b"on", self.everything(viewer))
        viewer.send(wire.DATA, b"rm\n")
        with self.assertRaisesRegex(AssertionError, "input from a viewer"):
            viewer.everything()
        self.assertIsNone(process.read())
        self.print(process, b" and on")
        self.assertEqual(b"on and on", self.everything(driver))
        self.assertEqual(0, self.keeper.described(self.session)["viewers"])

    def test_false_claims(self) -> None:
        """A viewer that acknowledges what was not sent is a fault of its courier."""
        self.started()
        for consumed, events in ((1, 0), (0, 1)):
            viewer = self.keeper.watch(self.session)
            viewer.consumed, viewer.events = consumed, events
            viewer.tell()
            with self.assertRaisesRegex(AssertionError, "not sent"):
                viewer.everything()

    def test_reset(self) -> None:
        """RESET ends the viewing only, whatever its code."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session)
        viewer.send(wire.RESET, {"code": "cancelled", "message": ""})
        self.assertTrue(viewer.closed())
        self.keeper.advance(10.0)
        self.assertNotIn(("term",), process.told)
        self.assertEqual(0, self.keeper.described(self.session)["viewers"])
        self.print(process, b"alive")
        self.assertEqual(b"alive", self.everything(driver))


class AdmissionTests(ViewerCase):
    def refused(self, **fields: Any) -> tuple[str, str]:
        return self.keeper.refused(self.session, "-", view=True, **fields)

    def test_five(self) -> None:
        """Four may watch; when one goes there is room again."""
        self.started()
        viewers = [self.keeper.watch(self.session) for _ in range(4)]
        code, message = self.refused()
        self.assertEqual("overload", code)
        self.assertRegex(message, r"\A4 watch this session, .*: rshell sessions --json tells who")
        self.assertEqual(4, self.keeper.described(self.session)["viewers"])
        viewers[1].close()
        self.keeper.watch(self.session)

    def test_whose(self) -> None:
        """Only the session's operator, and only as policy is now."""
        self.started()
        self.assertEqual("policy", self.refused(operator="bob")[0])
        self.keeper.policy('[policy]\nhandlers = ["exec"]\n')
        self.assertEqual("policy", self.refused()[0])

    def test_what(self) -> None:
        """Unknown, ended and finished sessions cannot be watched, and nothing is run."""
        self.assertEqual("not-found", self.refused()[0])
        driver, process = self.started()
        process.exit(3)
        self.keeper.settle()
        self.assertEqual("not-found", self.refused()[0])
        driver.finish()
        self.assertEqual("not-found", self.refused()[0])
        self.assertEqual(1, self.keeper.spawned)

    def test_form(self) -> None:
        """`view` is true or false, and takes no resume."""
        self.started()
        resume = {"consumed": 0, "limit": 1, "events": 0}
        self.assertEqual("bad-request", self.refused(resume=resume)[0])
        self.assertEqual(
            "bad-request", self.keeper.refused(self.session, "-", view=1, attempt=2)[0]
        )

    def test_attempt_does_not_matter(self) -> None:
        """A view needs no higher attempt, and does not raise the session's."""
        self.started()
        self.keeper.watch(self.session, attempt=1)
        self.keeper.watch(self.session, attempt=9)
        self.assertEqual(1, self.keeper.described(self.session)["attempt"])


class OutcomeTests(ViewerCase):
    def test_outcome(self) -> None:
        """Viewers get the rest and the outcome, also when the driver was faster (R9)."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session, limit=2)
        self.print(process, b"last words")
        process.exit(5)
        self.keeper.settle()
        driver.finish()
        self.assertEqual("lost", self.keeper.refused(self.session, "-", attempt=2)[0])
        viewer.tell(BIG)
        self.everything(viewer)
        assert viewer.outcome is not None
        self.assertEqual((b"last words", 5), (viewer.stdout, viewer.outcome["exit_code"]))
        viewer.tell()
        self.assertTrue(viewer.closed())

    def test_outcome_is_not_kept(self) -> None:
        """A viewer has a minute to take the rest; its going leaves the outcome for the driver."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session)
        driver.close()
        process.exit(0)
        self.keeper.advance(59.0)
        self.assertFalse(viewer.closed())
        self.keeper.advance(1.0)
        kinds = []
        while frame := viewer.frame():
            kinds.append(frame[0])
        self.assertEqual(wire.RESET, kinds[-1], "else it reads as a keeper that died")
        self.assertTrue(viewer.closed())
        self.assertEqual("finished", self.keeper.described(self.session)["state"])
        self.assertEqual("ok", self.keeper.attach(self.session, 2).finish()["status"])

    def test_revoked(self) -> None:
        """A revoked session's viewers hear of it as its driver does (S2)."""
        _, process = self.started()
        viewer = self.keeper.watch(self.session)
        control = self.keeper.control()
        control.call("end", sessions=[wire.base64(self.session)], reason="gone")
        process.exit(1)
        self.everything(viewer)
        assert viewer.outcome is not None
        self.assertEqual("revoked", viewer.outcome["code"])

    def test_connection_breaks(self) -> None:
        """A viewer that vanishes, whatever waits for it, leaves nothing behind."""
        driver, process = self.started()
        viewer = self.keeper.watch(self.session, limit=10)
        self.print(process, b"x" * 1000)
        viewer.close()
        self.print(process, b"y")
        process.exit(0)
        self.assertEqual("ok", driver.finish()["status"])
        self.assertEqual(b"x" * 1000 + b"y", driver.stdout)
        self.assertEqual(set(), self.keeper.server._connections)
