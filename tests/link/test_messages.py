"""Control payloads are strict: section 4 to 9, rules W6 and W7."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core import messages
from rshell.link.core.constants import MAX_OFFSET
from rshell.link.core.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rshell.link.core.messages import (
    Event,
    GoAway,
    Hello,
    Join,
    Joined,
    Open,
    Opened,
    Outcome,
    Positions,
    Refused,
    Reset,
    SessionReport,
    Sessions,
    Welcome,
    decode,
    decode_event,
    encode,
    encode_event,
)
from tests.link.pairs import SESSION, hello, request, welcome

SESSION_TEXT = base64.b64encode(SESSION).decode()
OPEN = {"handler": "exec", "session": SESSION_TEXT}
STRICT: list[tuple[type[Struct], dict[str, Any]]] = [
    (GoAway, {"code": "none"}),
    (Open, OPEN),
    (Opened, {"consumed": 0, "limit": 0, "events": 0}),
    (Refused, {"code": "policy"}),
    (Reset, {"code": "lost"}),
    (Sessions, {}),
    (Positions, {"consumed": 0, "limit": 0, "events": 0}),
]
EXAMPLES: list[Struct] = [
    hello(boot_id="b", facts={"os": "arch"}, policy=messages.PolicyState("d", "broken")),
    welcome(epoch=2**33, renew_only=True),
    GoAway(code="shutdown", message="bye", alternatives=["a.example:7411"]),
    request(resume=Positions(1, 2, 3), attempt=2),
    request(request={"argv": ["bHM="], "deep": [[[1]]]}),
    Opened(1, 2, 3, 4),
    Refused("policy", "no"),
    Reset("link-lost"),
    Sessions(sessions=[SessionReport(session=SESSION, operator="ann", handler="shell")], more=True),
    Sessions(end=[SESSION], acknowledged=[bytes(16)]),
    Join(kind="device", id=bytes(8), secret=bytes(20), csr=b"der"),
    Joined(chain="c", root="r", fleet="f", id="i", name="n", gateways=["g:7411"], time_ms=1),
]


def raw(document: Any) -> bytes:
    return json.dumps(document).encode()


class Base(SynchronousTestCase):
    """Shared assertions."""

    def refused(self, payload: bytes, kind: type[Struct]) -> str:
        """Check that a payload is a protocol error, and return its reason."""
        error = self.assertRaises(RemoteProtocolError, decode, payload, kind)
        self.assertIs(error.code, ErrorCode.PROTOCOL)
        self.assertTrue(error.reason.isprintable(), error.reason)
        self.assertLess(len(error.reason), 256)
        return str(error.reason)


class RoundTripTests(SynchronousTestCase):
    """What is encoded is decoded."""

    def test_every_kind(self) -> None:
        """Each kind of message survives encoding and decoding."""
        for message in EXAMPLES:
            self.assertEqual(decode(encode(message), type(message)), message)

    @given(
        st.binary(min_size=16, max_size=16),
        st.integers(1, 2**31),
        st.integers(0, MAX_OFFSET),
        st.none() | st.builds(Positions, *[st.integers(0, MAX_OFFSET)] * 3),
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=5,
            ),
            max_size=5,
        ),
    )
    def test_open(
        self,
        session: bytes,
        attempt: int,
        limit: int,
        resume: Positions | None,
        body: dict[str, Any],
    ) -> None:
        """An OPEN survives with any session, positions and request."""
        message = Open(
            handler="x", session=session, attempt=attempt, limit=limit, resume=resume, request=body
        )
        self.assertEqual(decode(encode(message), Open), message)

    @given(st.integers(1, MAX_OFFSET), st.integers(0, MAX_OFFSET), st.text(max_size=64))
    def test_event(self, seq: int, at: int, text: str) -> None:
        """An event survives with its body."""
        payload = encode_event(seq, at, "progress", {"note": text})
        self.assertEqual(decode_event(payload), Event(seq, at, "progress", {"note": text}))

    def test_starting(self) -> None:
        """A relay states either a resume or a limit, never both."""
        start = Positions(5, 9, 1)
        self.assertEqual(request().starting(start, resuming=True).resume, start)
        self.assertEqual(request().starting(start, resuming=True).limit, 0)
        fresh = request(resume=start).starting(start, resuming=False)
        self.assertIsNone(fresh.resume)
        self.assertEqual(fresh.start, Positions(0, 9, 0))

    def test_secrets_are_not_shown(self) -> None:
        """A join's repr holds no secret."""
        join = Join(kind="device", id=bytes(8), secret=b"s" * 20, csr=b"")
        self.assertNotIn("ssss", repr(join))

    def test_too_long_to_send(self) -> None:
        """What does not fit into a frame is our error, with a text fit for a user."""
        error = self.assertRaises(
            LocalProtocolError, encode, request(request={"argv": "x" * 20_000})
        )
        self.assertIn("at most 16,376", str(error))
        self.assertRaises(LocalProtocolError, encode_event, 1, 0, "progress", {"n": "x" * 20_000})


