"""Making this machine an operator's: the join exchange, and the profile it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rshell.client.errors import ConnectionFailed, NotConfigured, RshellError
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.files import UnsafeDirectory
from rshell.identity.join_string import JoinString
from rshell.identity.joining import JoinFailed, join

__all__ = ["join_operator"]


async def join_operator(
    reactor: Any, directory: Path, join_string: JoinString, *, replace: bool = False
) -> Credentials:
    """Join as the operator who was invited, and store the credentials.

    The key is on disk before it is used, so a join whose answer was lost can be repeated.

    Args:
        reactor: Twisted's.
        directory: The profile to be; made with mode 0700 if absent.
        join_string: Of ``rshell invite operator``.
        replace: Whether credentials that are there already may be replaced.

    Returns:
        The credentials, as stored.

    Raises:
        NotConfigured: The directory is not private or cannot be written.
        RshellError: Code ``already-joined``; or the answer cannot be used.
        ConnectionFailed: The gateway could not be reached, or refused; its code.
    """
    store = CredentialStore(directory)
    _check_free(store, directory, replace)
    try:
        key = store.pending_key()
    except (UnsafeDirectory, OSError) as error:
        raise NotConfigured(
            f"cannot write {directory}: {error}", "choose another with: --home DIR"
        ) from None
    try:
        joined = await join(reactor, join_string, "operator", key, None, {})
    except JoinFailed as error:
        raise ConnectionFailed(error.code, error.message, _hint(error.code)) from None
    root, chain = joined.root.encode("ascii"), joined.chain.encode("ascii")
    try:
        credentials = Credentials.new(key, chain, root, tuple(joined.gateways))
        store.save(credentials)
    except (CredentialsDamaged, OSError) as error:
        raise RshellError("internal", f"the join cannot be stored: {error}", "") from None
    return credentials


def _check_free(store: CredentialStore, directory: Path, replace: bool) -> None:
    try:
        found = store.load()
    except (CredentialsDamaged, OSError):
        return
    if found is not None and not replace:
        raise RshellError(
            "already-joined",
            f"{directory} is already operator {found.name.name}'s",
            "join into another directory with --home DIR, or add --replace",
        )


def _hint(code: str) -> str:
    if code == "auth":
        return "a join string works once and expires: ask for a new one"
    return "can this machine reach the gateway? Then try the same join string again"
