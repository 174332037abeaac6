"""``Store``'s calls about the index of recordings; see ``store.py`` for how they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from rshell.store import recordings
from rshell.store.recordings import NewRecording, Recording, RecordingFilter, RecordingProgress

__all__ = ["RecordingCalls"]


class RecordingCalls:
    """The part of ``Store`` about recordings."""

    _now: Callable[[], int]

    @abstractmethod
    def _write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in the writer's thread: `Store` does."""

    @abstractmethod
    def _read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in a reader's thread: `Store` does."""

    def begin_recording(self, recording: NewRecording) -> Deferred[Recording]:
        """Note that a session is recorded; a second time returns what is there."""
        return self._write(recordings.begin, recording, self._now())

    def update_recording(self, session: str, progress: RecordingProgress) -> Deferred[None]:
        """Write down how far a recording has come, or that it ended."""
        return self._write(recordings.update_one, session, progress)

    def recording(self, session: str) -> Deferred[list[Recording]]:
        """Return the recordings whose session's id begins so; two at most."""
        return self._read(recordings.find, session)

    def recordings(self, wanted: RecordingFilter, limit: int) -> Deferred[list[Recording]]:
        """Return recordings, newest first."""
        return self._read(recordings.listed, wanted, limit)

    def recordings_open(self) -> Deferred[list[Recording]]:
        """Return those that have not ended, oldest first."""
        return self._read(recordings.unended)

    def recordings_to_drop(self, before: int, keep_bytes: int) -> Deferred[list[Recording]]:
        """Return ended ones that are too old, or more than *keep_bytes* of newer ones follow."""
        return self._read(recordings.surplus, before, keep_bytes)

    def drop_recording(self, session: str) -> Deferred[None]:
        """Forget a recording."""
        return self._write(recordings.drop, session)
