"""Options that every verb has, before or after its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs
import click

__all__ = [
    "Settings",
    "common_options",
    "login_option",
    "parse_duration",
    "parse_moment",
    "settings_of",
    "written_as",
]

Command = TypeVar("Command", bound=Callable[..., Any])


@attrs.define
class Settings:
    """What the common options say.

    Attributes:
        home: a gateway's home or a profile; None looks in the usual places.
        json: whether to answer in JSON.
    """

    home: str | None = None
    json: bool = False


def settings_of(context: click.Context) -> Settings:
    """Return the one record of this invocation."""
    settings = context.ensure_object(Settings)
    assert isinstance(settings, Settings)
    return settings


def _set_home(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        settings_of(context).home = value


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        settings_of(context).json = True


def common_options(command: Command) -> Command:
    """Add ``--home`` and ``--json`` to a command."""
    home = click.option(
        "--home",
        metavar="DIR",
        expose_value=False,
        callback=_set_home,
        help="A gateway's home on this machine, or a directory made by join.",
    )
    json = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Answer in JSON, for programs.",
    )
    return home(json(command))


def login_option(command: Command) -> Command:
    """Add ``--as`` to a command."""
    option = click.option(
        "--as",
        "login",
        metavar="LOGIN",
        help="The account on the device; without it, its policy's first.",
    )
    return option(command)


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def written_as(
    pattern: str, words: str
) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Return a callback for `click.option` that refuses what is written otherwise, with 255.

    The gateway refuses it too, but knows the pattern only, and not for whom it speaks.

    Args:
        pattern: A regular expression of the whole.
        words: What it has to be, for people.
    """

    def check(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
        if value is not None and not re.fullmatch(pattern, value):
            # The client takes its time to import, and `rshell --help` does without.
            from rshell.client.errors import RshellError

            raise RshellError("bad-request", words, "")
        return value

    return check


def parse_duration(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Return the whole seconds of ``90s``, ``30m``, ``1h`` or ``2d``; a bare number is seconds.

    A callback for `click.option`.

    Raises:
        click.BadParameter: It is none of these, or nothing at all.
    """
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", value, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no time span: write 90s, 30m, 1h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def parse_moment(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Return milliseconds since 1970 UTC of a date, a time in RFC 3339, or a time span ago.

    ``2026-11-22``, ``2026-11-22T08:00:00Z``, ``2h``.  A callback for `click.option`.

    Raises:
        click.BadParameter: It is none of these.
    """
    if value is None:
        return None
    span = re.fullmatch(r"([0-9]{1,9})([smhdw])", value, re.ASCII)
    if span is not None:
        ago = timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        moment = datetime.now(UTC) - ago
    else:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            text = "is no time: write 2026-11-22, 2026-11-22T08:00:00Z, or 2h for two hours ago"
            raise click.BadParameter(f"{value!r} {text}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, round(moment.timestamp() * 1000))
