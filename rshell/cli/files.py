"""Verbs for files on devices: ls, cat and rm.  To copy them there is cp."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from typing import Any

import click
from twisted.internet.defer import Deferred

from rshell.cli.entries import entry_json, long_lines, shown_name
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.pipes import ByteSource
from rshell.cli.places import Place, on_device
from rshell.cli.presenting import JsonPresenter, encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.visiting import Visit, json_path
from rshell.client import Client, Outcome, RshellError
from rshell.client.files import Entry, FilesConnection, FilesError
from rshell.client.files.transfers import download

__all__ = ["cat", "ls", "neutral", "rm"]

PLACES = click.argument("places", nargs=-1, required=True, metavar="DEVICE:PATH...")
#: A question that lists more is not read.
MAX_ASKED = 10


def _joined(base: bytes, name: bytes) -> bytes:
    if base == b".":
        return name
    return base.rstrip(b"/") + b"/" + name


# -- ls --------------------------------------------------------------------------------------------


@click.command(short_help="List files on devices.")
@click.option("-l", "--long", "long", is_flag=True, help="Show mode, owner, size and time.")
@click.option("-a", "--all", "hidden", is_flag=True, help="Show names that begin with a dot too.")
@click.option(
    "-d", "--directory", "itself", is_flag=True, help="Show directories, not their content."
)
@login_option
@common_options
@PLACES
@click.pass_context
def ls(
    context: click.Context,
    places: tuple[str, ...],
    long: bool,
    hidden: bool,
    itself: bool,
    login: str | None,
) -> int:
    """List files on devices.

    \b
    rshell ls pump-17:                      the login's home
    rshell ls -l pump-17:/var/log
    rshell ls 'pump-17:/var/log/*.gz'       patterns are matched on the device: quote them
    rshell ls --json --as root pump-17:/root

    A directory's content is sorted by name. Control characters in names are shown as U+FFFD;
    --json has the names as they are. Times are in this machine's zone.

    Exit status: 1 if anything could not be listed, 255 if a device could not be reached.
    """
    named = [on_device(place) for place in places]
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        # One array, whatever happens: errors go to stderr, in words.
        visit = Visit(surroundings, client, login, json=False)
        listing = _Listing(visit, named, long, hidden, itself)
        if settings.json:
            listing = _JsonListing(visit, named, long, hidden, itself)
        return await visit.run(named, listing.show, end=listing.end)

    return run_with_client(settings.home, main)


class _Listing:
    """What places hold, as lines."""

    def __init__(
        self, visit: Visit, places: list[Place], long: bool, hidden: bool, itself: bool
    ) -> None:
        self._visit = visit
        self._several = len(places) > 1 or any(set(place.path) & set(b"*?[") for place in places)
        self._devices = len({place.device for place in places}) > 1
        self._long = long
        self._hidden = hidden
        self._depth = 0 if itself else 1
        self._begun = False

    async def show(self, connection: FilesConnection, place: Place) -> None:
        """Show one place."""
        first = True
        walk = connection.walk(
            place.path, max_depth=self._depth, note=lambda text, _: self._visit.say(place, text)
        )
        async for page in walk:
            entries = page
            if first and page:
                first, entries = False, page[1:]
                if page[0].kind == "dir" and self._depth:
                    await self._title(place)
                else:
                    await self._entries(place, [(self._named(place), page[0])], place.path)
            shown = [(e.path, e) for e in entries if self._hidden or e.path[:1] != b"."]
            await self._entries(place, shown, None)
        self._begun = True

    def end(self) -> None:
        """Nothing more is shown."""

    def _named(self, place: Place) -> bytes:
        return f"{place.device}:".encode() + place.path if self._devices else place.path

    async def _title(self, place: Place) -> None:
        if self._several:
            gap = "\n" if self._begun else ""
            title = f"{gap}{shown_name(self._named(place))}:\n"
            await self._visit.show_all(title.encode("utf-8"))

    async def _entries(
        self, place: Place, entries: list[tuple[bytes, Entry]], path: bytes | None
    ) -> None:
        lines = long_lines(entries) if self._long else [shown_name(name) for name, _ in entries]
        if lines:
            await self._visit.show_all("\n".join((*lines, "")).encode("utf-8"))


class _JsonListing(_Listing):
    """What places hold, as one JSON array."""

    _next = b"["

    def end(self) -> None:
        self._visit.show(b"[]\n" if self._next == b"[" else b"]\n")

    async def _title(self, place: Place) -> None:
        """Each entry says where it is."""

    async def _entries(
        self, place: Place, entries: list[tuple[bytes, Entry]], path: bytes | None
    ) -> None:
        for _, entry in entries:
            where = _joined(place.path, entry.path) if path is None else path
            text = encode_json(entry_json(place.device, where, entry))
            await self._visit.show_all(self._next + text)
            self._next = b",\n"


# -- cat -------------------------------------------------------------------------------------------


def neutral(text: str) -> str:
    """Return text without anything that a terminal would act on but line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


