"""The test vectors of docs/protocol.md section 14 say what the code does, both ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from twisted.trial.unittest import SynchronousTestCase

from rshell.link.core.constants import ALLOWED_FLAGS, FrameFlag, FrameType
from rshell.link.core.frames import Frame, encode_frame
from rshell.link.core.messages import (
    Advice,
    GoAway,
    Hello,
    Join,
    Joined,
    Open,
    Opened,
    Refused,
    Reset,
    Sessions,
    Welcome,
    decode,
    decode_event,
    encode,
    encode_event,
)
from tests.link.pairs import frames_of

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
KINDS: Final[dict[int, type[Struct]]] = {
    FrameType.HELLO: Hello,
    FrameType.WELCOME: Welcome,
    FrameType.GOAWAY: GoAway,
    FrameType.SESSIONS: Sessions,
    FrameType.ADVICE: Advice,
    FrameType.OPEN: Open,
    FrameType.OPENED: Opened,
    FrameType.REFUSED: Refused,
    FrameType.RESET: Reset,
    FrameType.JOIN: Join,
    FrameType.JOINED: Joined,
}


def vectors() -> list[tuple[bytes, dict[str, Any]]]:
    """Read the fenced lines between the markers."""
    text = DOCUMENT.read_text("utf-8")
    match = re.search(r"<!-- vectors -->\n```text\n(.*?)\n```\n<!-- /vectors -->", text, re.DOTALL)
    assert match is not None, "docs/protocol.md has no vectors"
    pairs = (line.split("  ", 1) for line in match[1].splitlines())
    return [(bytes.fromhex(wire), json.loads(said)) for wire, said in pairs]


def payload_of(frame: Frame) -> bytes:
    """Encode again what a frame's payload means."""
    if frame.type == FrameType.EVENT:
        event = decode_event(frame.payload)
        return encode_event(event.seq, event.at, event.kind, event.body)
    if frame.type in KINDS:
        return encode(decode(frame.payload, KINDS[frame.type]))
    return frame.payload


class VectorTests(SynchronousTestCase):
    """Section 14."""

    def test_decode(self) -> None:
        """Each line's bytes are one frame that says what the line says."""
        for wire, said in vectors():
            (frame,) = frames_of(wire)
            name = FrameType(frame.type).name
            shown: Any = frame.payload.hex()
            if frame.type in KINDS or frame.type == FrameType.EVENT:
                shown = json.loads(frame.payload)
            got = {"type": name, "flags": frame.flags, "stream": frame.stream, "payload": shown}
            self.assertEqual(got, said)

    def test_encode(self) -> None:
        """What each line says is encoded to exactly its bytes."""
        for wire, said in vectors():
            (frame,) = frames_of(wire)
            kind = FrameType[said["type"]]
            again = encode_frame(kind, said["stream"], payload_of(frame), said["flags"])
            self.assertEqual(again.hex(), wire.hex())

    def test_complete(self) -> None:
        """Every frame type and every flag has a line."""
        lines = [said for _, said in vectors()]
        self.assertEqual({FrameType[said["type"]] for said in lines}, set(FrameType))
        for kind, allowed in ALLOWED_FLAGS.items():
            seen = 0
            for said in lines:
                if FrameType[said["type"]] == kind:
                    seen |= said["flags"]
            self.assertEqual(seen, allowed, FrameType(kind).name)
        both = FrameFlag.EOF | FrameFlag.STDERR
        self.assertTrue(any(said["flags"] == both for said in lines))
        self.assertTrue(any("resume" in said["payload"] for said in lines))
        self.assertTrue(any("gap" in said["payload"] for said in lines))
