"""``rshell run``: a command on one device as with ssh, or on many with prefixed lines."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial

import click

from rshell.cli import statuses
from rshell.cli.choosing import choose, names_one
from rshell.cli.confirm import Change, confirm_options
from rshell.cli.fanout import Fanout, Outputs
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.presenting import JsonPresenter, PrefixPresenter, Presenter, RawPresenter, Write
from rshell.cli.progress_line import ProgressLine
from rshell.cli.running import Surroundings, run_with_client
from rshell.client import Client, Session, SessionReceiver
from rshell.client.commands import exec_request
from rshell.client.confirming import Hearing
from rshell.client.requests import encode_request

__all__ = ["CommandLine", "command_of", "presenter_for", "run"]

#: A single word with one of these is meant for a shell.
_FOR_A_SHELL = re.compile(r"[\s|&;<>()$`\\\"'*?\[\]#~=%!{}]")


class CommandLine(click.Command):
    """A command whose second word begins somebody else's command line.

    Options of ours may stand before and after the selector; from the command on nothing is
    ours any more, also without ``--``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``--`` where the device's command begins."""
        return super().parse_args(ctx, self._separated(ctx, args))

    def _separated(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        words = 0
        index = 0
        while index < len(args):
            word = args[index]
            if word == "--":
                break
            if word in takes_value:
                index += 1
            elif not word.startswith("-") or word == "-":
                words += 1
                if words == 2:
                    return [*args[:index], "--", *args[index:]]
            index += 1
        return args


def command_of(
    words: Sequence[str], *, as_line: bool, as_argv: bool
) -> tuple[list[bytes] | None, bytes | None]:
    """Return (argv, line), of which one is None: how the words of a command are run.

    Several words are run as they are.  One word with a space or a character that means
    something to a shell is a line for the login's shell.
    """
    encoded = [os.fsencode(word) for word in words]
    if as_line or (not as_argv and len(words) == 1 and _FOR_A_SHELL.search(words[0])):
        return None, b" ".join(encoded)
    return encoded, None


def presenter_for(
    outputs: Outputs | ProgressLine, json: bool, prefixed: bool, quiet: bool, device: str
) -> Presenter:
    """Return how one device's session is shown."""
    write: Write = outputs.write
    if json:
        return JsonPresenter(device, write)
    if prefixed:
        return PrefixPresenter(device, write)
    return RawPresenter(device, write, quiet)


@click.command(cls=CommandLine, short_help="Run a command on one device or on many.")
@login_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    metavar="S",
    help="End the command on the device after S seconds.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 8000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many devices run it at once.",
)
@click.option("--no-prefix", is_flag=True, help="Several devices: no names before the lines.")
@click.option("-n", "--no-input", is_flag=True, help="Do not pass standard input on.")
@click.option("--line", "as_line", is_flag=True, help="Join the words; the login's shell runs it.")
@click.option("--argv", "as_argv", is_flag=True, help="Run the words as they are, even one.")
@confirm_options
@common_options
@click.argument("selector")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    selector: str,
    command: tuple[str, ...],
    login: str | None,
    timeout: float | None,
    concurrency: int,
    no_prefix: bool,
    no_input: bool,
    as_line: bool,
    as_argv: bool,
    confirm: int | None,
    rollback: str | None,
    confirm_ask: bool,
    confirm_failed: bool,
) -> int:
    """Run a command on every device that SELECTOR picks.

    \b
    rshell run pump-17 -- uptime
    rshell run pump-17 -- 'dmesg | tail -3'       one word with shell characters: a shell runs it
    rshell run pump-17 --as root -- tar c /etc > etc.tar
    rshell run 'pump-*,site=berlin' --timeout 10 -- systemctl is-active pumpd

    \b
    rshell run --confirm 120 --rollback 'cp /root/net.bak /etc/net.conf; apply-net' \\
        pump-17 -- apply-net                      undone unless a new link comes about in 120 s

    Several words are run exactly as given, without any shell.

    One device: its output is ours, our standard input is passed on, and the exit status is the
    command's own; 128+n if signal n ended it, 124 on timeout, 255 if it could not be run.

    Several devices: each line gets the device's name in front, and the exit status is 0 only if
    all succeeded. Devices that are away count as failed.

    With --confirm the device writes the rollback down before it runs the command, dials a new link
    after it, and runs the rollback by itself unless this rshell confirms over that link in time: so
    a change that cuts the link undoes itself, over a crash or a restart too. A command that fails
    is undone at once. The time counts from the command's start. Status 255 if it was undone.

    Ctrl-C cancels what runs; a second one leaves at once.
    """
    if as_line and as_argv:
        raise click.UsageError("give either --line or --argv")
    names_one(selector)
    argv, line = command_of(command, as_line=as_line, as_argv=as_argv)
    change = Change.of(confirm, rollback, confirm_ask, confirm_failed)
    request = encode_request(exec_request(argv, line, timeout, change.request if change else None))
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        def open_session(device: str, receiver: SessionReceiver) -> Session:
            if confirmer is None or change is None:
                return client.open(device, "exec", request, receiver, login=login)
            hearing = Hearing(receiver, confirmer.heard)
            hearing.session = client.open(
                device, "exec", request, hearing, login=login, grace_seconds=change.grace_seconds
            )
            return hearing.session

        targets = await choose(client, selector)
        single = len(targets) == 1
        if change is not None and change.ask and not single:
            raise click.UsageError("--confirm-ask is for one device")
        outputs = Outputs(surroundings.reactor)
        prefixed = not single and not no_prefix
        present = partial(presenter_for, outputs, settings.json, prefixed, False)
        confirmer = change.confirmer(surroundings, outputs, settings.json) if change else None
        fanout = Fanout(
            surroundings,
            open_session,
            present,
            outputs,
            concurrency=concurrency,
            stdin=single and not no_input and change is None,
        )
        outcomes = await fanout.run(targets)
        own = statuses.of_one(outcomes[0]) if single and outcomes else statuses.of_many(outcomes)
        return fanout.status(own)

    return run_with_client(settings.home, main)
