"""``rshell keys``: the SSH public keys that operators log in with, and CAs of certificates."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of, written_as
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, RshellError, SshKey
from rshell.client.ssh_ca_verbs import SshCa

__all__ = ["keys"]

#: A dozen keys; a file given by mistake is not read whole.
MAX_KEY_FILE_BYTES = 12_000


@click.group(short_help="Manage the SSH keys that operators log in with.")
@common_options
def keys() -> None:
    """Manage the SSH public keys that operators log in with: ssh -p 2222 DEVICE@GATEWAY.

    \b
    rshell keys add bob ~/.ssh/id_ed25519.pub
    rshell keys list
    rshell keys remove bob SHA256:uNiVztksCsDhcc0u9e8BrrRZDlt3b9wDOLbGrvG5Fjs

    Your own keys are yours to manage; other people's need the role admin, and so do CAs: keys
    whose certificates let in the operators that they name.

    \b
    rshell keys add --ca office ca.pub
    ssh-keygen -s ca -I bob-laptop -n bob -V +8h -z 17 ~/.ssh/id_ed25519.pub
    rshell keys revoke --ca office --serial 17
    """


_CA_NAME = written_as(
    r"[a-z0-9][a-z0-9._-]{0,62}",
    "a CA's name has 1 to 63 characters of a-z, 0-9 and . _ -, starting with a letter or digit",
)
_ca_option = click.option(
    "--ca", metavar="NAME", callback=_CA_NAME, help="A CA of certificates, called NAME."
)


@keys.command("add", short_help="Let an operator log in with a public key.")
@_ca_option
@common_options
@click.argument("operator", required=False, metavar="[OPERATOR]")
@click.argument("file", required=False, metavar="[FILE|-]")
@click.pass_context
def add(context: click.Context, ca: str | None, operator: str | None, file: str | None) -> int:
    """Let OPERATOR log in with the public key in FILE; - or nothing reads standard input.

    \b
    rshell keys add bob ~/.ssh/id_ed25519.pub
    ssh-add -L | rshell keys add bob
    rshell keys add --ca office ca.pub

    Accepted are ed25519, ecdsa (nistp256, 384, 521), rsa of at least 3072 bits, and ed25519 and
    ecdsa keys on a security key (FIDO), which must be touched.

    With --ca the key in FILE signs certificates (ssh-keygen -s): each lets in the operator whom
    it names as its principal. Who has that key can be any operator: keep it as safe as the role
    admin, and log in with another: a key is an operator's or a CA's, not both.
    """
    settings = settings_of(context)
    if ca is None and operator is None:
        raise click.UsageError("Missing argument 'OPERATOR'.")
    if ca is not None and file is not None:
        raise click.UsageError("With --ca there is no operator: rshell keys add --ca NAME FILE")
    text = _read((operator if ca is not None else file) or "-")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if ca is not None:
            made = await client.add_ssh_ca(ca, text)
            if settings.json:
                print_json(made)
            else:
                say(f"CA {printable(made.name)}: {printable(made.type)} {made.fingerprint}\n")
            return 0
        added = await client.add_ssh_keys(operator or "", text)
        if settings.json:
            print_json(added)
        else:
            for key in added:
                say(f"{printable(key.operator)}: {printable(key.type)} {key.fingerprint}\n")
        return 0

    return run_with_client(settings.home, main)


def _read(file: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_KEY_FILE_BYTES + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise RshellError(
            "bad-request", f"cannot read {file}: {error.strerror or error}", ""
        ) from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise RshellError(
            "bad-request",
            f"more than {MAX_KEY_FILE_BYTES:,} bytes of keys",
            "give the .pub file of one key, or fewer keys at once",
        )
    return data.decode("utf-8", "replace")


@keys.command("list", short_help="List keys.")
@click.option("--ca", is_flag=True, help="CAs, and what is revoked of them.")
@common_options
@click.argument("operator", required=False)
@click.pass_context
def list_(context: click.Context, ca: bool, operator: str | None) -> int:
    """List the keys of OPERATOR, or everybody's; with --ca the CAs of certificates.

    \b
    rshell keys list
    rshell keys list bob --json
    rshell keys list --ca

    An operator who does not exist is an error; one without keys an empty list.
    """
    settings = settings_of(context)
    if ca and operator is not None:
        raise click.UsageError("--ca goes without an operator")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if ca:
            cas = await client.ssh_cas()
            if settings.json:
                print_json(cas)
            else:
                headings = ("CA", "TYPE", "FINGERPRINT", "ADDED", "LAST USED", "REVOKED")
                print_table(headings, [_ca_row(one) for one in cas], clipped="REVOKED")
            return 0
        found = await client.ssh_keys(operator)
        if settings.json:
            print_json(found)
        else:
            headings = ("OPERATOR", "TYPE", "FINGERPRINT", "ADDED", "LAST USED", "COMMENT")
            print_table(headings, [_row(key) for key in found], clipped="COMMENT")
        return 0

    return run_with_client(settings.home, main)


def _row(key: SshKey) -> Sequence[str]:
    return (
        key.operator,
        key.type,
        key.fingerprint,
        key.added_at,
        key.last_used or "never",
        key.comment,
    )


def _ca_row(ca: SshCa) -> Sequence[str]:
    revoked = [f"serial {one.serial}" if one.serial else f"id {one.id}" for one in ca.revoked]
    return (
        ca.name,
        ca.type,
        ca.fingerprint,
        ca.added_at,
        ca.last_used or "never",
        ", ".join(revoked) or "-",
    )


@keys.command("remove", short_help="Forget a key.")
@_ca_option
@common_options
@click.argument("operator", required=False)
@click.argument("fingerprint", required=False)
@click.pass_context
def remove(
    context: click.Context, ca: str | None, operator: str | None, fingerprint: str | None
) -> int:
    """Forget the key of OPERATOR with that FINGERPRINT; who is logged in with it is cut off.

    \b
    rshell keys remove bob SHA256:uNiVztksCsDhcc0u9e8BrrRZDlt3b9wDOLbGrvG5Fjs
    rshell keys remove --ca office

    With --ca the CA called NAME: none of its certificates lets in any more, and whoever is logged
    in by one is cut off. What was revoked of it stays revoked, should its key be added again.
    """
    settings = settings_of(context)
    if ca is not None and operator is not None:
        raise click.UsageError("With --ca there is no operator: rshell keys remove --ca NAME")
    if ca is None and (operator is None or fingerprint is None):
        raise click.UsageError("Give OPERATOR and FINGERPRINT, or --ca NAME.")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if ca is not None:
            closed, removed, what = await client.remove_ssh_ca(ca), ca, f"the CA {printable(ca)}"
        else:
            closed = await client.remove_ssh_key(operator or "", fingerprint or "")
            removed, what = fingerprint or "", f"a key of {printable(operator or '')}"
        if settings.json:
            print_json({"removed": removed, "connections_closed": closed})
        else:
            say(f"removed {what}, {_connections(closed)} closed\n")
        return 0

    return run_with_client(settings.home, main)


@keys.command("revoke", short_help="Revoke certificates of a CA.")
@click.option("--ca", metavar="NAME", required=True, callback=_CA_NAME, help="Of which CA.")
@click.option("--serial", type=click.IntRange(1, 2**64 - 1), metavar="N", help="By serial number.")
@click.option(
    "--id",
    "key_id",
    metavar="ID",
    callback=written_as(r"(?s).{1,256}", "a key id has 1 to 256 characters"),
    help="By key id (ssh-keygen -I).",
)
@common_options
@click.pass_context
def revoke(context: click.Context, ca: str, serial: int | None, key_id: str | None) -> int:
    """Revoke the certificates of a CA with that serial number, or that key id, for good.

    \b
    rshell keys revoke --ca office --serial 17
    rshell keys revoke --ca office --id bob-laptop

    Who is logged in by one is cut off. Serial 0 stands for none: revoke those by their key id.
    The audit log tells both of each login (rshell audit --kind operator.entered --json).
    """
    settings = settings_of(context)
    if (serial is None) == (key_id is None):
        raise click.UsageError("Give either --serial or --id.")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        closed = await client.revoke_ssh_certificates(ca, serial=serial, id=key_id)
        what = f"id {key_id}" if serial is None else f"serial {serial}"
        if settings.json:
            print_json({"ca": ca, "revoked": what, "connections_closed": closed})
        else:
            of_it = f"{printable(what)} of the CA {printable(ca)}"
            say(f"revoked {of_it}, {_connections(closed)} closed\n")
        return 0

    return run_with_client(settings.home, main)


def _connections(closed: int) -> str:
    return "1 connection" if closed == 1 else f"{closed} connections"
