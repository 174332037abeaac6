"""What a gateway answers itself, as methods: the part of `rshell.client.Client` about the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from rshell.client.commands import Collected
from rshell.client.errors import ConnectionFailed, Refused, RshellError
from rshell.client.evidence import Evidence
from rshell.client.join_verbs import JoinVerbs
from rshell.client.outcomes import Outcome, describe_outcome
from rshell.client.records import (
    Device,
    DeviceFacts,
    Doors,
    Handler,
    LinkRecord,
    Probe,
    SessionInfo,
    SshKey,
    Whoami,
)
from rshell.client.role_verbs import RoleVerbs
from rshell.client.session import Session
from rshell.client.ssh_ca_verbs import SshCaVerbs
from rshell.client.uplink import Uplink
from rshell.link.core.errors import ErrorCode

__all__ = ["GatewayVerbs"]

#: A listing of ten thousand devices is some 10 MB.
MAX_ANSWER_BYTES = 256 * 1024 * 1024
#: Verbs that change nothing: asked again when the link broke before the answer was there.
_READ_ONLY = frozenset(
    {
        "audit",
        "audit-key",
        "audit-rows",
        "audit-verify",
        "ca",
        "devices",
        "doors",
        "facts",
        "handlers",
        "invites",
        "keys.list",
        "metrics",
        "operators",
        "pending",
        "probe",
        "recording",
        "recordings",
        "roles.check",
        "roles.list",
        "sessions",
        "whoami",
        "why",
    }
)


class GatewayVerbs(Evidence, JoinVerbs, RoleVerbs, SshCaVerbs):
    """Asks a gateway.

    Args:
        uplink: Connected.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    async def call_gateway(self, verb: str, request: Mapping[str, Any] | None = None) -> Any:
        """Ask the gateway itself.

        When the link breaks meanwhile, a verb that only reads is asked again, for the time of the
        grace; one that changes something fails with ``link-lost``: it may or may not have happened.

        Args:
            verb: The handler's name without ``gateway.``, for example ``devices``.
            request: Its request.

        Returns:
            The JSON document that it answered.

        Raises:
            Refused: It did not, or said why not.
            ConnectionFailed: There is no link, or it broke.
        """
        return _decoded(await self._answer(verb, request), verb)

    async def _answer(self, verb: str, request: Mapping[str, Any] | None) -> bytes:
        wheel, first_lost = self._uplink.wheel, None
        while True:
            session, collected = self._open_verb(verb, request)
            outcome = await session.outcome
            if outcome.status == "ok":
                return collected.stdout
            sent = session.attempt > 0
            first_lost = wheel.seconds() if first_lost is None else first_lost
            again = sent and verb in _READ_ONLY and outcome.code == ErrorCode.LINK_LOST
            in_time = wheel.seconds() - first_lost < self._uplink.grace_seconds
            # With a link that still stands, another try would end as this one did.
            if not again or not in_time or self._uplink.link or self._uplink.refusal:
                raise _refusal(outcome, verb, sent=sent)

    def _open_verb(self, verb: str, request: Mapping[str, Any] | None) -> tuple[Session, Collected]:
        collected = Collected(MAX_ANSWER_BYTES)
        session = Session(self._uplink, None, f"gateway.{verb}", collected)
        session.start(msgspec.to_builtins(dict(request or {})))
        session.write_eof()
        return session, collected

    async def _ask(self, verb: str, kind: Any, request: Mapping[str, Any]) -> Any:
        return _decoded(await self._answer(verb, request), verb, kind)

    async def devices(self, selector: str = "", *, facts: Iterable[str] = ()) -> list[Device]:
        """Return the devices that a selector picks; all that may be seen if it is empty.

        Args:
            selector: As in ``rshell devices``.
            facts: Names of facts to bring with each, besides the few that it always tells.

        Raises:
            Refused: The selector is wrong (code ``bad-request``), or the role forbids it.
        """
        request: dict[str, Any] = {"selector": selector}
        if names := sorted(set(facts)):
            request["facts"] = names  # an older gateway does not know the key
        found: list[Device] = await self._ask("devices", list[Device], request)
        return found

    async def facts(self, device: str) -> DeviceFacts:
        """Return what a device told of itself last; it need not be connected.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        answer: DeviceFacts = await self._ask("facts", DeviceFacts, {"device": device})
        return answer

    async def handlers(self, device: str | None = None) -> list[Handler]:
        """Return the handlers of a device, or the gateway's own for None.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        found: list[Handler] = await self._ask("handlers", list[Handler], {"device": device})
        return found

    async def label(
        self, device: str, put: Mapping[str, str], remove: Iterable[str] = ()
    ) -> Device:
        """Set and remove labels of a device, and return it.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        request = {"device": device, "set": dict(put), "remove": sorted(remove)}
        labelled: Device = await self._ask("label", Device, request)
        return labelled

    async def rename(self, device: str, name: str) -> Device:
        """Give a device another name, and return it; its own name accepts a provisional one.

        Raises:
            Refused: There is no such device, the name is taken or none, or the role forbids it.
        """
        renamed: Device = await self._ask("rename", Device, {"device": device, "name": name})
        return renamed

    async def revoke(self, kind: str, name: str) -> int:
        """Take a device's or operator's rights away, for good, and end its links; void an invite.

        Args:
            kind: ``device``, ``operator`` or ``invite``.
            name: Which; of an invite its id, or the fingerprint of one key in it.

        Returns:
            How many links were closed.

        Raises:
            Refused: There is no such one, or the role forbids it.
        """
        answer = await self.call_gateway("revoke", {"kind": kind, "name": name})
        closed = answer.get("links_closed", 0) if isinstance(answer, dict) else 0
        return closed if isinstance(closed, int) else 0

    async def doors(self) -> Doors:
        """Return where the gateway's other doors are, and by which keys they are known."""
        answer: Doors = await self._ask("doors", Doors, {})
        return answer

    async def whoami(self) -> Whoami:
        """Return this operator's name and roles, as the gateway knows them."""
        answer: Whoami = await self._ask("whoami", Whoami, {})
        return answer

    async def sessions(
        self,
        selector: str = "",
        *,
        everybodys: bool = False,
        session: str = "",
        operator: str = "",
        door: str = "",
        state: str = "",
    ) -> list[SessionInfo]:
        """Return the sessions that live on devices, attached or not, of all doors.

        Args:
            selector: Of the devices; all if it is empty.
            everybodys: Of all operators whose sessions we may watch; else only our own.
            session: Only those whose id, in hexadecimal, begins so.
            operator: Only of this one.
            door: Only those driven through it last: ``link``, ``ssh``, ``console`` …
            state: Only ``attached``, ``parked``, ``detached`` or ``finished`` ones.

        Raises:
            Refused: The selector or state is wrong, or the role forbids it.
        """
        request: dict[str, Any] = {"selector": selector, "all": everybodys}
        # An older gateway knows no filters; it is asked for none that is not wanted.
        asked = {"session": session, "operator": operator, "door": door, "state": state}
        request |= {name: value for name, value in asked.items() if value}
        found: list[SessionInfo] = await self._ask("sessions", list[SessionInfo], request)
        return found

    async def end_session(self, session: str) -> None:
        """End a session, and what runs in it, wherever it is attached.

        Args:
            session: Its id in hexadecimal, whole.

        Raises:
            Refused: There is none, its device is away, or the role forbids it.
        """
        await self.call_gateway("end-session", {"session": session})

    async def add_ssh_keys(self, operator: str, keys: str) -> list[SshKey]:
        """Let an operator log in at the SSH door with public keys, and return them.

        Args:
            operator: Whose; other people's need a role that grants it.
            keys: What ``ssh-keygen`` wrote to a ``.pub`` file; several lines may be given.

        Raises:
            Refused: One is no key that is accepted, is somebody else's, or the role forbids it.
        """
        request = {"operator": operator, "keys": keys}
        added: list[SshKey] = await self._ask("keys.add", list[SshKey], request)
        return added

    async def ssh_keys(self, operator: str | None = None) -> list[SshKey]:
        """Return the SSH public keys of an operator, or of all.

        Raises:
            Refused: The role forbids it.
        """
        found: list[SshKey] = await self._ask("keys.list", list[SshKey], {"operator": operator})
        return found

    async def remove_ssh_key(self, operator: str, fingerprint: str) -> int:
        """Forget an SSH public key; return how many connections that ended.

        Raises:
            Refused: The operator has no such key, or the role forbids it.
        """
        request = {"operator": operator, "fingerprint": fingerprint}
        answer = await self.call_gateway("keys.remove", request)
        closed = answer.get("connections_closed", 0) if isinstance(answer, dict) else 0
        return closed if isinstance(closed, int) else 0

    async def probe(self, device: str) -> Probe:
        """Ask a device for a sign of life over its link; it takes five seconds at most.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        answer: Probe = await self._ask("probe", Probe, {"device": device})
        return answer

    async def why(self, device: str, limit: int = 200) -> list[LinkRecord]:
        """Return what happened to a device's link, oldest first: its own record and the gateway's.

        Args:
            device: Name or id.
            limit: The newest so many.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        request = {"device": device, "limit": limit}
        records: list[LinkRecord] = await self._ask("why", list[LinkRecord], request)
        return records

    async def quarantine(self, device: str, release: bool = False) -> Device:
        """Keep a device out, without taking its identity away, or let it in again; return it.

        Raises:
            Refused: There is no such device, or the role forbids it.
        """
        request = {"device": device, "release": release}
        changed: Device = await self._ask("quarantine", Device, request)
        return changed

    async def metrics(self) -> str:
        """Return the gateway's counters in Prometheus's text format.

        Raises:
            Refused: The role forbids it.
        """
        answer = await self.call_gateway("metrics", {})
        text = answer.get("text") if isinstance(answer, dict) else None
        return text if isinstance(text, str) else ""


