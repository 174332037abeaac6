"""Which operator this is, and where the gateway listens: found on disk, nothing is dialled.

A *profile* is a directory with a `CredentialStore`.  On the gateway's own machine that is
``HOME/admin``, with the address in ``HOME/endpoints.json``; elsewhere it is what ``rshell join``
wrote, with the addresses among the credentials.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs
import msgspec

from rshell.client.errors import NotConfigured
from rshell.identity.credentials import Credentials, CredentialsDamaged, CredentialStore
from rshell.identity.keys import BadKey
from rshell.link.addresses import split_address

__all__ = ["Profile", "default_directory", "find_profile"]

_JOIN_HINT = (
    "ask an administrator for: rshell invite operator NAME --role ROLE, then: rshell join JOIN"
)
#: Addresses a socket binds to, and where to dial such a socket on the same machine.
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, never bound


class _Endpoints(msgspec.Struct, frozen=True):
    links: str


@attrs.frozen
class Profile:
    """An operator's identity on this machine.

    Attributes:
        directory: where the credentials are.
        store: reads and renews them.
        credentials: as they were when the profile was loaded.
        addresses: gateways to dial, "host:port" each, in order.
        local: whether this is the local administrator on the gateway's machine.
    """

    directory: Path
    store: CredentialStore
    credentials: Credentials = attrs.field(repr=False)
    addresses: tuple[str, ...]
    local: bool = False

    @classmethod
    def load(cls, directory: Path) -> Profile:
        """Read what ``rshell join`` wrote.

        Raises:
            NotConfigured: there are no usable credentials, or no gateway to dial.
        """
        store, credentials = _credentials(directory)
        if not credentials.gateways:
            raise NotConfigured(f"the profile {directory} names no gateway", _JOIN_HINT)
        return cls(directory, store, credentials, credentials.gateways)

    @classmethod
    def of_gateway(cls, home: Path) -> Profile:
        """Read the local administrator's credentials and the running gateway's address.

        Raises:
            NotConfigured: the credentials are unusable, or no gateway runs there.
        """
        store, credentials = _credentials(home / "admin")
        hint = f"start it with: twistd -n rshell --home {home}"
        try:
            content = (home / "endpoints.json").read_bytes()
            host, port = split_address(msgspec.json.decode(content, type=_Endpoints).links)
        except FileNotFoundError:
            raise NotConfigured("the gateway on this machine is not running", hint) from None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise NotConfigured(f"{home}/endpoints.json cannot be used: {error}", hint) from None
        host = _ANY_ADDRESS.get(host, host)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(home / "admin", store, credentials, (address,), local=True)


def default_directory(environ: Mapping[str, str]) -> Path:
    """Return where ``rshell join`` puts a profile if no directory is given."""
    config = environ.get("XDG_CONFIG_HOME", "")
    base = Path(config) if config.startswith("/") else _user_home(environ) / ".config"
    return base / "rshell"


def find_profile(home: str | None, environ: Mapping[str, str]) -> Profile:
    """Return the profile a command uses.

    Args:
        home: what ``--home`` says: a gateway's home, or a directory that ``join`` wrote.  None
            looks at ``$RSHELL_HOME``, then the operator's own profile, then the places where
            a gateway on this machine has its home.
        environ: the environment: ``RSHELL_HOME``, ``XDG_CONFIG_HOME``, ``HOME``.

    Raises:
        NotConfigured: there is none that can be used; the hint says how to get one.
    """
    if home is not None:
        directory = Path(home).absolute()
        return Profile.of_gateway(directory) if _is_gateway(directory) else Profile.load(directory)
    named = environ.get("RSHELL_HOME", "")
    if named and _is_gateway(Path(named)):
        return Profile.of_gateway(Path(named).absolute())
    own = default_directory(environ)
    if (own / "identity").exists():
        return Profile.load(own)
    for place in (Path("/var/lib/rshell"), _user_home(environ) / ".local" / "state" / "rshell"):
        if _is_gateway(place):
            return Profile.of_gateway(place)
    raise NotConfigured("this machine is no operator's yet", _JOIN_HINT)


def _user_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or "~").expanduser()


def _is_gateway(home: Path) -> bool:
    """Whether a gateway's administrator lives there and may be read by this user."""
    admin = home / "admin"
    try:
        return admin.is_dir() and os.access(admin, os.R_OK | os.X_OK)
    except OSError:
        return False


def _credentials(directory: Path) -> tuple[CredentialStore, Credentials]:
    store = CredentialStore(directory)
    try:
        found = store.load()
    except (CredentialsDamaged, BadKey, OSError) as error:
        raise NotConfigured(
            f"the credentials in {directory} cannot be used: {error}", _JOIN_HINT
        ) from None
    if found is None:
        raise NotConfigured(f"there are no operator's credentials in {directory}", _JOIN_HINT)
    return store, found
