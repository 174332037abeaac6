"""The join exchange on one connection (section 11): one JOIN, one answer, fifteen seconds."""

from __future__ import annotations

from typing import Any

from rshell.gateway.joining import REFUSED_TEXT
from rshell.identity.join_string import new_token, token_hash
from rshell.identity.keys import make_csr, new_key
from rshell.link.core.constants import FrameType
from rshell.link.core.frames import Frame, FrameReader, encode_frame
from rshell.link.core.messages import GoAway, Join, Joined, decode, encode
from rshell.store.records import NewToken
from tests.gateway.fleet import FleetTestCase
from tests.gateway.wires import MemoryTransport


class ExchangeTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.transport = MemoryTransport("192.0.2.77", 5)
        self.exchange = self.fleet.gateway.joiner("192.0.2.77:5")
        self.exchange.makeConnection(self.transport)

    def answers(self) -> list[Frame]:
        """Return the frames that were sent."""
        reader = FrameReader()
        reader.feed(b"".join(self.transport.sent))
        frames = []
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
        return frames

    def goaway(self) -> GoAway:
        """Return the one answer, which must be GOAWAY."""
        (frame,) = self.answers()
        self.assertEqual(frame.type, FrameType.GOAWAY)
        self.assertTrue(self.transport.disconnecting)
        return decode(frame.payload, GoAway)

    def join(self, **more: Any) -> bytes:
        """Return a JOIN frame for a fresh invite, changed by ``more``."""
        token_id, secret = new_token()
        self.fleet.got(
            self.fleet.store.add_token(
                NewToken(
                    id=token_id,
                    secret_hash=token_hash(secret),
                    kind="device",
                    expires_at=int((self.fleet.wall() + 60) * 1e6),
                    created_by="ann",
                )
            )
        )
        fields = {"kind": "device", "id": token_id, "secret": secret, "csr": make_csr(new_key())}
        return encode_frame(FrameType.JOIN, 0, encode(Join(**(fields | more))))

    def test_joined(self) -> None:
        """A good JOIN, even byte by byte, is answered with JOINED, and the gateway closes."""
        for byte in self.join(name="valve"):
            self.exchange.dataReceived(bytes([byte]))
        (frame,) = self.answers()
        joined = decode(frame.payload, Joined)
        self.assertEqual((joined.name, joined.fleet), ("valve", self.fleet.home.keys.fleet))
        self.assertEqual(joined.gateways, ["gw.example.net:7411"])
        self.assertTrue(self.transport.disconnecting)

    def test_bad_frames(self) -> None:
        """Frames that are no JOIN end the connection with protocol or frame-size."""
        good = self.join()
        for data, code in (
            (encode_frame(FrameType.HELLO, 0, b"{}"), "protocol"),
            (encode_frame(FrameType.JOIN, 1, good[8:]), "protocol"),
            (encode_frame(FrameType.JOIN, 0, b"{}"), "protocol"),
            (encode_frame(FrameType.JOIN, 0, b"\xff\xfe"), "protocol"),
            (encode_frame(FrameType.JOIN, 0, b"[" * 9000), "protocol"),
            (encode_frame(FrameType.JOIN, 0, good[8:-1] + b',"x":1}'), "protocol"),
            (b"\x20\x00\xff\xff\x00\x00\x00\x00", "frame-size"),
            (b"\x09\x00\x00\x00\x00\x00\x00\x00", "protocol"),
            (b"GET / HTTP/1.1\r\n\r\n", "frame-size"),
        ):
            self.transport = MemoryTransport("192.0.2.77", 5)
            self.exchange = self.fleet.gateway.joiner("192.0.2.77:5")
            self.exchange.makeConnection(self.transport)
            self.exchange.dataReceived(data)
            self.assertEqual(self.goaway().code, code, data[:20])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_bad_certificate_request(self) -> None:
        """A request that proves no key is refused without using the invite up."""
        self.exchange.dataReceived(self.join(csr=b"0000"))
        self.assertEqual(self.goaway().code, "bad-request")
        used = [token.uses for token in self.fleet.got(self.fleet.store.tokens())]
        self.assertEqual(sorted(used), [0, 1], "one is the device's that was there before")

    def test_wrong_secret(self) -> None:
        """A wrong secret is answered with the one text."""
        self.exchange.dataReceived(self.join(secret=b"?" * 20))
        self.assertEqual(self.goaway(), GoAway(code="auth", message=REFUSED_TEXT))

    def test_one_exchange(self) -> None:
        """A second JOIN on the same connection is not looked at (rule J6)."""
        self.exchange.dataReceived(self.join() + self.join())
        self.exchange.dataReceived(self.join())
        self.assertEqual(len(self.answers()), 1)
        self.assertEqual(len(self.fleet.got(self.fleet.store.find_devices())), 2)

    def test_one_guess_while_the_store_answers(self) -> None:
        """More guesses sent while the first is judged are not judged."""
        self.fleet.threads.hold("write")
        for _ in range(3):
            self.exchange.dataReceived(self.join_frame_without_invite())
        self.fleet.threads.release()
        self.assertEqual(len(self.answers()), 1)

    @staticmethod
    def join_frame_without_invite() -> bytes:
        """Return a JOIN with a made-up invite."""
        token_id, secret = new_token()
        join = Join(kind="device", id=token_id, secret=secret, csr=make_csr(new_key()))
        return encode_frame(FrameType.JOIN, 0, encode(join))

    def test_fifteen_seconds(self) -> None:
        """A joiner that says nothing, or half a JOIN, is cut off after fifteen seconds."""
        self.exchange.dataReceived(self.join()[:-1])
        self.fleet.clock.advance(14.5)
        self.assertFalse(self.transport.aborted)
        self.fleet.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_joiner_that_does_not_read(self) -> None:
        """A joiner that does not take its answer is cut off two seconds later."""
        self.exchange.dataReceived(self.join())
        self.fleet.clock.advance(2.5)
        self.assertTrue(self.transport.aborted)

    def test_joiner_gone_before_the_answer(self) -> None:
        """A joiner that is gone when the store answers is not written to; it may ask again."""
        frame = self.join()
        self.fleet.threads.hold("write")
        self.exchange.dataReceived(frame)
        self.exchange.connectionLost()
        self.fleet.threads.release()
        self.assertEqual(self.transport.sent, [])
        self.fleet.clock.advance(20)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_store_fails(self) -> None:
        """A failing store answers internal, and tells a stranger nothing of this machine."""
        frame = self.join()
        self.fleet.got(self.fleet.store.close())
        self.exchange.dataReceived(frame)
        answer = self.goaway()
        self.assertEqual(answer.code, "internal")
        self.assertNotIn("/", answer.message)

    def test_no_secret_in_repr(self) -> None:
        """The repr of a JOIN shows no secret."""
        secret = b"\x01\x02secret-secret-012"
        join = Join(kind="device", id=bytes(8), secret=secret.ljust(20), csr=b"")
        self.assertNotIn("secret-", repr(join))