def _decoded(document: bytes, verb: str, kind: Any = Any) -> Any:
    try:
        try:
            # At once into what it shall be: by way of lists and maps it is twice the work.
            return msgspec.json.decode(document, type=kind)
        except msgspec.ValidationError as error:
            msgspec.json.decode(document)  # it is JSON at all
            raise Refused(
                "version",
                f"the gateway's answer to {verb} is not understood: {error}",
                "upgrade rshell here or on the gateway",
            ) from None
    except (msgspec.DecodeError, RecursionError):  # a device's schema is within some answers
        raise Refused("protocol", f"the gateway's answer to {verb} cannot be read", "") from None


def _refusal(outcome: Outcome, verb: str, *, sent: bool) -> RshellError:
    code = outcome.code or outcome.status
    if not sent:
        return ConnectionFailed(code, outcome.message or f"there is no link: {code}")
    if outcome.status == "lost":
        text = describe_outcome(outcome)
        if verb not in _READ_ONLY:
            text += f"; {verb} may or may not have happened"
        return ConnectionFailed(code, text, "")
    # The advice for a bad request speaks of a device's handler; the gateway's text says it all.
    hint = "" if code == ErrorCode.BAD_REQUEST else None
    return Refused(code, outcome.message or f"the gateway refused {verb}: {code}", hint)
