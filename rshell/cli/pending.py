"""Devices that wait to be let in, and what is handed out: pending, accept, reject, invites."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from rshell.access.labels import BadLabel, parse_label
from rshell.access.names import BadName, check_name
from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, Decision, Invite, PendingDevice

__all__ = ["accept", "invites", "pending", "reject"]

_FAILED = 255
_ROOM = "accept or reject some, or turn away all of an invite: rshell revoke invite ID"


@click.command(short_help="List devices that wait to be let in.")
@common_options
@click.pass_context
def pending(context: click.Context) -> int:
    """List the devices that asked to join and wait, the newest last.

    \b
    rshell pending
    rshell pending --json

    Compare the fingerprint with what rshell-agent join (or status) shows on the device: the name is
    only what it says of itself. One that is not what its invite expects is marked with a '!'.

    At most 250 devices wait from one source, 1,000 of one invite, 5,000 in all. Where that is
    reached, others are turned away until you make room: a line says so, and in JSON "full" does.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        found = await client.pending()
        if settings.json:
            print_json(found)
            return 0
        headings = ("FINGERPRINT", "NAME", "ADDRESS", "FIRST ASKED", "LAST ASKED", "INVITE", "BY")
        print_table(headings, [_pending_row(one) for one in found])
        for one in found:
            if not one.within:
                text = f"{one.name} is not like {one.pattern}, which its invite expects"
                sys.stderr.write(f"rshell: {printable(text)}\n")
        for text in _full(found):
            sys.stderr.write(f"rshell: {printable(text, 300)}\n")
        return 0

    return run_with_client(settings.home, main)


def _full(found: Sequence[PendingDevice]) -> Iterator[str]:
    """Say for whom there is no room any more, and how to make some."""
    if any("all" in one.full for one in found):
        yield f"{len(found):,} devices wait, as many as may: all others are turned away; {_ROOM}"
        return
    sources = Counter(one.source for one in found if "source" in one.full)
    for source, count in sources.items():
        of_it = Counter(one.invite for one in found if one.source == source)
        invite, most = of_it.most_common(1)[0]
        yield (
            f"{count:,} devices wait from {source}, as many as may: others there are turned away; "
            f"{_ROOM} ({most:,} of them wait by {invite})"
        )
    for invite, count in Counter(one.invite for one in found if "invite" in one.full).items():
        yield (
            f"{count:,} devices wait by invite {invite}, as many as may: others with it are turned "
            f"away; {_ROOM}"
        )


def _pending_row(one: PendingDevice) -> Sequence[str]:
    return (
        one.fingerprint,
        one.name if one.within else f"{one.name} !",
        one.address,
        one.first_seen or "",
        one.last_seen or "",
        one.invite,
        one.invited_by,
    )


@click.command(short_help="Let in devices that wait.")
@click.option("--name", metavar="N", help="What the one device is called instead.")
@click.option("--label", "labels", multiple=True, metavar="k=v", help="May be repeated.")
@common_options
@click.argument("devices", nargs=-1, required=True, metavar="FINGERPRINT|NAME...")
@click.pass_context
def accept(
    context: click.Context, devices: Sequence[str], name: str | None, labels: Sequence[str]
) -> int:
    """Let in devices that wait, after comparing their fingerprints.

    \b
    rshell accept ABCD-EFGH-IJKL-MNOP
    rshell accept ABCD-EFGH-IJKL-MNOP --name pump-17 --label site=berlin
    rshell accept pump-17 pump-18                   by the names they gave themselves

    The device is in at its next try, some seconds to ten minutes later (rshell-agent join or run
    started anew asks at once). Names that an invite does not expect stay provisional: no role
    matches the device before rshell rename, unless --name says what it is called.
    """
    settings = settings_of(context)
    try:
        put = dict(parse_label(word) for word in labels)
        if name is not None:
            check_name(name)
    except (BadLabel, BadName) as error:
        raise click.UsageError(str(error)) from None
    if name is not None and len(devices) > 1:
        raise click.UsageError("a name is one device's: accept the others without --name")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        return _show(
            await client.accept(*devices, name=name, labels=put), settings.json, "accepted"
        )

    return run_with_client(settings.home, main)


@click.command(short_help="Refuse devices that wait.")
@common_options
@click.argument("devices", nargs=-1, required=True, metavar="FINGERPRINT|NAME...")
@click.pass_context
def reject(context: click.Context, devices: Sequence[str]) -> int:
    """Refuse devices that wait; their keys are refused for a day without being listed again.

    \b
    rshell reject ABCD-EFGH-IJKL-MNOP
    rshell revoke invite 5bf1ad3e90c2d477           all that wait by an invite, and the invite
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        return _show(await client.reject(*devices), settings.json, "rejected")

    return run_with_client(settings.home, main)


def _show(decided: Sequence[Decision], json: bool, done: str) -> int:
    """Tell what became of each; return the exit status."""
    if json:
        print_json(decided)
    for one in () if json else decided:
        if one.ok:
            say(printable(f"{done} {one.name} ({one.fingerprint})", 300) + "\n")
        else:
            text = f"{one.wanted}: not {done}: {one.message} ({one.code})"
            sys.stderr.write(f"rshell: {printable(text, 400)}\n")
        if one.provisional:
            text = f"{one.name} is provisional: accept it with: rshell rename {one.name} NAME"
            sys.stderr.write(f"rshell: {printable(text, 300)}\n")
    return 0 if all(one.ok for one in decided) else _FAILED


@click.command(short_help="List the invites that hold.")
@click.option("--all", "everything", is_flag=True, help="Spent, expired and revoked ones too.")
@common_options
@click.argument("invite", required=False)
@click.pass_context
def invites(context: click.Context, invite: str | None, everything: bool) -> int:
    """List the invites that hold, or the keys of INVITE whose devices have not joined yet.

    \b
    rshell invites
    rshell invites --all --json
    rshell invites 5bf1ad3e90c2d477
    rshell revoke invite 5bf1ad3e90c2d477

    The secret of a join string is shown once, by rshell invite, and kept nowhere.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if invite is not None:
            return _show_invite(await client.invite(invite), settings.json)
        found = await client.invites(everything=everything)
        if settings.json:
            print_json(found)
            return 0
        headings = ("INVITE", "FOR", "HOW", "USED", "WAIT", "EXPIRES", "BY", "STATE", "TERMS")
        print_table(headings, [_invite_row(one) for one in found], clipped="TERMS")
        return 0

    return run_with_client(settings.home, main)


def _show_invite(found: Invite, json: bool) -> int:
    if json:
        print_json(found)
    else:
        print_table(
            ("FINGERPRINT", "NAME"),
            [(key.fingerprint, key.name or "(proposes)") for key in found.keys or ()],
        )
    return 0


def _invite_row(one: Invite) -> Sequence[str]:
    terms = [*(f"{key}={value}" for key, value in sorted(one.labels.items())), *one.roles]
    terms += [f"from {source}" for source in one.sources]
    how = {"join": "at once", "accept": "when accepted", "keys": "by key"}.get(one.mode, one.mode)
    return (
        one.id,
        f"{one.kind} {one.name or one.pattern or '(any name)'}",
        f"{how}, public" if one.public and one.mode == "accept" else how,
        f"{one.uses}/{one.uses_max}",
        str(one.waiting),
        one.expires_at or "",
        one.created_by,
        one.state,
        " ".join(terms) or "-",
    )