class StrictTests(Base):
    """What a peer may not say."""

    def test_unknown_keys(self) -> None:
        """Outside HELLO and WELCOME an unknown key is an error that does not quote it (W7)."""
        for kind, document in STRICT:
            decode(raw(document), kind)
            reason = self.refused(raw(document | {"sneaky": 1}), kind)
            self.assertNotIn("sneaky", reason)

    def test_unknown_keys_inside(self) -> None:
        """Inside a resume and a session's report too."""
        positions = {"consumed": 0, "limit": 0, "events": 0, "more": 1}
        self.refused(raw(OPEN | {"resume": positions}), Open)
        report = {"session": SESSION_TEXT, "operator": "a", "handler": "b", "more": 1}
        self.refused(raw({"sessions": [report]}), Sessions)

    def test_reserved_keys(self) -> None:
        """The keys kept for signed commands must be absent in version 1."""
        for key in ("job", "not_after", "sig"):
            self.refused(raw(OPEN | {key: 1}), Open)

    def test_greetings_ignore_unknown_keys(self) -> None:
        """HELLO and WELCOME of a later version are understood, at every depth (W7)."""
        document = json.loads(encode(hello(clock=messages.Clock(1, 2))))
        document["later"] = {"a": [1]}
        document["clock"]["later"] = document["protocol"]["later"] = 1
        self.assertEqual(decode(raw(document), Hello), hello(clock=messages.Clock(1, 2)))
        document = json.loads(encode(welcome())) | {"later": 1}
        self.assertEqual(decode(raw(document), Welcome), welcome())

    def test_wrong_types(self) -> None:
        """No value is converted: a string is no number, a number no string, 1.0 no flag."""
        for key, value in [
            ("attempt", "1"),
            ("attempt", 1.5),
            ("attempt", True),
            ("handler", 5),
            ("request", []),
            ("request", None),
            ("session", None),
            ("session", [1] * 16),
            ("session", "!" * 24),
            ("device", 1),
            ("resume", []),
        ]:
            self.refused(raw(OPEN | {key: value}), Open)
        self.refused(raw({"sessions": [], "more": 1}), Sessions)

    def test_missing(self) -> None:
        """A required key may not be absent."""
        for key in OPEN:
            self.refused(raw({k: v for k, v in OPEN.items() if k != key}), Open)
        for kind in (Hello, Welcome, GoAway, Opened, Refused, Reset):
            self.refused(b"{}", kind)

    def test_ranges(self) -> None:
        """Every number has a range and every text a length."""
        for key, value in [
            ("attempt", 0),
            ("attempt", 2**31 + 1),
            ("age_ms", -1),
            ("limit", -1),
            ("limit", 2**63),
            ("limit", 10**40),
            ("session", base64.b64encode(bytes(15)).decode()),
            ("session", base64.b64encode(bytes(17)).decode()),
            ("handler", ""),
            ("handler", "Shell"),
            ("handler", "9p"),
            ("handler", "a" * 65),
            ("handler", "exec\n"),
            ("device", "d" * 65),
            ("resume", {"consumed": -1, "limit": 0, "events": 0}),
        ]:
            self.refused(raw(OPEN | {key: value}), Open)
        self.refused(raw({"code": "none", "message": "m" * 257}), GoAway)
        for key, value in [("dial", 0), ("protocol", {"min": 0, "max": 1}), ("instance", "AAAA")]:
            self.refused(raw(json.loads(encode(hello())) | {key: value}), Hello)
        for value in (0, 999, 3_600_001):
            self.refused(raw(json.loads(encode(welcome())) | {"heartbeat_ms": value}), Welcome)

    def test_reserved_keys_and_edges_that_pass(self) -> None:
        """The largest allowed values pass."""
        document = OPEN | {"attempt": 2**31, "limit": MAX_OFFSET, "handler": "a" + "-" * 63}
        self.assertEqual(decode(raw(document), Open).limit, MAX_OFFSET)

    def test_not_json(self) -> None:
        """NaN, infinity, a byte order mark, bad UTF-8, comments and two values are refused (W6)."""
        body = raw(OPEN)[:-1]
        for payload in [
            b"",
            b"null",
            b"[]",
            b"{",
            b"\xef\xbb\xbf" + raw(OPEN),
            raw(OPEN) + raw(OPEN),
            body + b',"age_ms":NaN}',
            body + b',"request":{"a":NaN}}',
            body + b',"request":{"a":Infinity}}',
            body + b',"request":{"a":1e999}}',
            body + b',"request":{"a":"\xff"}}',
            body + b',"request":{"a":"\xed\xa0\x80"}}',
            body + b',"request":{"a":"\\ud800"}}',
            body + b',"request":{"a":01}}',
            body + b',"request":{"a":1}/**/}',
            body + b",}",
            raw(OPEN).decode().encode("utf-16"),
        ]:
            self.refused(payload, Open)

    def test_repeated_keys(self) -> None:
        """Of a repeated key the last value counts, once; there is no second reading to attack."""
        body = raw(OPEN)[:-1] + b',"device":"a","device":"b"}'
        opening = decode(body, Open)
        self.assertEqual(opening.device, "b")
        self.assertEqual(encode(opening).count(b'"device"'), 1)

    def test_huge_numbers(self) -> None:
        """A number of thousands of digits is refused or harmless, never slow and never a crash."""
        for digits in (400, 5000, 16_000):
            payload = raw(OPEN)[:-1] + b',"limit":' + b"9" * digits + b"}"
            self.refused(payload, Open)
            self.assertRaises(
                RemoteProtocolError,
                decode_event,
                b'{"seq":' + b"9" * digits + b',"at":0,"kind":"x"}',
            )

    def test_depth(self) -> None:
        """JSON nested 16 deep passes, 17 deep is refused, whatever holds it (W6)."""

        def nested(depth: int) -> bytes:
            inner = depth - 2
            return raw(OPEN)[:-1] + b',"request":{"a":' + b"[" * inner + b"]" * inner + b"}}"

        self.assertEqual(decode(nested(16), Open).handler, "exec")
        self.assertIn("16", self.refused(nested(17), Open))
        self.refused(nested(8000), Open)
        self.refused(b"[" * 16_000, Open)
        event = b'{"seq":1,"at":0,"kind":"x","a":' + b"[" * 16 + b"]" * 16 + b"}"
        self.assertRaises(RemoteProtocolError, decode_event, event)

    def test_depth_counts_no_brackets_in_strings(self) -> None:
        """Brackets in texts, even behind escaped quotes, and many flat lists are not nesting."""
        body = {"a": '[[{{"\\' * 50, '"[[[[[[[[[[[[[[[[[[[[': 1, "flat": [[]] * 500}
        self.assertEqual(decode(raw(OPEN | {"request": body}), Open).request, body)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, payload: bytes) -> None:
        """Arbitrary bytes are a message or a protocol error, for every kind."""
        for kind in (Hello, Open, Sessions, Joined):
            try:
                decode(payload, kind)
            except RemoteProtocolError:
                pass
        try:
            decode_event(payload)
        except RemoteProtocolError:
            pass

    def test_reasons_are_harmless(self) -> None:
        """An error's text holds no escape sequence and no line break of the peer's."""
        self.refused(raw(OPEN | {"\x1b]0;owned\x07\n": 1}), Open)
        self.refused(raw(OPEN | {"resume": {"\x1b[2J" * 100: 1}}), Open)


