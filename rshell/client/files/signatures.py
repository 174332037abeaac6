"""Asking a device how a file of its looks, block by block."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from rshell.client.files.compression import unpack
from rshell.client.files.delta import RECORD, Signature, block_size_for
from rshell.client.files.device_end import DeviceEnd
from rshell.client.files.frames import DATA_OUT, REPLY
from rshell.client.files.records import Entry, FilesError
from rshell.client.files.state import CopyState

__all__ = ["Described", "fetch_signature"]


@attrs.frozen
class Described:
    """A file on a device, described.

    Attributes:
        entry: What it was meanwhile.
        signature: Of its blocks.
        digest: Of the whole.
    """

    entry: Entry
    signature: Signature
    digest: str


class _Answer:
    def __init__(self, most: int) -> None:
        self.head: dict[str, Any] = {}
        self.payloads: list[bytes] = []
        self._left = most

    def __call__(self, kind: int, payload: bytes) -> None:
        if kind == REPLY:
            self.head = msgspec.json.decode(payload)
        elif kind == DATA_OUT and self._left > 0:
            self._left -= len(payload)
            self.payloads.append(payload)


async def fetch_signature(
    state: CopyState, device: DeviceEnd, path: bytes, size: int
) -> Described | None:
    """Return the description of a file.

    Args:
        state: Of the copy.
        device: Whose file.
        path: There.
        size: What the file had when it was listed.

    Returns:
        None if there is none to be had: it may not be read, or is another file by now.

    Raises:
        RshellError: The session ended, or the copy was stopped.
    """
    block = block_size_for(size)
    # Twice what it should be: the device decides how the records are cut.
    answer = _Answer(2 * RECORD.size * (size // block + 1) + 65536)
    fields = {"path": path, "block": block}
    try:
        end = await device.connection.begin("signature", fields, receiver=answer).done
    except FilesError:
        if device.ended:
            raise
        return None
    state.check()
    try:
        return await state.in_thread(_built, answer, block, end)
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError):
        return None


def _built(answer: _Answer, block: int, end: dict[str, Any]) -> Described:
    entry = Entry.decode(answer.head["entry"])
    signature = Signature(block, int(end["size"]))
    for payload in answer.payloads:
        signature.add(bytes(unpack(payload)))
    signature.seal()
    return Described(entry, signature, str(end["digest"]))
