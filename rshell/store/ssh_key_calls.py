"""``Store``'s calls about SSH keys and their CAs; see ``store.py`` for how they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from rshell.identity.ssh_keys import SshPublicKey
from rshell.store import ssh_cas, ssh_keys
from rshell.store.records import Operator, SshCa, SshKey
from rshell.store.ssh_cas import CaVerdict, RevokedBy, RevokedCertificate

__all__ = ["SshKeyCalls"]


class SshKeyCalls:
    """The part of ``Store`` about who logs in by SSH."""

    _now: Callable[[], int]

    @abstractmethod
    def _write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in the writer's thread: `Store` does."""

    @abstractmethod
    def _read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it in a reader's thread: `Store` does."""

    def add_ssh_keys(self, operator: str, keys: Sequence[SshPublicKey]) -> Deferred[list[SshKey]]:
        """Let an operator log in with public keys, all of them or none."""
        made = [
            SshKey(
                operator=operator,
                fingerprint=key.fingerprint,
                type=key.type,
                blob=key.blob,
                comment=key.comment,
                added_at=self._now(),
            )
            for key in keys
        ]
        return self._write(ssh_keys.add_all, made)

    def ssh_keys(self, operator: str | None = None) -> Deferred[list[SshKey]]:
        """Return the SSH keys of an operator, or everybody's."""
        return self._read(ssh_keys.keys_of, operator)

    def ssh_key(self, fingerprint: str) -> Deferred[tuple[SshKey, Operator] | None]:
        """Return an SSH key and whose it is; ask ``operator.active`` before admitting."""
        return self._read(ssh_keys.find, fingerprint)

    def ssh_key_used(self, fingerprint: str) -> Deferred[None]:
        """Note that somebody logged in with an SSH key."""
        return self._write(ssh_keys.used, fingerprint, self._now())

    def remove_ssh_key(self, operator: str, fingerprint: str) -> Deferred[SshKey]:
        """Forget an SSH key of an operator."""
        return self._write(ssh_keys.remove, operator, fingerprint)

    # -- certificates --------------------------------------------------------------------

    def add_ssh_ca(
        self, name: str, fingerprint: str, kind: str, blob: bytes, comment: str
    ) -> Deferred[SshCa]:
        """Let certificates of a key in, which the caller checked."""
        ca = SshCa(
            name=name,
            fingerprint=fingerprint,
            type=kind,
            blob=blob,
            comment=comment,
            added_at=self._now(),
        )
        return self._write(ssh_cas.add, ca)

    def ssh_cas(self) -> Deferred[list[SshCa]]:
        """Return all CAs by name."""
        return self._read(ssh_cas.cas)

    def ssh_ca_revocations(self) -> Deferred[list[RevokedCertificate]]:
        """Return what is revoked of them."""
        return self._read(ssh_cas.revocations)

    def judge_ssh_certificate(
        self, ca: str, serial: int, key_id: str, principals: Collection[str]
    ) -> Deferred[CaVerdict | None]:
        """Return what is known to a certificate of the CA with that fingerprint."""
        return self._read(ssh_cas.judge, ca, serial, key_id, tuple(principals))

    def ssh_ca_used(self, fingerprint: str) -> Deferred[None]:
        """Note that somebody logged in by a CA's certificate."""
        return self._write(ssh_cas.used, fingerprint, self._now())

    def remove_ssh_ca(self, name: str) -> Deferred[SshCa]:
        """Forget a CA; what was revoked of it stays so."""
        return self._write(ssh_cas.remove, name)

    def revoke_ssh_certificates(self, name: str, by: RevokedBy, value: str) -> Deferred[SshCa]:
        """Revoke the certificates of a CA with a serial number or a key id."""
        return self._write(ssh_cas.revoke, name, by, value, self._now())
