"""``rshell facts``: what a device says of itself."""

from __future__ import annotations

import sys
from typing import Any

import click

from rshell.access.printable import printable
from rshell.cli.columns import fact_at, fact_rows
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, Refused, describe_of
from rshell.client.records import DeviceFacts

__all__ = ["facts"]


@click.command(short_help="Show what a device is: system, memory, disks, addresses.")
@click.option("--refresh", is_flag=True, help="Ask the device itself, now.")
@login_option
@common_options
@click.argument("device")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_context
def facts(
    context: click.Context, device: str, names: tuple[str, ...], login: str | None, refresh: bool
) -> int:
    """Show the facts of DEVICE, or only those named.

    \b
    rshell facts pump-17                        what it told last, also while it is away
    rshell facts pump-17 memory disks --refresh ask it now: load and free memory change
    rshell facts pump-17 memory.total_bytes --json
    rshell devices 'facts.os=arch,facts.addresses=10.0.*' --columns name,facts.kernel

    A device tells its facts when it connects and when one changes that does not change all the
    time. They choose devices, as labels do; they never decide what somebody may do.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        told = await (_asked(client, device, login) if refresh else client.facts(device))
        if not told.facts:
            raise Refused("offline", f"{printable(told.device)} has told no facts yet", "")
        shown = _chosen(told, names)
        if settings.json:
            print_json(
                {
                    "device": told.device,
                    "state": told.state,
                    "received_at": told.received_at,
                    "facts": shown,
                }
            )
            return 0
        print_table(("FACT", "VALUE"), fact_rows(shown))
        if not refresh:
            _tell_age(told)
        return 0

    return run_with_client(settings.home, main)


async def _asked(client: Client, device: str, login: str | None) -> DeviceFacts:
    """Ask the device.

    Raises:
        Refused: It is away, does not allow it, or answers nonsense.
    """
    done = await client.call(device, "facts", {}, login=login)
    if done.outcome.status != "ok" or not isinstance(done.outcome.result, dict):
        text = describe_of(printable(device), done.outcome, advice=False)
        raise Refused(done.outcome.code or "error", text, "without --refresh: what it told last")
    return DeviceFacts(device=device, state="live", facts=done.outcome.result)


def _chosen(told: DeviceFacts, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the facts of these names.

    Raises:
        Refused: One of them was not told.
    """
    if not names:
        return told.facts
    found = {}
    for name in names:
        value = fact_at(told.facts, name.removeprefix("facts.").split("."))
        if value is None:
            known = ", ".join(printable(str(key), 40) for key in told.facts)
            text = f"{printable(told.device)} tells no {printable(name, 60)}; it tells: {known}"
            raise Refused("not-found", text, "")
        found[name.removeprefix("facts.")] = value
    return found


def _tell_age(told: DeviceFacts) -> None:
    since = f"told at {told.received_at}" if told.received_at else "as it said when it connected"
    away = "" if told.state in ("live", "suspect") else f", now {told.state}"
    sys.stderr.write(f"rshell: {printable(told.device)}: {since}{printable(away)}\n")
