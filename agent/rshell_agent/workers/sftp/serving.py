"""The conversation: packets from one descriptor, answers to another, in order, in large pieces.

Input is read into one buffer and packets are handled where they lie, so that what a WRITE carries
is not copied.  Answers are gathered while whole packets are at hand and written together: a client
that asks ahead, as all do, costs one system call for many small answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rshell_agent.workers.sftp import extensions, files, folders, paths, wire
from rshell_agent.workers.sftp.failures import Failed, reply_for, word_for
from rshell_agent.workers.sftp.state import State
from rshell_agent.workers.sftp.wire import BadPacket, Fields, Reply

__all__ = ["Broken", "Conversation"]

_REQUESTS: dict[int, Callable[[State, Fields], Reply]] = {
    **files.REQUESTS,
    **folders.REQUESTS,
    **paths.REQUESTS,
    wire.EXTENDED: extensions.extended,
}

#: Input at hand: the largest packet, and what comes meanwhile.
INPUT_BYTES = 2 * (wire.MAX_PACKET + 4)
#: Answers are written when they are so many bytes: as much as a pipe usually takes at once.
BATCH_BYTES = 64 * 1024
_NO_GREETING = "the input does not begin with an SFTP greeting"
#: Pieces that one writev(2) takes (IOV_MAX).
MAX_PIECES = 1024


class Broken(Exception):
    """Input after which nothing can be read any more; its text is one line for the operator."""


class _Packets:
    """Cuts what is read into packets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._view = memoryview(bytearray(INPUT_BYTES))
        self._start = self._end = 0

    def next(self) -> memoryview | None:
        """Return the next whole packet, without its length; None if there is none yet.

        It is valid until `fill` is called.

        Raises:
            Broken: The length is none that a packet can have.
        """
        waiting = self._end - self._start
        if waiting < 4:
            return None
        size = int.from_bytes(self._view[self._start : self._start + 4], "big")
        if not 5 <= size <= wire.MAX_PACKET:
            raise Broken(f"a packet of {size:,} bytes; they have 5 to {wire.MAX_PACKET:,}")
        if waiting < 4 + size:
            return None
        begin = self._start + 4
        self._start = begin + size
        return self._view[begin : self._start]

    def fill(self) -> bool:
        """Wait for more input; False at its end.

        Raises:
            Broken: It ended inside of a packet.
        """
        waiting = self._end - self._start
        if self._start and (not waiting or self._end == len(self._view)):
            self._view[:waiting] = self._view[self._start : self._end]
            self._start, self._end = 0, waiting
        count = os.readv(self._descriptor, [self._view[self._end :]])
        self._end += count
        if not count and waiting:
            raise Broken("the input ended inside of a packet")
        return count > 0


class Conversation:
    """Serves one client.

    Args:
        state: The session's.
        source: A blocking descriptor to read from.
        sink: A blocking descriptor to write to.
    """

    def __init__(self, state: State, source: int, sink: int) -> None:
        self._state = state
        self._packets = _Packets(source)
        self._sink = sink
        self._waiting: list[bytes] = []
        self._size = 0
        self._greeted = False

    def run(self) -> None:
        """Serve until the input ends.

        Raises:
            Broken: The client does not speak SFTP; what it was owed before has been written.
        """
        try:
            while True:
                packet = self._next()
                if packet is not None:
                    self._handle(packet)
                    continue
                self._flush()
                if not self._packets.fill():
                    return
        finally:
            self._state.abandon()
            self._flush()

    def _next(self) -> memoryview | None:
        try:
            return self._packets.next()
        except Broken:
            if self._greeted:
                raise
            raise Broken(_NO_GREETING) from None  # a length of text says less than that

    def _handle(self, packet: memoryview) -> None:
        kind, number = packet[0], int.from_bytes(packet[1:5], "big")
        if not self._greeted:
            self._greet(kind)
            return
        if kind in (wire.INIT, wire.VERSION):
            raise Broken("a second greeting")
        self._send(number, self._answer(kind, packet[5:]))

    def _greet(self, kind: int) -> None:
        """Answer INIT: 3 is the only version there is here, whatever the client would like."""
        if kind != wire.INIT:
            raise Broken(_NO_GREETING)
        self._greeted = True
        body = wire.u32(wire.VERSION_NUMBER) + extensions.VERSIONS
        self._put(wire.u32(1 + len(body)) + bytes([wire.VERSION]))
        self._put(body)

    def _answer(self, kind: int, packet: memoryview) -> Reply:
        request = _REQUESTS.get(kind)
        if request is None:
            return wire.status(wire.OP_UNSUPPORTED, f"no request of type {kind}")
        try:
            reply = request(self._state, Fields(packet))
        except (Failed, OSError, BadPacket) as error:
            self._state.answered(word_for(error))
            return reply_for(error)
        self._state.answered()
        return reply

    def _send(self, number: int, reply: Reply) -> None:
        kind, parts = reply
        self._put(wire.head(kind, number, sum(map(len, parts))))
        for part in parts:
            self._put(part)
        if self._size >= BATCH_BYTES:
            self._flush()

    def _put(self, part: bytes) -> None:
        self._waiting.append(part)
        self._size += len(part)

    def _flush(self) -> None:
        self._state.touches.flush()
        pieces: list[bytes | memoryview] = list(self._waiting)
        self._waiting.clear()
        self._size = 0
        first = 0
        while first < len(pieces):
            written = os.writev(self._sink, pieces[first : first + MAX_PIECES])
            while first < len(pieces) and written >= len(pieces[first]):
                written -= len(pieces[first])
                first += 1
            if written:
                pieces[first] = memoryview(pieces[first])[written:]
