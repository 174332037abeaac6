"""What the gateway's verbs about joining answer, typed; see `rshell.client.records`."""

from __future__ import annotations

from msgspec import Struct, field

__all__ = ["Decision", "Invitation", "Invite", "InvitedKey", "PendingDevice"]


class Invitation(Struct, frozen=True, kw_only=True):
    """A join string.  Its repr shows nothing of it.

    ``id`` names the invite in listings.  ``mode``: its devices ``join`` at once, wait for somebody
    to ``accept`` them, or are known by ``keys``.
    """

    join: str
    expires_at: str | None = None
    uses: int = 1
    id: str = ""
    mode: str = "join"

    def __repr__(self) -> str:
        return f"Invitation(expires_at={self.expires_at!r})"


class InvitedKey(Struct, frozen=True, kw_only=True):
    """A key whose device may join by proving that it has it."""

    fingerprint: str
    name: str | None = None


class Invite(Struct, frozen=True, kw_only=True):
    """An invite as listings show it; the secret of its join string is nowhere.

    ``state`` is ``open``, ``spent``, ``expired`` or ``revoked``; ``waiting`` is how many devices
    wait to be accepted; ``public``: its join string holds no secret.  ``keys`` are those whose
    devices have not joined yet, if they were asked for.
    """

    id: str
    kind: str
    state: str = "open"
    mode: str = "join"
    public: bool = False
    name: str | None = None
    pattern: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    roles: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    uses: int = 0
    uses_max: int = 1
    waiting: int = 0
    created_by: str = ""
    created_at: str | None = None
    expires_at: str | None = None
    keys: list[InvitedKey] | None = None


class PendingDevice(Struct, frozen=True, kw_only=True):
    """A device that waits to be accepted.

    ``fingerprint`` is its key's, to be compared with what ``rshell-agent join`` shows on it.
    ``name`` is what it proposed; ``within``: it matches the pattern of the invite.  ``labels`` are
    those that the invite sets.  ``full``: which bounds are reached, so that nobody else may wait:
    ``source`` (where it asks from), ``invite``, ``all``.
    """

    fingerprint: str
    name: str
    pattern: str | None = None
    within: bool = True
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    source: str = ""
    first_seen: str | None = None
    last_seen: str | None = None
    invite: str = ""
    invited_by: str = ""
    full: list[str] = field(default_factory=list)


class Decision(Struct, frozen=True, kw_only=True):
    """What became of a device that was accepted or rejected.

    ``wanted`` is what was asked for; ``code`` and ``message`` say why not, if not ``ok``.
    ``provisional``: it is in, but its name is not what its invite expects, and no role matches it
    before somebody renames it.
    """

    wanted: str
    ok: bool
    fingerprint: str | None = None
    name: str | None = None
    id: str | None = None
    provisional: bool = False
    code: str | None = None
    message: str | None = None
