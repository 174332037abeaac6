"""The operator's Python library: connect to a gateway, use devices.

::

    client.py     Client: run, run_many, open, attach, close
    verbs.py      what the gateway answers: devices, sessions, why, invite, label, revoke, audit …
    role_verbs.py roles and operators, a part of verbs.py
    join_verbs.py invites and devices that wait, likewise; join_records.py what is answered
    session.py    Session: one use of a handler; a consumer with events and an outcome
    requests.py   a request as it goes into an OPEN
    signals.py    names of signals
    absence.py    when a session without a stream asks again, and gives up; replays.py: old output
    forwards.py   Forward, BackForward: ports and sockets, here and there (imported by itself)
    uplink.py     a link to a gateway, dialled again while it is needed
    tails.py      the ends of a device's logs, followed through reboots
    commands.py   whole commands with their output in memory, on one device or many
    outcomes.py   every way a session can end, as one record
    records.py    what the gateway's own verbs answer
    profiles.py   which operator this machine is, and where the gateway is
    dialling.py   one authenticated link
    joining.py    becoming an operator      renewal.py  staying one
    errors.py     RshellError: code, message, hint

A complete program::

    import os
    from twisted.internet import task
    from twisted.internet.defer import ensureDeferred
    from rshell.client import connect, find_profile

    async def main(reactor):
        async with await connect(reactor, find_profile(None, os.environ)) as client:
            async for done in client.run_many(["pump-1", "pump-2"], argv=["uptime"]):
                print(done.device, done.outcome.status, done.stdout.decode().strip())

    task.react(lambda reactor: ensureDeferred(main(reactor)))

What it is not: it makes no decision about who may do what; the gateway and the device do.
"""

from rshell.client.absence import Away
from rshell.client.client import Client, connect
from rshell.client.commands import CompletedCommand, RunMany
from rshell.client.errors import (
    ConnectionFailed,
    NotConfigured,
    Refused,
    RshellError,
    SelectedNothing,
)
from rshell.client.join_records import Decision, Invitation, Invite, PendingDevice
from rshell.client.outcomes import Outcome, describe_of, describe_outcome
from rshell.client.profiles import Profile, find_profile
from rshell.client.records import (
    AuditRow,
    AuditVerdict,
    Device,
    DeviceFacts,
    Doors,
    Grant,
    Handler,
    LinkRecord,
    OperatorInfo,
    Probe,
    Recording,
    Role,
    RoleCheck,
    SessionInfo,
    SessionTerms,
    SshDoor,
    SshKey,
    Watcher,
    Whoami,
)
from rshell.client.session import Session, SessionReceiver
from rshell.client.tails import Tail, TailLine, TailNotice, TailReceiver
from rshell.client.uplink import Uplink

__all__ = [
    "AuditRow",
    "AuditVerdict",
    "Away",
    "Client",
    "CompletedCommand",
    "ConnectionFailed",
    "Decision",
    "Device",
    "DeviceFacts",
    "Doors",
    "Grant",
    "Handler",
    "Invitation",
    "Invite",
    "LinkRecord",
    "NotConfigured",
    "OperatorInfo",
    "Outcome",
    "PendingDevice",
    "Probe",
    "Profile",
    "Recording",
    "Refused",
    "Role",
    "RoleCheck",
    "RshellError",
    "RunMany",
    "SelectedNothing",
    "Session",
    "SessionInfo",
    "SessionReceiver",
    "SessionTerms",
    "SshDoor",
    "SshKey",
    "Tail",
    "TailLine",
    "TailNotice",
    "TailReceiver",
    "Uplink",
    "Watcher",
    "Whoami",
    "connect",
    "describe_of",
    "describe_outcome",
    "find_profile",
]
