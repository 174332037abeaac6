"""What an operator's end answers a device whose change waits; and the steps of a reboot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rshell.client.confirming import Confirmer, GuardEvent
from rshell.handlers import BadRequest, Confirm, ExecRequest, RebootRequest, decode_request
from rshell.handlers.reboot import encode_argument, read_steps

GOOD = {"status": "ok", "exit_code": 0}
FAILED = {"status": "exit", "exit_code": 3}


class FakeSession:
    def __init__(self) -> None:
        self.session_id = bytes(16)
        self.device = "pump-1"
        self.sent: list[str] = []

    def send_event(self, kind: str, body: dict[str, Any] | None = None) -> None:
        self.sent.append(kind)


class ConfirmerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session: Any = FakeSession()
        self.told: list[str] = []
        self.questions: list[Callable[[bool], None]] = []

    def confirmer(self, **options: Any) -> Confirmer:
        return Confirmer(told=lambda device, word, event: self.told.append(word), **options)

    def hear(self, confirmer: Confirmer, **body: Any) -> list[str]:
        confirmer.heard(self.session, "guard", {"left_ms": 1000, "command": GOOD, **body})
        return list(self.session.sent)

    def test_fresh(self) -> None:
        """What ended well is confirmed over a fresh link, and over no other."""
        confirmer = self.confirmer()
        self.assertEqual([], self.hear(confirmer, fresh=False))
        self.assertEqual([], self.hear(confirmer, fresh=False))
        self.assertEqual(["confirm"], self.hear(confirmer, fresh=True))
        self.assertEqual(["waiting", "confirming"], self.told)

    def test_again(self) -> None:
        """An answer that was lost with its link is given again."""
        confirmer = self.confirmer()
        self.hear(confirmer, fresh=True)
        self.assertEqual(["confirm", "confirm"], self.hear(confirmer, fresh=True))

    def test_failed(self) -> None:
        """What failed, or of which no end is known, is not confirmed unless that was asked for."""
        for command in (FAILED, None, {}, {"status": 7}):
            self.assertEqual([], self.hear(self.confirmer(), fresh=True, command=command))
        keeps = self.confirmer(keep_failed=True)
        self.assertEqual(["confirm"], self.hear(keeps, fresh=True, command=None))

    def test_malformed(self) -> None:
        """A device that talks rubbish gets no confirmation; other events are not looked at."""
        confirmer = self.confirmer(keep_failed=True)
        for body in ({"fresh": 1}, {"fresh": "true"}, {"left_ms": "x", "fresh": True},
                     {"command": [], "fresh": True}):  # fmt: skip
            self.assertEqual([], self.hear(confirmer, **body))
        confirmer.heard(self.session, "progress", {"fresh": True})
        self.assertEqual([], self.session.sent)

    def test_ask(self) -> None:
        """A person is asked once, and decides."""

        def ask(event: GuardEvent, answer: Callable[[bool], None]) -> None:
            self.questions.append(answer)

        for good, sent in ((True, "confirm"), (False, "rollback")):
            self.session = FakeSession()
            self.questions.clear()
            confirmer = self.confirmer(ask=ask)
            self.assertEqual([], self.hear(confirmer, fresh=True))
            self.assertEqual([], self.hear(confirmer, fresh=True))
            (answer,) = self.questions
            answer(good)
            self.assertEqual([sent], self.session.sent)


class RequestTests(SynchronousTestCase):
    def test_reboot(self) -> None:
        """Requests out of range are refused by their own type."""
        self.assertEqual("reboot", decode_request({}, RebootRequest).action)
        for request in ({"action": "halt"}, {"delay_seconds": 86_401}, {"delay_seconds": -1},
                        {"reason": "a\nb"}, {"reason": "x" * 201}, {"job": "x"},
                        {"command": ["rm"]}):  # fmt: skip
            with self.assertRaises(BadRequest):
                decode_request(request, RebootRequest)
        argument = encode_argument(RebootRequest(delay_seconds=5))
        self.assertEqual({"action": "reboot", "delay_seconds": 5}, argument)

    def test_confirm(self) -> None:
        """So are those of a change, and one that is good goes there and back."""
        request = ExecRequest(argv=[b"x"], confirm=Confirm(seconds=5, rollback=b"\xff"))
        plain = msgspec.to_builtins(request)
        self.assertEqual(request, decode_request(plain, ExecRequest))
        for confirm in ({"seconds": 4, "rollback": "eA=="}, {"seconds": 60},
                        {"seconds": 60, "rollback": ""}, {"rollback": "eA=="},
                        {"seconds": 86_401, "rollback": "eA=="},
                        {"seconds": 60, "rollback": "eA==", "more": 1}):  # fmt: skip
            with self.assertRaises(BadRequest):
                decode_request({"argv": ["eA=="], "confirm": confirm}, ExecRequest)

    def test_steps(self) -> None:
        """Steps are read line by line, however they are cut; what is none is passed over."""
        text = b'{"step":"accepted","job":"a"}\nrubbish\n{"step":1}\n\xff\n{"step":"going"}\n'
        buffer, steps = bytearray(), []
        for byte in text:
            buffer.append(byte)
            steps += read_steps(buffer)
        self.assertEqual(["accepted", "going"], [step.step for step in steps])
        buffer = bytearray(b"x" * 100_000)
        self.assertEqual([], read_steps(buffer))
        self.assertEqual(0, len(buffer))
