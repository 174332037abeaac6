"""Verbs that decide who belongs: invite, join, label, rename, revoke."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rshell.access.labels import BadLabel, parse_label, parse_label_changes
from rshell.access.names import BadName, check_name
from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, parse_duration, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_on_reactor, run_with_client
from rshell.client import Client, Invitation, RshellError
from rshell.client.joining import join_operator
from rshell.client.profiles import default_directory
from rshell.identity.join_string import BadJoinString, JoinString
from rshell.identity.public_keys import (
    MAX_KEYS_BYTES,
    BadPublicKeys,
    NamedKey,
    read_public_keys,
)
from rshell.identity.sources import BadSource, check_source

__all__ = ["invite", "join", "label", "rename", "revoke"]

#: A join string is shorter; a file given by mistake is not read whole.
MAX_JOIN_BYTES = 4096
TTL_SECONDS = 3600
#: Devices lie in a store for weeks before they are first switched on.
KEYS_TTL_SECONDS = 30 * 86_400


@click.group(short_help="Make a join string for a device or an operator.")
@common_options
def invite() -> None:
    """Make a join string: hand it over by a safe way, it is a secret until it is used.

    \b
    rshell invite device --name pump-17 --label site=berlin
    rshell invite device --name 'pump-*' --from 10.0.0.0/8 --uses 50
    rshell invite operator bob --role admin

    What is handed out and not used up yet: rshell invites.
    """


def _print_invitation(json: bool, invitation: Invitation) -> None:
    if json:
        print_json(
            {
                "join": invitation.join,
                "expires_at": invitation.expires_at,
                "uses": invitation.uses,
                "id": invitation.id,
                "mode": invitation.mode,
            }
        )
    else:
        say(invitation.join + "\n")


@invite.command("device", short_help="Invite a device, or a site's.")
@click.option("--name", metavar="N|GLOB", help="What it will be called, or how names must look.")
@click.option("--label", "labels", multiple=True, metavar="k=v", help="May be repeated.")
@click.option(
    "--ttl",
    callback=parse_duration,
    metavar="T",
    help="How long it holds, at most 30d.  [default: 1h; with --key 30d, at most 400d]",
)
@click.option(
    "--uses",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many devices may use it.",
)
@click.option(
    "--from", "sources", multiple=True, metavar="CIDR", help="Only from there; may be repeated."
)
@click.option("--pending", is_flag=True, help="A string that gives no right: who has it may ask.")
@click.option("--auto-accept", is_flag=True, help="A site's devices do not wait: keep it secret.")
@click.option("--key", "keys", metavar="FILE|-", help="Public keys of the devices that may join.")
@common_options
@click.pass_context
def invite_device(
    context: click.Context,
    name: str | None,
    labels: Sequence[str],
    ttl: int | None,
    uses: int,
    sources: Sequence[str],
    pending: bool,
    auto_accept: bool,
    keys: str | None,
) -> int:
    """Print the join string for new devices; give it to rshell-agent join there.

    \b
    rshell invite device --name pump-17 --label site=berlin --label tier=prod
    rshell invite device --name pump-17 | ssh root@10.0.0.7 rshell-agent join -
    rshell invite device --name 'pump-*' --from 10.0.0.0/8 --uses 50 --ttl 7d    a site's
    rshell invite device --pending --uses 200 --ttl 30d                  for an image
    rshell invite device --key keys.pem --label batch=7                  of a factory

    A string for several, or with a glob or a range, is a site's: its devices wait until somebody
    compares their fingerprints and accepts them (rshell pending), unless it says --auto-accept;
    then names that no glob expects are provisional until rshell rename. With --pending
    the string is no secret, and with --key none is needed: FILE has PEM public keys one after
    another, or lines NAME<TAB>KEY, as rshell-agent key prints them.
    """
    settings = settings_of(context)
    try:
        put = dict(parse_label(word) for word in labels)
        ranges = [check_source(one) for one in sources]
        pattern = name if name is not None and set(name) & set("*?[") else None
        name = None if pattern else name
        if name is not None:
            check_name(name)
    except (BadLabel, BadName, BadSource) as error:
        raise click.UsageError(str(error)) from None
    if name is not None and (uses > 1 or keys):
        raise click.UsageError("a name is one device's: not with --uses or --key")
    if name is not None and pending:
        raise click.UsageError("who waits is named when it is accepted: rshell accept --name")
    if auto_accept and (pending or keys):
        raise click.UsageError("--auto-accept is for a string that is a secret")
    if keys and (pending or uses > 1):
        raise click.UsageError("--key lets in the devices of these keys: no --pending or --uses")
    known = _read_keys(keys) if keys else []

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if known:
            invitation = await client.invite_keys(
                known,
                labels=put,
                ttl_seconds=ttl or KEYS_TTL_SECONDS,
                pattern=pattern,
                sources=ranges,
            )
        else:
            invitation = await client.invite_device(
                name=name,
                labels=put,
                ttl_seconds=ttl or TTL_SECONDS,
                uses=uses,
                pattern=pattern,
                sources=ranges,
                public=pending,
                wait=False if auto_accept else None,
            )
        _print_invitation(settings.json, invitation)
        return 0

    return run_with_client(settings.home, main)


def _read_keys(file: str) -> list[NamedKey]:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_KEYS_BYTES + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(MAX_KEYS_BYTES + 1)
        return read_public_keys(data)
    except OSError as error:
        text = f"cannot read {file}: {error.strerror or error}"
        raise RshellError("bad-request", text, "") from None
    except BadPublicKeys as error:
        raise RshellError("bad-request", f"{file}: {error}", "") from None


@invite.command("operator", short_help="Invite an operator.")
@click.option(
    "--role",
    "roles",
    required=True,
    multiple=True,
    metavar="ROLE",
    help="What the operator may do; may be repeated.",
)
@click.option(
    "--ttl",
    callback=parse_duration,
    metavar="T",
    default="1h",
    show_default=True,
    help="How long it holds.",
)
@common_options
@click.argument("name")
@click.pass_context
def invite_operator(context: click.Context, name: str, roles: tuple[str, ...], ttl: int) -> int:
    """Print the join string for a new operator; give it to rshell join on their machine.

    \b
    rshell invite operator bob --role admin
    rshell invite operator eve --role berlin-logs --role oslo-shell

    Roles are made with rshell roles set; admin is built in and grants everything.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        invitation = await client.invite_operator(name, *roles, ttl_seconds=ttl)
        _print_invitation(settings.json, invitation)
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Make this machine an operator's.")
@click.option("--replace", is_flag=True, help="Forget the operator this machine was.")
@common_options
@click.argument("join_string", metavar="JOIN")
@click.pass_context
def join(context: click.Context, join_string: str, replace: bool) -> int:
    """Join with the string that rshell invite operator printed; - reads it from standard input.

    \b
    rshell join - < join.txt
    rshell --home ~/fleets/berlin join -

    The argument of a command can be seen by other users of this machine: prefer -.
    The profile is written to --home, or else to ~/.config/rshell.
    """
    settings = settings_of(context)
    text = sys.stdin.readline(MAX_JOIN_BYTES) if join_string == "-" else join_string
    try:
        parsed = JoinString.parse(text)
    except BadJoinString as error:
        hint = "ask an administrator for: rshell invite operator NAME --role ROLE"
        raise RshellError("bad-join-string", str(error), hint) from None
    if parsed.public:
        hint = "ask an administrator for: rshell invite operator NAME --role ROLE"
        raise RshellError("bad-join-string", "this join string is for devices", hint)
    directory = Path(settings.home).absolute() if settings.home else default_directory(os.environ)
    if (directory / "admin").exists():
        raise RshellError(
            "bad-request", f"{directory} is a gateway's home", "join into a directory of its own"
        )

    async def main(surroundings: Surroundings) -> int:
        joined = await join_operator(surroundings.reactor, directory, parsed, replace=replace)
        if settings.json:
            print_json(
                {
                    "operator": joined.name.name,
                    "fleet": joined.name.fleet,
                    "home": str(directory),
                    "gateways": list(joined.gateways),
                }
            )
        else:
            say(f"this machine is now operator {printable(joined.name.name)}'s\n")
        return 0

    return run_on_reactor(main)


