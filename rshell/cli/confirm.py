"""Changes that undo themselves: the options of ``rshell run`` for them, and ``rshell confirm``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import click

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.fanout import Fanout, Outputs, Target
from rshell.cli.options import common_options, settings_of
from rshell.cli.pipes import ByteSource
from rshell.cli.presenting import JsonPresenter, Presenter, RawPresenter, encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.times import span
from rshell.client import Client, Refused, Session, SessionReceiver
from rshell.client.confirming import AFTER_SECONDS, Confirmer, GuardEvent, Hearing
from rshell.handlers import Confirm
from rshell.handlers.confirm import ROLLBACK

__all__ = ["Change", "confirm", "confirm_options"]

Command = Callable[..., Any]


@attrs.frozen
class Change:
    """What the options say.

    Attributes:
        request: For the exec request.
        ask: Whether a person decides.
        failed: Whether a command that fails may stand.
    """

    request: Confirm
    ask: bool
    failed: bool

    @classmethod
    def of(
        cls, seconds: int | None, rollback: str | None, ask: bool, failed: bool
    ) -> Change | None:
        """Return what was asked for, or None.

        Raises:
            click.UsageError: One option without the other, or nobody there to ask.
        """
        if (seconds is None) != (rollback is None):
            raise click.UsageError("--confirm and --rollback belong together")
        if seconds is None or rollback is None:
            if ask or failed:
                raise click.UsageError("--confirm-ask and --confirm-failed need --confirm")
            return None
        line = os.fsencode(rollback)
        if not 0 < len(line) <= 4096:
            raise click.UsageError(
                "a rollback is a line of 1 to 4096 bytes; a script may be longer"
            )
        if ask and not os.isatty(0):
            raise click.UsageError("--confirm-ask needs a terminal to ask at")
        return cls(Confirm(seconds=seconds, rollback=line, keep_failed=failed), ask, failed)

    @property
    def grace_seconds(self) -> float:
        """How long to try to come back to the device."""
        return self.request.seconds + AFTER_SECONDS

    def confirmer(self, surroundings: Surroundings, outputs: Outputs, json: bool) -> Confirmer:
        """Return what answers the device."""
        ask = partial(_ask, surroundings, outputs) if self.ask else None
        return Confirmer(keep_failed=self.failed, ask=ask, told=partial(_tell, outputs, json))


def confirm_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in (
        click.option(
            "--confirm-failed",
            is_flag=True,
            help="A command that fails may stand, too, instead of being undone at once.",
        ),
        click.option("--confirm-ask", is_flag=True, help="Ask here whether the change may stand."),
        click.option(
            "--rollback",
            metavar="CMD2",
            help="The line that undoes it; the device runs it by itself.",
        ),
        click.option(
            "--confirm",
            type=click.IntRange(5, 86_400),
            metavar="S",
            help="Undo the command unless it is confirmed over a new link within S seconds.",
        ),
    ):
        command = option(command)
    return command


def _tell(outputs: Outputs, json: bool, device: str, word: str, event: GuardEvent) -> None:
    left = event.left_ms / 1000
    if json:
        told = {"step": word, "seconds_left": left, "command": event.command}
        outputs.write(encode_json({"device": device, "progress": told}) + b"\n", False)
        return
    text = {
        "waiting": f"the command has ended; it has {span(left)} to prove itself over a new link",
        "confirming": "reached over a new link: confirmed",
        "undoing": "undoing it",
        "unclear": "how the command ended is not known, so it is not confirmed; "
        f"rshell confirm can, within {span(left)}",
    }.get(word, word)
    outputs.write(f"rshell: {printable(device)}: {text}\n".encode(), True)


def _ask(
    surroundings: Surroundings,
    outputs: Outputs,
    event: GuardEvent,
    answer: Callable[[bool], None],
) -> None:
    """Ask at the terminal; silence undoes it, by the device's own time."""
    text = f"rshell: keep the change? It is undone in {span(event.left_ms / 1000)}. [y/N] "
    outputs.write(text.encode(), True)

    def typed(data: bytes) -> None:
        source.stopProducing()
        answer(data.strip().lower() in (b"y", b"yes"))

    source = ByteSource(surroundings.reactor, 0, typed)
    source.start()


@click.command(short_help="Let a change stand that waits to be confirmed.")
@click.option("--rollback", is_flag=True, help="Undo it now instead.")
@common_options
@click.argument("session")
@click.pass_context
def confirm(context: click.Context, session: str, rollback: bool) -> int:
    """Confirm the change of SESSION, of which the first digits of its id suffice.

    \b
    rshell run --confirm 600 --rollback 'cp /root/net.bak /etc/net.conf' pump-17 -- apply-net
    rshell sessions                               ... if that rshell was closed meanwhile
    rshell confirm 4f2a91c7
    rshell confirm --rollback 4f2a91c7

    The device dials a new link to prove that it can, and a change counts as confirmed once this
    command was heard over it. Exit status: as with run, so 0 if the command had succeeded.
    """
    settings = settings_of(context)

    async def main(surroundings: Surroundings, client: Client) -> int:
        # not above: every `rshell run` loads this module for its options
        from rshell.client.session_listing import find_session

        info = await find_session(client, session)
        if info.handler != "exec":
            raise Refused("bad-request", f"{info.session[:8]} is no command but {info.handler}", "")
        if info.outcome is not None:
            raise Refused("not-found", "that is decided already: see rshell audit", "")
        outputs = Outputs(surroundings.reactor)
        confirmer = Confirmer(keep_failed=True, told=partial(_tell, outputs, settings.json))

        def heard(current: Session, kind: str, body: dict[str, Any]) -> None:
            if rollback:
                current.send_event(ROLLBACK)
            else:
                confirmer.heard(current, kind, body)

        def open_session(device: str, receiver: SessionReceiver) -> Session:
            hearing = Hearing(receiver, heard)
            hearing.session = client.attach(
                info, hearing, priority="normal", grace_seconds=AFTER_SECONDS
            )
            return hearing.session

        def present(device: str) -> Presenter:
            if settings.json:
                return JsonPresenter(device, outputs.write)
            return RawPresenter(device, outputs.write)

        fanout = Fanout(surroundings, open_session, present, outputs)
        outcomes = await fanout.run([Target(info.device)])
        return fanout.status(statuses.of_one(outcomes[0]) if outcomes else statuses.OURS)

    return run_with_client(settings.home, main)