@click.command(short_help="Show files of devices.")
@click.option("--raw", is_flag=True, help="Control characters reach the terminal, too.")
@login_option
@common_options
@PLACES
@click.pass_context
def cat(context: click.Context, places: tuple[str, ...], login: str | None, raw: bool) -> int:
    """Write files of devices to standard output, one after the other.

    \b
    rshell cat pump-17:/etc/os-release
    rshell cat 'pump-17:/var/log/app.log*' | grep -c ERROR
    rshell cat pump-17:/proc/meminfo pump-18:/proc/meminfo

    Bytes are passed on as they are. Only on a terminal are control characters shown as U+FFFD,
    unless --raw is given. To wait for what is added to a file, use tail -f; to copy one, cp.

    Exit status: 1 if anything could not be read, 255 if a device could not be reached.
    """
    named = [on_device(place) for place in places]
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        visit = Visit(surroundings, client, login, settings.json)
        tame = sys.stdout.isatty() and not raw

        async def show(connection: FilesConnection, place: Place) -> None:
            await _show_file(visit, connection, place, tame)

        return await visit.run(named, show)

    return run_with_client(settings.home, main)


async def _show_file(visit: Visit, connection: FilesConnection, place: Place, tame: bool) -> None:
    full: list[Deferred[None]] = []

    def show(data: bytes, _stderr: bool) -> None:
        room = visit.show(data)
        if room is not None:
            full.append(room)

    take, end = _writer(visit.json, place, show, tame)

    def write(data: bytes | memoryview) -> Deferred[None] | None:
        take(bytes(data))
        return full.pop() if full else None

    done = await download(connection, place.path, write)
    end()
    if done.changed:
        visit.say(place, "changed while it was read")


def _writer(
    json: bool, place: Place, show: Callable[[bytes, bool], None], tame: bool
) -> tuple[Callable[[bytes], None], Callable[[], None]]:
    """Return what takes a file's bytes, and what is called at their end."""
    if json:
        presenter = JsonPresenter(place.device or "", show)
        ok = Outcome(status="ok")
        return lambda data: presenter.output(data, False), lambda: presenter.end(ok)
    if not tame:
        return lambda data: show(data, False), lambda: None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def tamed(data: bytes) -> None:
        show(neutral(decoder.decode(data, not data)).encode("utf-8"), False)

    return tamed, lambda: tamed(b"")


# -- rm --------------------------------------------------------------------------------------------


@click.command(short_help="Remove files on devices.")
@click.option(
    "-r", "--recursive", is_flag=True, help="Remove directories with all that is in them."
)
@click.option("-f", "--force", is_flag=True, help="What is not there is no error.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@login_option
@common_options
@PLACES
@click.pass_context
def rm(
    context: click.Context,
    places: tuple[str, ...],
    recursive: bool,
    force: bool,
    yes: bool,
    login: str | None,
) -> int:
    """Remove files on devices.

    \b
    rshell rm pump-17:/tmp/core.1234                asks first
    rshell rm -y 'pump-17:/var/log/*.gz'            patterns are matched on the device: quote them
    rshell rm -ry --as app pump-17:cache

    A link is removed, not what it leads to. Other file systems that are mounted inside are not
    entered, and / ~ . and .. are never removed. Without a terminal nothing is removed unless -y is
    given.

    Exit status: 1 if anything could not be removed, 255 if a device could not be reached.
    """
    named = [on_device(place) for place in places]
    settings = settings_of(context)
    if not yes and not sys.stdin.isatty():
        hint = "say -y to remove without being asked"
        raise RshellError("not-confirmed", "nobody can be asked: input is no terminal", hint)

    async def main(surroundings: Surroundings, client: Client) -> int:
        visit = Visit(surroundings, client, login, settings.json)
        # In order, and each once: patterns may match what is named as well.
        chosen = list(dict.fromkeys([o for place in named for o in await visit.expand(place)]))
        if not yes and not visit.stopped and not await _agreed(surroundings, visit, chosen):
            visit.outputs.write(b"rshell: nothing was removed\n", True)
            return await visit.run([], _never)

        async def remove(connection: FilesConnection, place: Place) -> None:
            fields = {"path": place.path, "recursive": recursive, "missing_ok": force}
            count = (await connection.request("remove", **fields)).get("removed")
            if visit.json:
                answer = {"device": place.device, **json_path(place.path), "removed": count}
                await visit.show_all(encode_json(answer) + b"\n")

        return await visit.run(chosen, _with_advice(remove), expand=False)

    return run_with_client(settings.home, main)


def _with_advice(act: Any) -> Any:
    async def advised(connection: FilesConnection, place: Place) -> None:
        try:
            await act(connection, place)
        except FilesError as error:
            if error.code == "is-a-directory":
                text, hint = "is a directory", "remove it with all that is in it: -r"
                raise FilesError(error.code, text, error.path, hint) from None
            raise

    return advised


async def _never(_connection: FilesConnection, _place: Place) -> None:
    """There is nothing to do."""


async def _agreed(surroundings: Surroundings, visit: Visit, places: list[Place]) -> bool:
    """Ask on the terminal whether to go on; ^C says no."""
    lines = [f"  {place.shown}\n" for place in places[:MAX_ASKED]]
    if len(places) > MAX_ASKED:
        lines.append(f"  … and {len(places) - MAX_ASKED} more\n")
    count = "this" if len(places) == 1 else f"these {len(places)}"
    visit.outputs.write("".join([*lines, f"Remove {count}? [y/N] "]).encode("utf-8"), True)
    answered: Deferred[bytes] = Deferred()

    def received(data: bytes = b"") -> None:
        if not answered.called:
            answered.callback(data)

    visit.stopping = received
    ByteSource(surroundings.reactor, 0, received).start()
    answer = await answered
    return not visit.stopped and answer.strip().lower() in (b"y", b"yes")
