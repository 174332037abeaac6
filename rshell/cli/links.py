"""Verbs about devices' links: why, probe, quarantine, metrics."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.cli.times import span
from rshell.client import Client, LinkRecord

__all__ = ["metrics", "probe", "quarantine", "why"]

#: A line of the exposition format; labels of ours are far shorter.
MAX_METRIC = 4_000


def _why_row(record: LinkRecord) -> Sequence[str]:
    lasted = "-" if record.seconds is None else span(record.seconds)
    return (record.at, record.source, record.kind, lasted, record.message or "-")


@click.command(short_help="Show what happened to a device's link, and why.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    metavar="N",
    help="The newest N entries.",
)
@common_options
@click.argument("device")
@click.pass_context
def why(context: click.Context, device: str, limit: int) -> int:
    """Show what happened to DEVICE's link, and why: its own record and the gateway's, in order.

    \b
    rshell why pump-17
    rshell why pump-17 --limit 200 --json

    The agent records on its own disk why it could not connect (name lookup, TCP, TLS, refusals),
    lost heartbeats, suspends, clock steps and restarts, and sends that when it is back. LASTED is
    how long that state held. Of a device that is away only the gateway's side is known for now.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        records = await client.why(device, limit)
        if settings.json:
            print_json(records)
            return 0
        headings = ("AT", "TOLD BY", "WHAT", "LASTED", "WHY")
        print_table(headings, [_why_row(record) for record in records], clipped="WHY")
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Ask a device for a sign of life now.")
@common_options
@click.argument("device")
@click.pass_context
def probe(context: click.Context, device: str) -> int:
    """Ask DEVICE for a sign of life over its link, and say within five seconds.

    \b
    rshell probe pump-17

    Exit status 0 if it answered, 1 if it did not or is away.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        answer = await client.probe(device)
        if settings.json:
            print_json(answer)
        elif answer.alive:
            rtt = "" if answer.rtt_ms is None else f" in {answer.rtt_ms:.1f} ms"
            say(f"{printable(answer.device)} answered{rtt}\n")
        else:
            text = answer.message or f"no answer within {span(answer.waited_ms / 1000)}"
            say(f"{printable(answer.device)}: {printable(answer.state)}: {printable(text, 300)}\n")
        return 0 if answer.alive else statuses.FAILED

    return run_with_client(settings.home, main)


@click.command(short_help="Keep a device out, or let it in again.")
@click.option("--release", is_flag=True, help="Let it in again.")
@common_options
@click.argument("device")
@click.pass_context
def quarantine(context: click.Context, device: str, release: bool) -> int:
    """Keep DEVICE out until it is released, without taking its identity away.

    \b
    rshell devices                     a device that may exist twice shows an alert
    rshell quarantine pump-17
    rshell quarantine pump-17 --release

    For a device that is suspected to exist twice: a copied disk, a restored backup. While it is
    quarantined no copy gets in. Its certificate and row stay; rshell revoke is for good. A released
    device comes back at its agent's next attempt, within an hour; restarting the agent hurries it.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        changed = await client.quarantine(device, release=release)
        if settings.json:
            print_json(changed)
        else:
            state = "released" if release else "quarantined"
            say(f"{printable(changed.name)} is {state}\n")
            if release:
                sys.stderr.write(
                    "rshell: it comes back within an hour; restarting its agent hurries that\n"
                )
        return 0

    return run_with_client(settings.home, main)


@click.command(short_help="Print the gateway's counters, as Prometheus reads them.")
@common_options
@click.pass_context
def metrics(context: click.Context) -> int:
    """Print the gateway's counters in Prometheus's text format.

    \b
    rshell metrics
    rshell metrics > /var/lib/node_exporter/rshell.prom
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        text = await client.metrics()
        if settings.json:
            print_json({"text": text})
        else:
            say("".join(printable(line, MAX_METRIC) + "\n" for line in text.splitlines()))
        return 0

    return run_with_client(settings.home, main)
