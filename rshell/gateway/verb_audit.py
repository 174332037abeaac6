"""What the audit log is told of verbs: a row before one changes anything, and one how it ended.

The first is committed before the work begins, the second before the answer leaves: who was told
that something was done, or was not, finds it written.  What a kill swallows is marked
``interrupted`` at the next start, as it is for sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.logger import Logger

from rshell.access.audit import AuditEnd, AuditRecord
from rshell.access.printable import printable
from rshell.gateway.callers import OpenRefused
from rshell.handlers import BadRequest
from rshell.identity.tls import PeerCertificate
from rshell.link.core.errors import ErrorCode
from rshell.link.core.messages import Open
from rshell.store.errors import StoreError

if TYPE_CHECKING:
    from rshell.gateway.callers import Caller
    from rshell.gateway.core import Gateway

__all__ = ["VerbAudit", "told"]

#: An end repeats what the asker was told; a request's own words are in the first row.
MAX_MESSAGE = 240
#: An answer for each of many says itself which failed; so many are written down.
MAX_FAILED = 100
#: These say that the asker may not; everything else that it failed.
_FORBIDDEN = {ErrorCode.POLICY.value, ErrorCode.REVOKED.value}


def told(error: BaseException | None) -> tuple[str, str] | None:
    """Return code and text of an error that may be told to who asked; None of any other."""
    if isinstance(error, OpenRefused):
        return error.code, error.message
    if isinstance(error, BadRequest):
        return ErrorCode.BAD_REQUEST.value, str(error)
    if isinstance(error, StoreError):
        return error.code, str(error)
    return None


class VerbAudit:
    """Writes the rows of verbs."""

    _log = Logger()

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def opening(
        self, peer: PeerCertificate, caller: Caller | None, request: Open, rule: str
    ) -> int:
        """Commit the row of a verb that is about to run; return its number.

        Raises:
            StoreError: It could not be written, so nothing may be done.
        """
        row = self._row(peer, caller, request)
        granted = {"rule": rule} if caller and rule else {}
        return await self._gateway.store.append_audit(
            attrs.evolve(row, opens=True, details={**row.details, **granted})
        )

    async def refusal(
        self, peer: PeerCertificate, caller: Caller | None, request: Open, reason: str
    ) -> None:
        """Write that the asker's roles did not grant it."""
        await self._gateway.store.append_audit(
            attrs.evolve(
                self._row(peer, caller, request),
                status="refused",
                code=ErrorCode.POLICY.value,
                message=reason,
            )
        )

    async def failed(self, row: int, error: Exception) -> None:
        """Write that it failed, or was refused after all."""
        code, message = told(error) or (ErrorCode.INTERNAL.value, "the gateway failed")
        await self._end(
            AuditEnd(
                refers=row,
                status="refused" if code in _FORBIDDEN else "error",
                code=printable(code, 64),
                message=printable(message, MAX_MESSAGE),
            )
        )

    async def done(self, row: int, answer: Any) -> None:
        """Write that it was done; of an answer for each of many, for which it was not."""
        of_many = isinstance(answer, list) and all(isinstance(one, dict) for one in answer)
        failed = [one for one in answer if not one.get("ok", True)] if of_many else []
        if not failed:
            await self._end(AuditEnd(refers=row, status="ok"))
            return
        each = [
            {"wanted": printable(str(one.get("wanted", "")), 64), "code": str(one.get("code", ""))}
            for one in failed[:MAX_FAILED]
        ]
        none = len(failed) == len(answer)
        await self._end(
            AuditEnd(
                refers=row,
                status="error" if none else "ok",
                code=each[0]["code"] or None if none else None,
                message=f"{len(failed)} of {len(answer)} failed",
                details={"failed": each},
            )
        )

    async def _end(self, end: AuditEnd) -> None:
        try:
            await self._gateway.store.finish_audit(end)
        except StoreError as error:
            # What was done is done: its end is kept until the store takes it.
            self._gateway.audit_spool.keep(end, error)
        except Exception:
            self._log.failure("the audit could not be written")

    def _row(self, peer: PeerCertificate, caller: Caller | None, request: Open) -> AuditRecord:
        name = peer.name.name
        return AuditRecord(
            kind=request.handler,
            operator=name if caller else None,
            device=None if caller else name,
            door=caller.door if caller else None,
            address=caller.address if caller else None,
            details={"request": request.request} if caller else {},
        )
