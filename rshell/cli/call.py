"""``rshell call``: any handler, also a plug-in's, with arguments typed by its own schema."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from typing import Any

import click

from rshell.cli import statuses
from rshell.cli.arguments import BadArgument, build_request
from rshell.cli.choosing import choose, names_one
from rshell.cli.fanout import Fanout, Outputs, Target
from rshell.cli.handler_help import handler_help
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.pipes import say
from rshell.cli.presenting import encode_json
from rshell.cli.progress_line import ProgressLine
from rshell.cli.run import presenter_for
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Client, Handler, Refused, RshellError, Session, SessionReceiver

__all__ = ["call"]


#: Set in a context's ``meta`` when the help of a handler is wanted, not our own.
_HELP = "rshell.cli.call.help"


class CallCommand(click.Command):
    """A command whose ``--help`` behind a handler's name is about the handler."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the help option out, if it stands behind two words."""
        takes_value = {
            name
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        words, index = 0, 0
        while index < len(args) and args[index] != "--":
            if args[index] in ("-h", "--help") and words >= 2:
                ctx.meta[_HELP] = True
                return super().parse_args(ctx, [*args[:index], *args[index + 1 :]])
            if args[index] in takes_value:
                index += 1
            elif not args[index].startswith("-"):
                words += 1
            index += 1
        return super().parse_args(ctx, args)


@click.command(cls=CallCommand, short_help="Call any handler of one device or of many.")
@login_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001, max=2**40 / 1000),
    metavar="S",
    help="End it on the device after S seconds.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 8000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many devices at once.",
)
@common_options
@click.argument("selector")
@click.argument("handler")
@click.argument("arguments", nargs=-1, metavar="[key=value]...")
@click.pass_context
def call(
    context: click.Context,
    selector: str,
    handler: str,
    arguments: tuple[str, ...],
    login: str | None,
    timeout: float | None,
    concurrency: int,
) -> int:
    """Call HANDLER on every device that SELECTOR picks.

    \b
    rshell handlers pump-17                       what there is
    rshell call pump-17 exec --help               its arguments, as the device tells them
    rshell call pump-17 exec argv=uptime argv=-p  a list: repeat the key
    rshell call pump-17 exec line='df -h' --timeout 5
    rshell call 'site=berlin' valve position:=3   key:=JSON is taken as it is

    Values are typed by the handler's schema: numbers, true or false, text, bytes. Output and
    exit status are as with run; 124 if the time ran out. What a handler tells of its progress is
    shown on a terminal, and with --json as an object a line. Standard input is passed on to one
    device if it is no terminal.
    """
    names_one(selector)
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        targets = await choose(client, selector)
        described = await _describe(client, targets, handler)
        if _HELP in context.meta:
            say(handler_help(targets[0].device, described))
            return 0
        hint = f"see: rshell call {targets[0].device} {handler} --help"
        request = _request(arguments, described.schema, hint)

        def open_session(device: str, receiver: SessionReceiver) -> Session:
            priority = described.priority
            return client.open(
                device, handler, request, receiver, login=login, priority=priority, timeout=timeout
            )

        single = len(targets) == 1
        outputs = Outputs(surroundings.reactor)
        line = _progress_line(surroundings, outputs)
        shown = line if line is not None and not settings.json else outputs
        present = partial(presenter_for, shown, settings.json, not single, False)
        fanout = Fanout(
            surroundings,
            open_session,
            present,
            outputs,
            concurrency=concurrency,
            stdin=single and not sys.stdin.isatty(),
            events=partial(_json_event, outputs) if settings.json else getattr(line, "event", None),
        )
        outcomes = await fanout.run(targets)
        if line is not None:
            line.ended()
            await outputs.drained()
        own = statuses.of_one(outcomes[0]) if single and outcomes else statuses.of_many(outcomes)
        return fanout.status(own)

    return run_with_client(settings.home, main)


def _progress_line(surroundings: Surroundings, outputs: Outputs) -> ProgressLine | None:
    """Return the line of progress, None without a terminal to show it on."""
    stdout, stderr = os.isatty(1), os.isatty(2)
    if not (stdout or stderr):
        return None

    def columns() -> int:
        return shutil.get_terminal_size().columns

    # With the output on the same terminal one stream keeps both in order.
    return ProgressLine(surroundings.reactor.seconds, outputs.write, not stdout, columns)


def _json_event(outputs: Outputs, device: str, kind: str, body: dict[str, Any]) -> None:
    shown = {"device": device, "event": kind, "body": body}
    outputs.write(encode_json(shown) + b"\n", False)


async def _describe(client: Client, targets: list[Target], handler: str) -> Handler:
    """Return the handler's description, of the first device that is there."""
    present = [target for target in targets if target.absent is None] or targets
    for known in await client.handlers(present[0].device):
        if known.name == handler:
            return known
    raise Refused(
        "not-found",
        f"{present[0].device} has no handler {handler}",
        f"list them with: rshell handlers {present[0].device}",
    )


def _request(arguments: tuple[str, ...], schema: dict[str, Any], hint: str) -> dict[str, Any]:
    try:
        return build_request(arguments, schema)
    except BadArgument as error:
        raise RshellError("bad-request", str(error), hint) from None