@click.command(short_help="Set or remove labels of a device.")
@common_options
@click.argument("device")
@click.argument("changes", nargs=-1, required=True, metavar="k=v|k-...")
@click.pass_context
def label(context: click.Context, device: str, changes: tuple[str, ...]) -> int:
    """Set labels (key=value) and remove them (key-) on DEVICE.

    \b
    rshell label pump-17 site=berlin tier=prod
    rshell label pump-17 retired-

    Labels decide who may do what, so this needs the role admin.
    """
    settings = settings_of(context)
    try:
        wanted = parse_label_changes(changes)
    except BadLabel as error:
        raise click.UsageError(str(error)) from None

    async def main(_surroundings: Surroundings, client: Client) -> int:
        labelled = await client.label(device, wanted.put, wanted.remove)
        if settings.json:
            print_json(labelled)
        else:
            words = " ".join(f"{k}={v}" for k, v in sorted(labelled.labels.items()))
            say(printable(f"{labelled.name}: {words or 'no labels'}", 4000) + "\n")
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Rename a device, or accept its own name.")
@common_options
@click.argument("device")
@click.argument("name")
@click.pass_context
def rename(context: click.Context, device: str, name: str) -> int:
    """Give DEVICE, a name or an id, the name NAME.

    \b
    rshell rename raspberrypi-2 pump-18
    rshell rename pump-17 pump-17                 accept the name it proposed itself

    A device that was invited without a name proposes its own, and that is provisional until an
    operator accepts it by renaming the device to it. Labels, sessions and history stay with the
    device.
    """
    settings = settings_of(context)
    try:
        check_name(name)
    except BadName as error:
        raise click.UsageError(str(error)) from None

    async def main(_surroundings: Surroundings, client: Client) -> int:
        renamed = await client.rename(device, name)
        if settings.json:
            print_json(renamed)
        else:
            say(f"{printable(device)} is now {printable(renamed.name)}\n")
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Take a device's or operator's rights away, or an invite.")
@common_options
@click.argument("kind", type=click.Choice(["device", "operator", "invite"]))
@click.argument("name")
@click.pass_context
def revoke(context: click.Context, kind: str, name: str) -> int:
    """Revoke a device, an operator or an invite: links and sessions end within a second, for good.

    \b
    rshell revoke device pump-17
    rshell revoke operator bob
    rshell revoke invite 5bf1ad3e90c2d477             an id of rshell invites
    rshell revoke invite ABCD-EFGH-IJKL-MNOP          one key of an invite with keys

    Afterwards it has to be invited and to join anew. Of an invite, devices that joined stay, and
    those that wait are turned away.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        closed = await client.revoke(kind, name)
        if settings.json:
            print_json({"revoked": name, "links_closed": closed})
        else:
            links = "1 link" if closed == 1 else f"{closed} links"
            more = "" if kind == "invite" else f", {links} closed"
            say(f"revoked {kind} {printable(name)}{more}\n")
        return 0

    return run_with_client(settings.home, main)
