"""The door of links: what an operator's link may say, and when."""

from __future__ import annotations

from rshell.link.core.constants import FrameType
from rshell.link.core.errors import LocalProtocolError
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import GoAway, Open, SessionReport, Sessions, encode
from tests.gateway.fleet import FleetTestCase


class LinkDoorTests(FleetTestCase):
    def test_stream_before_welcome(self) -> None:
        """An OPEN sent before WELCOME is a protocol error, and nothing is opened (rule W5)."""
        device = self.fleet.dial(self.pump)
        self.fleet.threads.hold("write")
        end = self.fleet.dial(self.ann)
        request = Open(handler="exec", session=bytes(16), device="pump-1")
        end.wire.dialler.write(encode_frame(FrameType.OPEN, 1, encode(request)))
        self.fleet.pump()
        self.fleet.threads.release()
        self.fleet.pump()
        self.assertEqual(end.told, "protocol")
        self.assertIsNone(end.welcome)
        self.assertEqual(device.requests, [])

    def test_unadmitted_link(self) -> None:
        """The door refuses a stream of a link that it has not admitted, whoever asks."""
        end = self.fleet.dial(self.ann)
        self.fleet.door._callers[end.gateway_link] = None
        talk = end.call("gateway.whoami")
        self.fleet.pump()
        self.assertEqual(talk.code, "auth")

    def test_sessions_of_an_operator(self) -> None:
        """SESSIONS from an operator is not answered: only devices have sessions."""
        end = self.fleet.dial(self.ann)
        report = SessionReport(session=bytes(16), operator="ann", handler="exec")
        end.link.sessions(Sessions([report]))
        self.fleet.pump()
        self.assertEqual((end.answers, end.told), ([], None))

    def test_goaway_lets_streams_finish(self) -> None:
        """After an operator's GOAWAY what runs goes on."""
        operator, device = self.both()
        talk = operator.call("exec", device="pump-1")
        self.fleet.pump()
        far = device.accept()
        operator.link.go_away(GoAway(code="none"), close=False)
        far.channel.write(b"still here")
        self.fleet.pump()
        self.assertEqual(bytes(talk.data), b"still here")

    def test_two_links_of_one_operator(self) -> None:
        """Operators may be connected several times; the end of one link is not the other's."""
        first, second = self.fleet.dial(self.ann), self.fleet.dial(self.ann)
        first.wire.cut()
        self.fleet.pump()
        talk = second.call("gateway.whoami")
        self.fleet.pump()
        self.assertEqual(talk.answer()["name"], "ann")
        self.assertEqual(len(self.fleet.gateway._links), 1)

    def test_gateway_is_not_welcomed(self) -> None:
        """A WELCOME at the gateway is a fault of ours, not a way in."""
        end = self.fleet.dial(self.ann)
        with self.assertRaises(LocalProtocolError):
            self.fleet.door.welcome_received(end.gateway_link, end.welcome)

    def test_silent_operator(self) -> None:
        """An operator's link that is silent for a minute is aborted and forgotten (rule L2)."""
        end = self.fleet.dial(self.ann)
        end.wire.held = True
        self.fleet.advance(61)
        self.assertTrue(end.wire.gateway.aborted)
        self.assertEqual(self.fleet.gateway._links, set())
        self.assertEqual(self.fleet.gateway.revocation._operators, {})
