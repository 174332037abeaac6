"""``rshell cp``: files to devices, from them, and from one to another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from rshell.cli import statuses
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.places import Place, parse_place
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Client, RshellError

__all__ = ["cp", "parse_rate"]

_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kKmMgG]?)(?:i?[bB])?(?:/s)?", re.ASCII)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_rate(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Return the bytes a second of ``500k``, ``2M`` or ``1.5M``; a callback for `click.option`.

    Raises:
        click.BadParameter: It is none of these, or nothing at all.
    """
    if value is None:
        return None
    match = _RATE.fullmatch(value)
    rate = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if rate < 1:
        raise click.BadParameter(f"{value!r} is no rate: write 500k, 2M or 1.5M, bytes a second")
    return rate


def _named(error: RshellError, places: Sequence[Place]) -> RshellError:
    """Return an error that says which place it is about, if that is known."""
    from rshell.client.files.records import FilesError

    if not isinstance(error, FilesError) or error.path is None:
        return error
    place = next((place for place in places if place.path == error.path), None)
    shown = error.shown_path if place is None else place.shown
    return RshellError(error.code, f"{shown}: {error.message}", error.hint)


@click.command(short_help="Copy files to, from and between devices.")
@click.option("-r", "-R", "--recursive", is_flag=True, help="Copy folders with all in them.")
@click.option("-p", "preserve", is_flag=True, help="Keep modes and times; that is so anyway.")
@login_option
@click.option("--limit", metavar="RATE", callback=parse_rate, help="At most so many bytes/s: 2M.")
@click.option("--checksum", is_flag=True, help="Compare files by content, not by size and time.")
@click.option(
    "--delta/--no-delta", default=True, help="Send only what a file that is there lacks (default)."
)
@click.option(
    "--compress",
    type=click.Choice(["auto", "none", "zstd", "zlib"]),
    default="auto",
    show_default=True,
    help="Compress on the way; auto tries each file's beginning.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors still show.")
@common_options
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.argument("target", metavar="DST")
@click.pass_context
def cp(
    context: click.Context,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    preserve: bool,
    login: str | None,
    limit: int | None,
    checksum: bool,
    delta: bool,
    compress: str,
    dry_run: bool,
    quiet: bool,
) -> int:
    """Copy files to a device, from one, or from one to another.

    \b
    rshell cp pump.conf pump-17:/etc/pump/           into a folder
    rshell cp -r site/ pump-17:/srv/www              a folder, whole
    rshell cp 'pump-17:/var/log/*.log' logs/         patterns on the device: quote them
    rshell cp -r pump-17:/etc/pump pump-18:/etc      from device to device
    rshell cp --limit 200k --as root fw.bin pump-17:/var/lib/fw.bin
    rshell cp ./odd:name pump-17:                    into the home; ./ makes a colon harmless

    As with cp(1), a destination that is a folder gets the sources under their names, and a source
    that ends in /. stands for its contents. Modes and times are kept. Symbolic links below a
    folder are copied as links; devices, sockets and FIFOs are passed over.

    What is there already, by size and time, is not sent again; of a changed large file only the
    difference. Each file is checked by its digest and replaces the old one whole or not at all.
    A copy that broke off goes on where it stopped when it is run again.

    Exit status: 0 if all is there, 1 if a file failed, 255 for errors of rshell, 130 after Ctrl-C.
    """
    places = [parse_place(source) for source in sources]
    to = parse_place(target)
    if to.device is None and all(place.device is None for place in places):
        raise click.UsageError("one side is on a device: write DEVICE:PATH")
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        from rshell.cli.copy_view import view_for
        from rshell.client.files.copying import Copy
        from rshell.client.files.state import CopyOptions

        options = CopyOptions(
            recursive=recursive,
            login=login,
            bytes_per_second=limit,
            checksum=checksum,
            delta=delta,
            compress=compress,
            dry_run=dry_run,
        )
        devices = [place.device for place in (*places, to) if place.device is not None]
        view = view_for(surroundings.reactor, devices, settings.json, quiet, dry_run)
        copying = Copy.new(client, places, to, options, view.file_done)
        view.begin(copying)

        def interrupted(count: int) -> None:
            if count == 1:
                copying.stop()
            else:
                surroundings.leave(surroundings.interrupts.status)

        surroundings.interrupts.act = interrupted
        try:
            report = await copying.run()
        except RshellError as error:
            if surroundings.interrupts.received:
                return surroundings.interrupts.status
            named = _named(error, [to, *places])
            if not await view.failed(named):
                raise named from error
            return statuses.OURS
        finally:
            view.close()
        await view.end(report)
        if surroundings.interrupts.received:
            return surroundings.interrupts.status
        if report.ended:
            return view.status(statuses.OURS)
        return view.status(statuses.FAILED if report.failed else 0)

    return run_with_client(settings.home, main)
