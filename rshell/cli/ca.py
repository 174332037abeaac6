"""``rshell ca``: the fleet's authorities, the gateway's certificate, and gateways that are revoked.

What changes something works on the gateway's home, or on a bundle on a machine without network;
only ``show`` asks a gateway elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from rshell.access.printable import printable
from rshell.cli.ca_files import opened, passphrase, put_output, read_input, remark
from rshell.cli.ca_home import (
    certified_beside,
    certify,
    export_root,
    failing,
    gateway_uses,
    install_chain,
    issuer,
    own_home,
    remember,
    request,
    utc_now,
)
from rshell.cli.ca_revoked import (
    Placed,
    install_list,
    kept_beside,
    list_at,
    read_list,
    revoke_in,
    revoked_keys,
)
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, RshellError
from rshell.gateway.ca_report import Report, report
from rshell.identity.files import write_atomic
from rshell.identity.fleet_home import FleetHome, chain_to_pem
from rshell.identity.gateway_leaf import MAX_CHAIN_BYTES, fingerprint, names_of
from rshell.identity.keys import spki_hash
from rshell.identity.revoked import list_to_bytes

__all__ = ["ca"]

#: A certificate that holds longer is in use when everybody has forgotten how it was made.
MAX_DAYS = 365

passphrase_option = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Its first line is the bundle's passphrase; without it the terminal is asked.",
)
bundle_option = click.option(
    "--bundle",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What export-root wrote; without it the keys in the home are used.",
)
out_option = click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write here instead of to standard output; nothing is replaced.",
)


@click.group(short_help="Keep the fleet's root safe, and gateways certified.")
@common_options
def ca() -> None:
    """Keep the keys that make gateways away from the gateway, and gateways certified.

    \b
    rshell ca show                                    what there is, and when it ends
    rshell ca export-root /media/stick                move root and gateway CA key away
    rshell ca request --out req.pem                   on the gateway: ask for a certificate
    rshell ca certify --bundle FILE req.pem --out leaf.pem      where the bundle is: grant it
    rshell ca install leaf.pem                        on the gateway: use it, with no link lost
    rshell ca revoke-gateway --bundle FILE old.pem --out revoked.json

    On the gateway's machine they work on --home (else $RSHELL_HOME, else its usual place), as the
    user that the gateway runs as, and whether it runs or not.
    """


def _home_path(context: click.Context) -> Path:
    named = settings_of(context).home or os.environ.get("RSHELL_HOME", "")
    if named:
        return Path(named)
    # Late: the store's libraries come with it, and a machine with a bundle may not have them.
    from rshell.gateway.config import default_home

    return default_home()


def _home(context: click.Context) -> FleetHome:
    return own_home(_home_path(context))


# -- showing -----------------------------------------------------------------------------------


@ca.command("show", short_help="Show authorities, gateways and what is revoked.")
@common_options
@click.pass_context
def show(context: click.Context) -> int:
    """Show the fleet's authorities, where their keys are, and the gateways' certificates.

    \b
    rshell ca show
    rshell ca show --json

    A fingerprint is the hash of a gateway's key: rshell ca revoke-gateway takes it. What needs
    attention is said on standard error. Elsewhere than on the gateway this needs the role admin.
    """
    settings = settings_of(context)
    path = _home_path(context)
    if FleetHome(path.absolute()).exists():
        home = own_home(path)
        with failing():
            _show(settings.json, report(home, utc_now()))
        return 0

    async def main(_surroundings: Surroundings, client: Client) -> int:
        _show(settings.json, msgspec.convert(await client.call_gateway("ca"), Report))
        return 0

    return run_with_client(settings.home, main)


def _show(as_json: bool, found: Report) -> None:
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        print_table(
            ("AUTHORITY", "KEY", "VALID UNTIL", "FINGERPRINT"),
            [(one.name, one.key, one.valid_until, one.fingerprint) for one in found.authorities],
        )
        say("\n")
        rows = [
            (one.fingerprint, one.state, one.valid_until, one.renew_at, " ".join(one.names))
            for one in found.gateways
        ]
        print_table(("GATEWAY", "STATE", "VALID UNTIL", "RENEWAL DUE", "NAMES"), rows)
        if found.revoked_number:
            count = len(found.revoked)
            say(f"\nlist {found.revoked_number} of revoked gateways: {count} keys\n")
    for line in found.warnings:
        remark(f"warning: {printable(line, 500)}")


# -- the root's key ----------------------------------------------------------------------------


@ca.command("export-root", short_help="Move root and gateway CA key into a sealed bundle.")
@click.option("--keep", is_flag=True, help="Leave the keys here too: only a copy is made.")
@passphrase_option
@common_options
@click.argument("target", metavar="DIR|FILE", type=click.Path(path_type=Path))
@click.pass_context
def export(context: click.Context, target: Path, keep: bool, passphrase_file: Path | None) -> int:
    """Move the keys of the root and of the gateway CA into a bundle at DIR or FILE.

    \b
    rshell ca export-root /media/stick
    rshell ca export-root --keep --passphrase-file pass.txt fleet.bundle

    The bundle is sealed with a passphrase (scrypt, AES-256-GCM), written, read back from the disk
    and opened before anything is removed here; a file that is there is not replaced. If it was cut
    short, the same command finishes it. The gateway runs on, and can make no other gateways; its
    certificate is renewed with rshell ca certify from then on. Keep two copies of the bundle:
    without it nobody can ever certify a gateway of this fleet again.
    """
    home = _home(context)
    secret = passphrase(passphrase_file, confirm=True)
    path = export_root(home, target, secret, keep, utc_now())
    if settings_of(context).json:
        print_json({"bundle": str(path), "kept": keep})
        return 0
    what = "are here and" if keep else "are not here any more but"
    say(f"the keys of root and gateway CA {what} in {path}\n")
    return 0


@ca.command("check", short_help="Check that a bundle can be opened.")
@passphrase_option
@common_options
@click.argument("bundle", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, bundle: Path, passphrase_file: Path | None) -> int:
    """Open the bundle in FILE and say whose it is: do it once a year, with each copy.

    \b
    rshell ca check /media/stick/rshell-fleet.bundle
    """
    found = opened(bundle, passphrase_file)
    assert found is not None
    root = found.root.certificate
    pin = spki_hash(root.public_key()).hex()
    if settings_of(context).json:
        until = f"{root.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        print_json({"fleet": found.fleet, "root": pin, "valid_until": until})
    else:
        say(f"the bundle opens: fleet {found.fleet}, root {pin}\n")
    return 0


# -- the gateway's certificate -----------------------------------------------------------------


@ca.command("request", short_help="Ask for a certificate of this gateway.")
@click.option("--name", "names", multiple=True, metavar="DNS|ADDRESS", help="May be repeated.")
@click.option("--new-key", is_flag=True, help="Not the key of a request that still waits.")
@out_option
@common_options
@click.pass_context
def ask(context: click.Context, names: tuple[str, ...], new_key: bool, out: Path | None) -> int:
    """Print a request for a certificate of this gateway; its new key stays here.

    \b
    rshell ca request --out req.pem
    rshell ca request --name gw.example.net --name 10.0.0.5 > req.pem

    Without --name it proposes the names that the gateway's certificate has now. A request that is
    made again has the same key until its certificate is in place; of a home that was copied the
    copy has that key too: then give --new-key.
    """
    put_output(request(_home(context), names, new_key), out)
    return 0


@ca.command("certify", short_help="Grant a gateway's request.")
@bundle_option
@passphrase_option
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=MAX_DAYS,
    show_default=True,
    metavar="N",
    help="How long the certificate holds.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="DNS|ADDRESS",
    help="Instead of what the request proposes; may be repeated.",
)
@out_option
@common_options
@click.argument("file", metavar="[REQUEST|-]", default="-")
@click.pass_context
def grant(
    context: click.Context,
    bundle: Path | None,
    passphrase_file: Path | None,
    days: int,
    names: tuple[str, ...],
    out: Path | None,
    file: str,
) -> int:
    """Certify the gateway that made REQUEST, with the gateway CA's key in a bundle or in --home.

    \b
    rshell ca certify --bundle /media/stick/rshell-fleet.bundle req.pem --out leaf.pem
    rshell ca certify --bundle fleet.bundle --days 30 --name gw.example.net < req.pem > leaf.pem

    Look at the names and the fingerprint that it says: whoever holds that key is a gateway of the
    fleet from then on. It is listed in FILE.certified. The clock of this machine has to be right.
    """
    data = read_input(file, MAX_CHAIN_BYTES)
    found = opened(bundle, passphrase_file)
    home = _home(context) if bundle is None else None
    chain = certify(issuer(home, found), data, names, days, utc_now())
    if bundle is not None:
        try:
            remember(bundle, chain[0])
        except OSError as error:
            remark(f"{certified_beside(bundle)} cannot be written: {error.strerror or error}")
    put_output(chain_to_pem(chain), out)
    leaf = chain[0]
    remark(
        f"certified {fingerprint(leaf)} as {', '.join(names_of(leaf))} "
        f"until {leaf.not_valid_after_utc:%Y-%m-%d}"
    )
    return 0


@ca.command("install", short_help="Use a certificate, or a list of revoked gateways.")
@click.option(
    "--force", is_flag=True, help="Also if peers are cut off, or revoked keys readmitted by it."
)
@common_options
@click.argument("file", metavar="FILE|-")
@click.pass_context
def install(context: click.Context, file: str, force: bool) -> int:
    """Put in place what certify or revoke-gateway made; the gateway may run.

    \b
    rshell ca install leaf.pem
    rshell ca install revoked.json

    New connections see a new certificate within a second or two; links in use keep running. A list
    of revoked gateways is told to every device and operator that is connected, and to all who come.
    """
    home, data = _home(context), read_input(file, MAX_CHAIN_BYTES)
    if data.lstrip().startswith(b"{"):
        with failing():
            root = home.load().root.certificate
        placed = install_list(home, read_list(data, root), force, utc_now())
        return _placed(context, home, placed)
    done = install_chain(home, data, force, utc_now())
    name = fingerprint(done.certificate)
    used = gateway_uses(home, lambda state: state.leaf == name)
    until = f"{done.certificate.not_valid_after_utc:%Y-%m-%d}"
    if settings_of(context).json:
        print_json({"gateway": name, "valid_until": until, "in_use": used})
    else:
        was = "was already" if done.already else "is"
        say(f"the certificate {name}, valid until {until}, {was} in place{_said(used)}\n")
    return _status(used)


def _said(used: bool | None) -> str:
    if used is None:
        return "; the gateway is not running"
    return ", and the gateway uses it" if used else ""


def _status(used: bool | None) -> int:
    if used is False:
        raise RshellError(
            "not-in-use",
            "it is in place, but the running gateway has not said that it uses it",
            "its log says why",
        )
    return 0


@ca.command("new-admin", short_help="A new key for the local administrator.")
@common_options
@click.pass_context
def new_admin(context: click.Context) -> int:
    """Give the operator admin a new key in HOME/admin, and revoke all that it had.

    \b
    rshell ca new-admin --home /var/lib/rshell

    For a home of which somebody has a copy. The gateway has to be stopped.
    """
    home = _home(context)
    # Late: with the store's libraries.
    from rshell.gateway.home import HomeError
    from rshell.gateway.new_admin import replace_admin

    try:
        count = replace_admin(home.home, utc_now())
    except HomeError as error:
        raise RshellError("bad-request", str(error), "") from None
    if settings_of(context).json:
        print_json({"revoked_keys": count})
    else:
        keys = "the key before it is" if count == 1 else f"the {count} keys before it are"
        say(f"the local administrator has a new key; {keys} revoked\n")
    return 0


# -- revoked gateways --------------------------------------------------------------------------


@ca.command("revoke-gateway", short_help="Let nobody believe a gateway any more.")
@bundle_option
@passphrase_option
@click.option(
    "--previous",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The list before, if it is neither beside the bundle nor in --home.",
)
@click.option(
    "--except",
    "spared",
    multiple=True,
    metavar="FINGERPRINT|CERT",
    help="Not these, although a file holds them; may be repeated.",
)
@click.option("--force", is_flag=True, help="Also the key that the gateway in --home uses.")
@out_option
@common_options
@click.argument("keys", metavar="FINGERPRINT|CERT...", nargs=-1, required=True)
@click.pass_context
def revoke(
    context: click.Context,
    bundle: Path | None,
    passphrase_file: Path | None,
    previous: Path | None,
    spared: tuple[str, ...],
    force: bool,
    out: Path | None,
    keys: tuple[str, ...],
) -> int:
    """Sign a list that revokes the keys of gateways, for good: all before it, and these.

    \b
    rshell ca revoke-gateway --bundle fleet.bundle old.pem --out revoked.json
    rshell ca revoke-gateway --bundle fleet.bundle fleet.bundle.certified --except leaf.pem
    rshell ca revoke-gateway 3f9c2a71                       with the root's key in the home

    A key is named by its fingerprint (rshell ca show) or by a file with certificates; HOME/ca/
    gateways.pem holds all that a home ever used. With --home, or without --bundle, the list is put
    in place there; else it is printed, for rshell ca install, and kept beside the bundle. Devices
    and operators that were told it refuse such a gateway in the TLS handshake, wherever it answers.
    """
    with_home = bundle is None or settings_of(context).home is not None
    home = _home(context) if with_home else None
    wanted = revoked_keys(keys, home) - revoked_keys(spared, home)
    if not wanted:
        raise RshellError("bad-request", "nothing is left to be revoked", "")
    authorities = issuer(home, opened(bundle, passphrase_file))
    root = authorities.root.certificate
    lists = [path for path in (previous, kept_beside(bundle) if bundle else None) if path]
    lists += [home.revoked_path] if home else []
    before = [list_at(path, root) for path in lists]
    if previous is not None and before[0] is None:
        raise RshellError("file", f"{previous}: no such file", "")
    if bundle is not None and not any(before):
        remark("no list was made before, or it is not known here (--previous): this is the first")
    placed = revoke_in(authorities, before, wanted, utc_now())
    if home is not None:
        placed = install_list(home, placed.told, force, utc_now())
    if bundle is not None:
        try:
            write_atomic(kept_beside(bundle.absolute()), list_to_bytes(placed.told))
        except OSError as error:
            why = error.strerror or error
            remark(f"{kept_beside(bundle)} cannot be written ({why}): give this list as --previous")
    if home is None or out is not None:
        put_output(list_to_bytes(placed.told), out)
    if home is not None:
        return _placed(context, home, placed)
    told = placed.told
    holds = "holds" if placed.news else "held them already; it holds"
    remark(f"list {told.number} {holds} {len(told.keys)} keys; use it with: rshell ca install")
    return 0


def _placed(context: click.Context, home: FleetHome, placed: Placed) -> int:
    told = placed.told
    used = gateway_uses(home, lambda state: state.revoked >= told.number)
    if settings_of(context).json:
        print_json({"number": told.number, "keys": told.keys, "news": placed.news, "in_use": used})
    else:
        was = "is" if placed.news else "was already"
        say(f"list {told.number} ({len(told.keys)} keys) {was} in place{_said(used)}\n")
    return _status(used)
