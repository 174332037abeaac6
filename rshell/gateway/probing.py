"""Is this device there, now?  One PING on its current link, shared by all who ask.

The PONG proves life, and measures the round trip.  So do other bytes that come so long after the
PING that they cannot have been on their way when it was sent.  A link that has been silent for
longer than a heartbeat allows is asked once by itself (silences.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rshell.gateway.presence import LiveDevice
from rshell.gateway.silences import Silences
from rshell.link.clock import WheelTimer

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["PROBE_SECONDS", "Answer", "Probes"]

#: Every answer is given within this; the wheel may add a tick, so waiting ends a little before.
PROBE_SECONDS = 5.0
_WAIT_SECONDS = PROBE_SECONDS - 0.5
#: An answer that is younger is given again: nobody can make us send more than one PING a second.
FRESH_SECONDS = 1.0
#: What was on its way, in a proxy or a busy machine, when a PING was sent has arrived after this.
UNDER_WAY_SECONDS = 1.0


@attrs.frozen
class Answer:
    """What came of a PING.

    Attributes:
        alive: something came back, or a newer link of the device came.
        rtt_seconds: the last round trip that was measured, None if never.
        waited_seconds: from the PING to the answer, or to giving up.
    """

    alive: bool
    rtt_seconds: float | None
    waited_seconds: float
    message: str


@attrs.define(eq=False)
class _Question:
    """A PING that is out, and those who wait for what it brings.

    Attributes:
        at: when it was sent.
        heard: when the device was heard last, before.
    """

    live: LiveDevice
    at: float
    heard: float
    waiting: list[Deferred[Answer]] = attrs.field(factory=list)
    answer: Answer | None = None
    timer: WheelTimer | None = None

    @property
    def stale(self) -> bool:
        """Whether the answer was no, and the device has been heard since."""
        answer = self.answer
        return answer is not None and not answer.alive and self.live.link.last_received > self.heard


class Probes:
    """Asks devices whether they are there.

    Attributes:
        silences: finds those that fell silent; told of each device that arrives.
    """

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wheel = gateway.wheel
        #: By device id: the question that is out, or was answered a moment ago.
        self._questions: dict[str, _Question] = {}
        self.silences = Silences(gateway, self._ask)

    def start(self) -> None:
        """Begin to ask those that fell silent."""
        self.silences.start()

    def stop(self) -> None:
        """Ask no more; who waits is answered."""
        self.silences.stop()
        for question in list(self._questions.values()):
            if question.answer is None:
                self._give(question, alive=False, message="the gateway is going down")
            if question.timer is not None:
                question.timer.cancel()
        self._questions.clear()

    def ask(self, live: LiveDevice) -> Deferred[Answer]:
        """Ask a live device; fires within `PROBE_SECONDS`, and never fails."""
        told: Deferred[Answer] = Deferred()
        question = self._questions.get(live.device.id)
        if question is None or question.live is not live or question.stale:
            if question is not None and question.answer is None:
                self._look(question)
            question = self._begin(live)
        if question.answer is not None:
            told.callback(question.answer)
        else:
            question.waiting.append(told)
        return told

    def _ask(self, live: LiveDevice) -> None:
        self.ask(live)

    def _begin(self, live: LiveDevice) -> _Question:
        question = _Question(live, self._wheel.seconds(), live.link.last_received)
        self._questions[live.device.id] = question
        live.link.probe()
        question.timer = self._wheel.call_later(0.0, lambda: self._look(question))
        return question

    def _look(self, question: _Question) -> None:
        """See, with every tick of the wheel, whether something came."""
        live, link = question.live, question.live.link
        current = self._gateway.presence.find(live.device.id)
        answered = link.last_pong is not None and link.last_pong >= question.at
        if answered or link.last_received > question.at + UNDER_WAY_SECONDS:
            self._give(question, alive=True, message="it answered")
        elif current is not None and current is not live:
            self._give(question, alive=True, message="it came back on a newer link meanwhile")
        elif current is None or link.closed:
            self._give(question, alive=False, message="its link was lost while it was asked")
        elif self._wheel.seconds() - question.at >= _WAIT_SECONDS:
            self._give(question, alive=False, message=f"no answer within {PROBE_SECONDS:g} s")
        else:
            question.timer = self._wheel.call_later(0.0, lambda: self._look(question))

    def _give(self, question: _Question, *, alive: bool, message: str) -> None:
        if question.timer is not None:
            question.timer.cancel()
        waited = self._wheel.seconds() - question.at
        answer = Answer(alive, question.live.link.rtt_seconds, waited, message)
        question.answer = answer
        waiting, question.waiting = question.waiting, []
        question.timer = self._wheel.call_later(FRESH_SECONDS, lambda: self._forget(question))
        for told in waiting:
            told.callback(answer)

    def _forget(self, question: _Question) -> None:
        if self._questions.get(question.live.device.id) is question:
            del self._questions[question.live.device.id]
