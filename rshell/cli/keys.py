"""``rshell keys``: the SSH public keys that operators log in with at the gateway's SSH door."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, RshellError, SshKey

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

    Your own keys are yours to manage; other people's need the role admin.
    """


@keys.command("add", short_help="Let an operator log in with a public key.")
@common_options
@click.argument("operator")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.pass_context
def add(context: click.Context, operator: str, file: str) -> int:
    """Let OPERATOR log in with the public key in FILE; - or nothing reads standard input.

    \b
    rshell keys add bob ~/.ssh/id_ed25519.pub
    ssh-add -L | rshell keys add bob

    Accepted are ed25519, ecdsa (nistp256, 384, 521), rsa of at least 3072 bits, and ed25519 and
    ecdsa keys on a security key (FIDO), which must be touched.
    """
    settings = settings_of(context)
    text = _read(file)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        added = await client.add_ssh_keys(operator, text)
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
@common_options
@click.argument("operator", required=False)
@click.pass_context
def list_(context: click.Context, operator: str | None) -> int:
    """List the keys of OPERATOR, or everybody's.

    \b
    rshell keys list
    rshell keys list bob --json
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
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


@keys.command("remove", short_help="Forget a key.")
@common_options
@click.argument("operator")
@click.argument("fingerprint")
@click.pass_context
def remove(context: click.Context, operator: str, fingerprint: str) -> int:
    """Forget the key of OPERATOR with that FINGERPRINT; who is logged in with it is cut off.

    \b
    rshell keys remove bob SHA256:uNiVztksCsDhcc0u9e8BrrRZDlt3b9wDOLbGrvG5Fjs
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        closed = await client.remove_ssh_key(operator, fingerprint)
        if settings.json:
            print_json({"removed": fingerprint, "connections_closed": closed})
        else:
            connections = "1 connection" if closed == 1 else f"{closed} connections"
            say(f"removed a key of {printable(operator)}, {connections} closed\n")
        return 0

    return run_with_client(settings.home, main)
