"""Who a key or certificate lets in, by what the store knows, and within which limits.

What it is not: proof that the peer has the key (``authentication.py``), or the connection it then
gets (``door.py``).
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

from rshell.access.printable import printable
from rshell.gateway.core import Gateway
from rshell.gateway.revocation import CertificateUse
from rshell.identity.ssh_certificates import (
    BadCertificate,
    SshCertificate,
    UncheckedCertificate,
)
from rshell.identity.ssh_keys import SshPublicKey
from rshell.store.records import Operator
from rshell.store.times import SECOND

__all__ = ["UNLIMITED", "Credential", "Known", "Limits", "Logins", "NotAdmitted"]

#: What somebody shows; a certificate is checked when its CA is known.
Credential = SshPublicKey | UncheckedCertificate | SshCertificate


@attrs.frozen(kw_only=True)
class Limits:
    """What a login may be used for; roles and devices' policies come on top.

    Attributes:
        command: What runs in place of whatever is asked for; None if anything may.
        pty: Whether it may have terminals.
        forwarding: Whether it may forward connections.
        expires: When it ends, in seconds since 1970 UTC; None if it does not.
    """

    command: bytes | None = None
    pty: bool = True
    forwarding: bool = True
    expires: int | None = None


UNLIMITED = Limits()
#: When a key was used last is for people; a pipeline logs in a hundred times a minute.
USED_SECONDS = 60


@attrs.frozen(kw_only=True)
class Known:
    """Somebody who may come in.

    Attributes:
        credential: What they showed.
        use: By what a revocation finds the connection: a key's fingerprint, or the certificate.
        details: What the audit keeps of it.
        last_used: When somebody came in by it, as far as that is noted; microseconds UTC.
    """

    operator: Operator
    credential: SshPublicKey | SshCertificate
    use: str | CertificateUse
    limits: Limits = UNLIMITED
    details: dict[str, Any]
    last_used: int | None = None

    @property
    def method(self) -> str:
        """``key`` or ``certificate``."""
        return "key" if isinstance(self.use, str) else "certificate"


@attrs.frozen
class NotAdmitted:
    """A certificate of a CA of ours that does not let in; who shows it is told why."""

    why: str


class Logins:
    """Looks credentials up.

    Args:
        gateway: Whose store, revocations and clock.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def find(self, credential: Credential, source: str) -> Known | NotAdmitted | None:
        """Return whom a credential lets in now.

        Args:
            credential: Read, not yet proved.
            source: The peer's address.

        Raises:
            StoreError: The store failed.
        """
        if not isinstance(credential, SshPublicKey):
            return await self._by_certificate(credential, source)
        found = await self._gateway.store.ssh_key(credential.fingerprint)
        if found is None or found[0].blob != credential.blob or not self._active(found[1]):
            return None
        return Known(
            operator=found[1],
            credential=credential,
            use=credential.fingerprint,
            details={"key": credential.fingerprint},
            last_used=found[0].last_used,
        )

    def used(self, known: Known) -> Deferred[None]:
        """Note that somebody came in by it, to a minute: each note costs a commit."""
        store, last = self._gateway.store, known.last_used
        if last is not None and 0 <= self._gateway.now_us() - last < USED_SECONDS * SECOND:
            return succeed(None)
        if isinstance(known.use, str):
            return store.ssh_key_used(known.use)
        return store.ssh_ca_used(known.use.ca)

    def _active(self, operator: Operator) -> bool:
        revoked = self._gateway.revocation.is_revoked("operator", operator.name)
        return operator.active and not revoked

    async def _by_certificate(
        self, shown: UncheckedCertificate | SshCertificate, source: str
    ) -> Known | NotAdmitted | None:
        claimed = shown.claimed if isinstance(shown, UncheckedCertificate) else shown
        verdict = await self._gateway.store.judge_ssh_certificate(
            claimed.ca.fingerprint, claimed.serial, claimed.key_id, claimed.principals
        )
        if verdict is None or verdict.ca.blob != claimed.ca.blob:
            return None
        try:
            certificate = shown.checked() if isinstance(shown, UncheckedCertificate) else shown
        except BadCertificate:
            return None
        if verdict.revoked:
            return NotAdmitted("is revoked")
        why = certificate.time_problem(self._gateway.wall())
        if why is not None:
            return NotAdmitted(why)
        if not certificate.admits_source(source):
            return NotAdmitted("may not be used from this address")
        operators = [one for one in verdict.operators if self._active(one)]
        if not operators:
            named = printable(", ".join(certificate.principals), 80)
            return NotAdmitted(f"names no operator ({named})")
        if len(operators) > 1:
            # As whom they would act must not depend on an order that nobody thought of.
            names = " and ".join(one.name for one in operators[:2])
            return NotAdmitted(f"names several operators ({names}): one is needed")
        told = {
            "ca": verdict.ca.name,
            "ca_key": verdict.ca.fingerprint,
            "id": certificate.key_id,
            # As text: it has 64 bits, more than readers of JSON keep.
            "serial": str(certificate.serial),
        }
        return Known(
            operator=operators[0],
            credential=certificate,
            use=CertificateUse(verdict.ca.fingerprint, certificate.serial, certificate.key_id),
            limits=Limits(
                command=certificate.command,
                pty=certificate.allows_pty,
                forwarding=certificate.allows_forwarding,
                expires=certificate.valid_before,
            ),
            details={"key": certificate.fingerprint, "certificate": told},
            last_used=verdict.ca.last_used,
        )