class EventPayloadTests(Base):
    """EVENT: the envelope is judged, the body is not (E1)."""

    def test_envelope(self) -> None:
        """seq, at and kind must be there and in range."""
        good: dict[str, Any] = {"seq": 1, "at": 0, "kind": "x"}
        self.assertEqual(decode_event(raw(good)), Event(1, 0, "x", {}))
        changes: list[dict[str, Any]] = [
            {"seq": 0},
            {"seq": -1},
            {"seq": True},
            {"seq": 1.0},
            {"seq": "1"},
            {"seq": None},
            {"seq": 2**63},
            {"at": -1},
            {"at": False},
            {"at": 2**63},
            {"kind": 1},
            {"kind": "k" * 65},
            {"kind": None},
        ]
        for change in changes:
            self.assertRaises(RemoteProtocolError, decode_event, raw(good | change))
        for payload in (b"[]", b"null", b"", b"{}", b'{"seq":NaN}'):
            self.assertRaises(RemoteProtocolError, decode_event, payload)

    def test_body(self) -> None:
        """Keys that the kind brings are kept as they came."""
        event = decode_event(raw({"seq": 3, "at": 9, "kind": "window", "rows": 24, "x": [1]}))
        self.assertEqual(event, Event(3, 9, "window", {"rows": 24, "x": [1]}))

    def test_outcome_in_sessions(self) -> None:
        """An outcome that nobody collected travels in SESSIONS."""
        report = SessionReport(
            session=SESSION,
            operator="ann",
            handler="exec",
            state="finished",
            outcome=Outcome(status="exit", exit_code=3),
        )
        self.assertEqual(decode(encode(Sessions([report])), Sessions).sessions, [report])


class ErrorCodeTests(SynchronousTestCase):
    """Rule C0."""

    def test_unknown(self) -> None:
        """A code that is not known reads as internal."""
        self.assertIs(ErrorCode.read("link-lost"), ErrorCode.LINK_LOST)
        self.assertIs(ErrorCode.read("from-the-future"), ErrorCode.INTERNAL)
