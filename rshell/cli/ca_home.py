"""Work of ``rshell ca`` on a gateway's home and on bundles: files in, files out, no link.

The gateway may run or be stopped, or its certificate may have ended so that nobody could reach it.
Whatever is changed is noted for the audit log before (`rshell.identity.ca_journal`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from cryptography import x509

from rshell.client.errors import RshellError
from rshell.gateway.ca_report import InUse, in_use
from rshell.identity.authority import KeyAbsent
from rshell.identity.bundle import (
    BadBundle,
    Bundle,
    WrongPassphrase,
    open_bundle,
    read_bundle,
    seal_bundle,
    write_new,
)
from rshell.identity.ca_journal import note
from rshell.identity.files import UnsafeDirectory, make_private_dir, write_atomic
from rshell.identity.fleet_home import (
    DamagedHome,
    FleetHome,
    GatewayLeaf,
    HomeBusy,
    chain_to_pem,
)
from rshell.identity.gateway_leaf import (
    BadLeaf,
    answer,
    fingerprint,
    judge_chain,
    make_request,
    names_of,
    read_chain,
    read_request,
)
from rshell.identity.keys import BadCertificateRequest, spki_hash
from rshell.identity.revoked import RevokedMemory

__all__ = [
    "LOCK_SECONDS",
    "Installed",
    "certified_beside",
    "certify",
    "export_root",
    "failing",
    "gateway_uses",
    "install_chain",
    "issuer",
    "noted",
    "own_home",
    "remember",
    "request",
    "utc_now",
]

#: A gateway that looks at its home holds the lock for milliseconds, an export for a second.
LOCK_SECONDS = 15.0
#: The gateway looks every second; a loaded machine may take a few.
USE_SECONDS = 10.0


@contextmanager
def failing() -> Iterator[None]:
    """Turn whatever the files are guilty of into one line with a code."""
    try:
        yield
    except WrongPassphrase as error:
        raise RshellError("wrong-passphrase", str(error), "nothing was changed") from None
    except BadBundle as error:
        raise RshellError("bad-bundle", str(error), "") from None
    except BadLeaf as error:
        raise RshellError("bad-certificate", str(error), "the one before stays in use") from None
    except BadCertificateRequest as error:
        raise RshellError("bad-request", str(error), "make one with: rshell ca request") from None
    except KeyAbsent as error:
        hint = "give the bundle that holds it: --bundle FILE"
        raise RshellError("key-away", str(error), hint) from None
    except HomeBusy as error:
        raise RshellError("busy", str(error), "try again in a moment") from None
    except DamagedHome as error:
        raise RshellError("damaged", f"the home is damaged: {error}", "restore it") from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        text = f"{what}{error.strerror or error}"
        raise RshellError("file", text, "nothing was lost; try again when that is put right") from (
            None
        )


def own_home(path: Path) -> FleetHome:
    """Return a gateway's home that this user may work on.

    Raises:
        RshellError: There is none, or it belongs to another user: what is written here would be
            theirs to read.
    """
    path = path.absolute()
    home = FleetHome(path)
    if not home.exists():
        hint = "give a gateway's home: rshell ca --home DIR ..."
        raise RshellError("not-a-home", f"{path} is no gateway's home", hint)
    try:
        make_private_dir(path)
    except UnsafeDirectory as error:
        hint = "run this as the user that the gateway runs as: sudo -u USER rshell ca ..."
        raise RshellError("not-yours", str(error), hint) from None
    return home


def noted(home: FleetHome, kind: str, now: datetime, **details: object) -> None:
    """Announce a change to the audit log, before it happens."""
    note(home.home, f"ca.{kind}", int(now.timestamp() * 1_000_000), details)


def gateway_uses(home: FleetHome, wanted: Callable[[InUse], bool]) -> bool | None:
    """Wait until the running gateway uses what was put in place.

    Returns:
        None if no gateway runs, False if it did not say so in time.
    """
    deadline = time.monotonic() + USE_SECONDS
    while True:
        state = in_use(home.home)
        if state is None or not _alive(state.pid):
            return None
        if wanted(state):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0


# -- the bundle --------------------------------------------------------------------------------


def export_root(home: FleetHome, target: Path, passphrase: str, keep: bool, now: datetime) -> Path:
    """Move the keys of root and gateway CA into a bundle.

    A bundle that an interrupted export of the same keys wrote is taken for done: only what is
    left here is removed.

    Returns:
        The bundle's file.

    Raises:
        RshellError: Nothing was removed here, unless the bundle is complete and proven.
    """
    with failing(), home.locked(LOCK_SECONDS):
        keys = home.load(issuing=True, root=True)
        path = target / f"rshell-{keys.fleet}.bundle" if target.is_dir() else target
        path = path.absolute()
        if path.resolve().is_relative_to(home.home.resolve()):
            raise RshellError(
                "bad-request",
                f"{path} lies in the gateway's home",
                "a bundle belongs onto another disk, best one that is kept in a safe",
            )
        if keys.root.key is None and keys.gateway.key is None:
            raise RshellError(
                "exported",
                "the keys of root and gateway CA were moved away before",
                "see: rshell ca show; check the bundle with: rshell ca check FILE",
            )
        here = Bundle(keys.fleet, keys.root, keys.gateway)
        root = spki_hash(keys.root.certificate.public_key()).hex()
        if not path.exists():
            data = _sealed(here, passphrase)
            noted(home, "export-root", now, bundle=str(path), root=root, kept=keep)
            write_new(path, data)
        elif not keep:
            noted(home, "export-root", now, bundle=str(path), root=root, kept=keep, finished=True)
        _prove(path, here, passphrase)
        if not keep:
            home.remove_exported()
        return path


def _sealed(here: Bundle, passphrase: str) -> bytes:
    if here.root.key is None or here.gateway.key is None:
        raise RshellError(
            "exported",
            "one of the two keys was moved away already: an export was cut short",
            "finish it with the bundle that it wrote: rshell ca export-root FILE",
        )
    return seal_bundle(here, passphrase)


def _prove(path: Path, here: Bundle, passphrase: str) -> None:
    """Check that the file on the disk opens and holds exactly the keys that are here.

    Raises:
        RshellError: It does not.
    """
    with path.open("rb") as file:
        # from the disk, not from the memory it was written from
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        there = open_bundle(read_bundle(path), passphrase)
    except BadBundle as error:
        raise RshellError(
            "exists",
            f"{path} is there and cannot be used: {error}",
            "nothing was removed here; choose another file",
        ) from None
    same = (there.root.certificate, there.gateway.certificate) == (
        here.root.certificate,
        here.gateway.certificate,
    )
    if not same:
        raise RshellError(
            "exists",
            f"{path} holds the keys of another fleet, or older ones",
            "nothing was removed here; choose another file",
        )


def issuer(home: FleetHome | None, bundle: Bundle | None) -> Bundle:
    """Return the authorities to sign with: of the bundle, or those whose keys are in the home.

    Raises:
        RshellError: The bundle is of another fleet than the home.
    """
    if home is None:
        assert bundle is not None
        return bundle
    with failing():
        keys = home.load(issuing=bundle is None, root=bundle is None)
    if bundle is None:
        return Bundle(keys.fleet, keys.root, keys.gateway)
    if bundle.root.certificate != keys.root.certificate:
        raise RshellError("bad-bundle", "the bundle is of another fleet than the home", "")
    return bundle


# -- the gateway's certificate -----------------------------------------------------------------


def request(home: FleetHome, names: Sequence[str], new_key: bool = False) -> bytes:
    """Return a request in PEM, with the names given, else those it has now.

    Args:
        home: Of the gateway; its new key is kept there.
        names: DNS names and addresses.
        new_key: Make another key, although one waits for its certificate.
    """
    with failing(), home.locked(LOCK_SECONDS):
        if not names:
            leaf = home.load_leaf()
            if leaf is None:
                raise RshellError("bad-request", "this home has no certificate yet", "give --name")
            names = names_of(leaf.chain[0])
        try:
            return make_request(home.request_key(fresh=new_key), names)
        except ValueError as error:
            raise RshellError("bad-request", str(error), "") from None


def certified_beside(bundle: Path) -> Path:
    """Return where every certificate made with a bundle is listed: they are no secret."""
    return bundle.with_name(bundle.name + ".certified")


def remember(bundle: Path, leaf: x509.Certificate) -> None:
    """Add a certificate to that list, before it is handed out.

    Raises:
        OSError: The list cannot be written: its disk may be read-only.
    """
    path = certified_beside(bundle.absolute())
    before = path.read_bytes() if path.exists() else b""
    write_atomic(path, before + chain_to_pem((leaf,)))


def certify(
    authorities: Bundle, data: bytes, names: Sequence[str], days: int, now: datetime
) -> tuple[x509.Certificate, ...]:
    """Answer a request.

    Args:
        authorities: With the gateway CA's key.
        data: The request, PEM.
        names: What the gateway may be called; without any, what the request proposes.
        days: How long the certificate holds.
        now: The time, aware.
    """
    with failing():
        asked = read_request(data)
        try:
            return answer(
                authorities.gateway,
                authorities.root.certificate,
                asked,
                names or asked.names,
                timedelta(days=days),
                now,
            )
        except ValueError as error:
            raise RshellError("bad-request", str(error), "") from None


@attrs.frozen
class Installed:
    """A certificate that is in place; ``already`` if it was before."""

    certificate: x509.Certificate
    already: bool


def install_chain(home: FleetHome, data: bytes, force: bool, now: datetime) -> Installed:
    """Put a gateway's certificate in place.

    Args:
        home: Of the gateway.
        data: Leaf, gateway CA and root, PEM.
        force: Also if it lacks a name that the one in use has.
        now: The time, aware.
    """
    with failing(), home.locked(LOCK_SECONDS):
        keys, current, asked = home.load(), home.load_leaf(), home.pending_request()
        chain = read_chain(data)
        if current is not None and chain == current.chain:
            return Installed(chain[0], True)
        held = [asked] if asked is not None else []
        held += [current.key] if current is not None else []
        if not held:
            raise BadLeaf("no certificate was asked for here: rshell ca request")
        wanted = spki_hash(chain[0].public_key())
        key = next((key for key in held if spki_hash(key.public_key()) == wanted), held[0])
        judge_chain(chain, key, keys.gateway.certificate, keys.root.certificate, now)
        if RevokedMemory(home.revoked_path, keys.root.certificate).lists(chain[0]):
            raise BadLeaf("the key of this certificate is revoked: ask with a new one")
        lost = (
            set() if current is None else set(names_of(current.chain[0])) - set(names_of(chain[0]))
        )
        if lost and not force:
            raise RshellError(
                "names",
                f"the certificate is not for {', '.join(sorted(lost))}, as the one in use is",
                "who dials that would be cut off: certify it with --name, or install --force",
            )
        leaf = GatewayLeaf(key, chain)
        noted(home, "install", now, gateway=fingerprint(chain[0]), names=list(names_of(chain[0])))
        home.save_leaf(leaf)
        if asked is not None and key is asked:
            home.answered()
        return Installed(chain[0], False)


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)
