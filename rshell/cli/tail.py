"""``rshell tail``: the ends of logs on one device or on many, and what comes after them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import attrs
import click
import msgspec

from rshell.cli import statuses
from rshell.cli.choosing import choose, names_one
from rshell.cli.fanout import Fanout, Outputs, Running, Target
from rshell.cli.options import common_options, login_option, parse_duration, settings_of
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tail_lines import JsonTail, Style, TextTail
from rshell.client import Client, SessionReceiver, Tail
from rshell.handlers.tail import DEFAULT_RATE, TailRequest

__all__ = ["parse_count", "parse_when", "split_place", "tail"]

#: Devices that are read at once when each of them ends by itself.
CONCURRENCY = 50
#: An operator's link holds 8,192 streams; followed are all at once.
MAX_FOLLOWED = 8000
#: As the system's own limit.
MAX_PATH_BYTES = 4096


@attrs.frozen
class Place:
    """``SELECTOR:PATH`` taken apart."""

    selector: str
    path: bytes


def split_place(word: str) -> Place:
    """Return what a word means: a selector, a colon, a path on the devices.

    A label's value may hold a colon; then the path begins with ``/`` or ``~``.

    Raises:
        click.UsageError: There is no colon, nothing before or behind it, or too much.
    """
    found = re.search(r":(?=[/~])", word)
    colon = found.start() if found else word.find(":")
    if colon <= 0 or colon == len(word) - 1:
        raise click.UsageError(f"{word!r} is no DEVICE:PATH, as in pump-17:/var/log/syslog")
    path = os.fsencode(word[colon + 1 :])
    if len(path) > MAX_PATH_BYTES:
        raise click.UsageError(f"a path of {len(path):,} bytes; {MAX_PATH_BYTES:,} are the most")
    return Place(word[:colon], path)


def parse_count(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int | None, int | None]:
    """Return (last so many lines, or from this line on), as tail(1) reads ``-n``.

    Raises:
        click.BadParameter: It is neither.
    """
    if value is None:
        return None, None
    match = re.fullmatch(r"([+-]?)([0-9]{1,15})", value, re.ASCII)
    if match is None:
        raise click.BadParameter(f"{value!r} is no number of lines: write 20, or +1 for all")
    number = int(match[2])
    return (None, max(1, number)) if match[1] == "+" else (number, None)


def parse_when(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[float | None, float | None]:
    """Return (seconds since 1970, or seconds before the device's now).

    Raises:
        click.BadParameter: It is no time.
    """
    if value is None:
        return None, None
    try:
        seconds = parse_duration(_context, _parameter, value.removesuffix(" ago"))
        return None, float(seconds or 0)
    except click.BadParameter:
        pass
    try:
        if value.startswith("@"):
            moment = float(value[1:])
        elif re.fullmatch(r"\d\d:\d\d(:\d\d)?", value, re.ASCII):
            moment = datetime.fromisoformat(f"{time.strftime('%Y-%m-%d')}T{value}").timestamp()
        else:
            moment = datetime.fromisoformat(value).timestamp()
        if 0 <= moment < 2**53:
            return moment, None
    except (ValueError, OverflowError, OSError):
        pass
    text = "write 90s, 30m, 2h, 1d; 14:05; 2026-11-22, 2026-11-22T14:05:00Z; or @1795356300"
    raise click.BadParameter(f"{value!r} is no time: {text}")


async def _targets(
    client: Client, wanted: Iterable[tuple[str, bytes | None]]
) -> tuple[list[Target], dict[str, list[bytes]]]:
    """Return the devices, and which paths each of them is asked for."""
    targets: dict[str, Target] = {}
    paths: dict[str, list[bytes]] = {}
    found: dict[str, list[Target]] = {}
    for selector, path in wanted:
        if selector not in found:
            found[selector] = await choose(client, selector)
        for target in found[selector]:
            targets.setdefault(target.device, target)
            asked = paths.setdefault(target.device, [])
            if path is not None and path not in asked:
                asked.append(path)
    return list(targets.values()), paths


def _style(paths: dict[str, list[bytes]], no_prefix: bool, raw: bool, quiet: bool) -> Style:
    several = any(
        len(asked) > 1 or any(character in path for path in asked for character in b"*?[")
        for asked in paths.values()
    )
    named = len(paths) > 1 and not no_prefix
    return Style(
        device=named,
        file=named and several,
        headers=several and not named and not quiet and not no_prefix,
        raw=raw,
        quiet=quiet,
    )


def _wanted(
    words: Sequence[str], units: Sequence[str], journal: bool
) -> list[tuple[str, bytes | None]]:
    """Return (selector, path) pairs; without a path for the journal.

    Raises:
        click.UsageError: Words and options do not go together.
        BadSelector: A selector is none.
    """
    if units or journal:
        for word in words:
            if re.search(r":(?=[/~])", word):
                raise click.UsageError(
                    "give either DEVICE:PATH, or DEVICE with --unit or --journal"
                )
        wanted: list[tuple[str, bytes | None]] = [(word, None) for word in words]
    else:
        wanted = [(place.selector, place.path) for place in map(split_place, words)]
    for selector, _ in wanted:
        names_one(selector)
    return wanted


def _request(**fields: Any) -> TailRequest:
    """Return the request, checked as the device will.

    Raises:
        click.UsageError: It makes no sense.
    """
    try:
        return msgspec.convert(fields, TailRequest, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError) as error:
        raise click.UsageError(str(error)) from None


@click.command(short_help="Show the ends of logs, and follow them.")
@login_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "count",
    metavar="N",
    callback=parse_count,
    help="The last N lines of each file (10); +N is from line N on.",
)
@click.option("--grep", metavar="RE", help="Only lines in which this is found, on the device.")
@click.option("-i", "--ignore-case", is_flag=True, help="For --grep.")
@click.option("-v", "--invert", is_flag=True, help="Only lines in which it is not found.")
@click.option(
    "--since",
    "when",
    metavar="WHEN",
    callback=parse_when,
    help="Only what is newer: 30m, 14:05, 2026-11-22T14:05:00Z.",
)
@click.option("--unit", "units", multiple=True, metavar="NAME", help="The journal of this unit.")
@click.option("--journal", is_flag=True, help="The whole journal.")
@click.option(
    "--rate",
    type=click.IntRange(0, 10_000_000),
    default=DEFAULT_RATE,
    show_default=True,
    metavar="N",
    help="Lines a second and device that come while following; 0 is no limit.",
)
@click.option("--raw", is_flag=True, help="Pass control sequences on as they are.")
@click.option("--no-prefix", is_flag=True, help="No names before lines, no headers.")
@click.option("-q", "--quiet", is_flag=True, help="No headers, no word about rotation.")
@common_options
@click.argument("words", nargs=-1, required=True, metavar="DEVICE[:PATH]...")
@click.pass_context
def tail(
    context: click.Context,
    words: tuple[str, ...],
    login: str | None,
    follow: bool,
    count: tuple[int | None, int | None],
    grep: str | None,
    ignore_case: bool,
    invert: bool,
    when: tuple[float | None, float | None],
    units: tuple[str, ...],
    journal: bool,
    rate: int,
    raw: bool,
    no_prefix: bool,
    quiet: bool,
) -> int:
    """Show the last lines of files on devices, and follow them.

    \b
    rshell tail pump-17:/var/log/syslog
    rshell tail -f pump-17:'/var/log/*.log' pump-17:app/out.txt
    rshell tail -f -n 0 'site=berlin:/var/log/app.log' --grep 'ERROR|WARN'
    rshell tail -f pump-17 --unit pumpd.service --since 30m
    rshell tail pump-17 --journal -n 50 --json

    DEVICE may be a selector. Without a leading slash a path begins in the login's home; quote
    globs, or your own shell expands them.

    -f goes on through rotation, truncation, lost links and reboots, and with files that appear
    later. Nothing is dropped because you were away: only what comes faster than --rate, and that
    is said.

    Exit status: 0; 1 if something could not be read; 2 for a request that makes no sense; 255 if
    a device could not be reached. Several devices: 0 only if all succeeded.
    """
    wanted = _wanted(words, units, journal)
    if grep is None and (ignore_case or invert):
        raise click.UsageError("-i and -v are for --grep")
    base = _request(
        paths=[] if units or journal else [b"?"],
        units=list(units),
        journal=journal,
        follow=follow,
        lines=count[0],
        first=count[1],
        pattern=grep,
        ignore_case=ignore_case,
        invert=invert,
        since=when[0],
        since_ago=when[1],
        rate=rate,
    )
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        targets, paths = await _targets(client, wanted)
        outputs = Outputs(surroundings.reactor)
        style = _style(paths, no_prefix, raw, quiet)
        presenters: dict[str, TextTail | JsonTail] = {}

        def present(device: str) -> TextTail | JsonTail:
            presenters[device] = (
                JsonTail(device, outputs.write)
                if settings.json
                else TextTail(device, style, outputs.write)
            )
            return presenters[device]

        def open_tail(device: str, _receiver: SessionReceiver) -> Running:
            request = msgspec.structs.replace(base, paths=paths[device])
            shown = presenters[device]
            running = Tail(client, device, request, shown, surroundings.reactor, login=login)
            running.start()
            return running

        concurrency = MAX_FOLLOWED if follow else CONCURRENCY
        fanout = Fanout(surroundings, open_tail, present, outputs, concurrency=concurrency)
        outcomes = await fanout.run(targets)
        single = len(targets) == 1 and outcomes
        own = statuses.of_one(outcomes[0]) if single else statuses.of_many(outcomes)
        return fanout.status(own)

    return run_with_client(settings.home, main)
