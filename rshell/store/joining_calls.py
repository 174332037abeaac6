"""``Store``'s calls about invites and devices that wait; see ``store.py`` for how they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from rshell.store import accepting, pending, token_keys, tokens
from rshell.store.pending_records import Applicant, KnownKey, PendingDevice, Waiting
from rshell.store.records import (
    Device,
    NewToken,
    OwnerKind,
    Token,
    TokenGrant,
    TokenRefused,
)

__all__ = ["JoiningCalls"]

_NOBODY = Applicant()


class JoiningCalls:
    """The part of ``Store`` about who may join."""

    _now: Callable[[], int]

    @abstractmethod
    def _write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in the writer's thread: `Store` does."""

    @abstractmethod
    def _read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in a reader's thread: `Store` does."""

    # -- invites -----------------------------------------------------------------------

    def add_token(self, token: NewToken, known: Sequence[KnownKey] = ()) -> Deferred[None]:
        """Keep an invite, and the keys it is for; see ``rshell.store.tokens``."""
        return self._write(tokens.add_token, token, self._now(), known)

    def add_token_keys(self, token_id: bytes, known: Sequence[KnownKey]) -> Deferred[int]:
        """Add keys to an invite that is for keys, all or none; fires with how many it has."""
        return self._write(token_keys.add, token_id, known, self._now())

    def token_keys(self, token_id: bytes) -> Deferred[list[KnownKey]]:
        """Return the keys of an invite whose devices have not joined yet."""
        return self._read(token_keys.of_invite, token_id)

    def remove_token_key(self, prefix: bytes) -> Deferred[KnownKey]:
        """Forget a known key, by the first bytes of its hash."""
        return self._write(token_keys.remove, prefix)

    def use_token(
        self,
        token_id: bytes,
        secret_hash: bytes,
        spki: bytes,
        kind: OwnerKind,
        applicant: Applicant = _NOBODY,
    ) -> Deferred[TokenGrant | TokenRefused | Waiting]:
        """Use an invite for a key, atomically; see ``rshell.store.tokens``.

        A grant with ``certificate`` repeats an earlier answer.  Otherwise go on with
        ``enrol_device`` or ``enrol_operator``, then ``keep_certificate``.
        """
        return self._write(
            tokens.use_token, token_id, secret_hash, spki, kind, self._now(), applicant
        )

    def knows_joiner(self, spki: bytes) -> Deferred[bool]:
        """Say whether a key waits, or was accepted or known beforehand."""
        return self._read(tokens.knows, spki)

    def keep_certificate(
        self, grant: TokenGrant, certificate: str, not_after: int
    ) -> Deferred[str]:
        """Keep the PEM issued for a grant; fires with the PEM to answer with."""
        return self._write(tokens.keep_certificate, grant, certificate, not_after)

    def tokens(self) -> Deferred[list[Token]]:
        """Return the invites that hold and the newest others, newest first, without hashes."""
        return self._read(tokens.find_tokens, self._now())

    def token(self, token_id: bytes) -> Deferred[Token]:
        """Return one invite."""
        return self._read(tokens.find_token, token_id)

    def revoke_token(self, token_id: bytes) -> Deferred[None]:
        """Void an invite."""
        return self._write(tokens.revoke_token, token_id)

    # -- devices that wait -------------------------------------------------------------

    def pending(self) -> Deferred[list[PendingDevice]]:
        """Return the devices that wait to be accepted, the newest last."""
        return self._read(pending.find, self._now())

    def count_pending(self) -> Deferred[int]:
        """Return how many devices wait."""
        return self._read(pending.count)

    def accept_pending(
        self, spki: bytes, name: str | None, labels: Mapping[str, str]
    ) -> Deferred[tuple[Device, PendingDevice]]:
        """Make a device of one that waits; see ``rshell.store.accepting``."""
        return self._write(accepting.accept, spki, name, labels, self._now())

    def reject_pending(self, spki: bytes) -> Deferred[PendingDevice | None]:
        """Refuse one that waits, and its key for a day; None if it does not wait."""
        return self._write(pending.reject, spki, self._now())

    def expire_pending(self) -> Deferred[list[PendingDevice]]:
        """Remove those that ask no more; fires with them."""
        return self._write(pending.expire, self._now())
