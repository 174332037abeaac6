"""``rshell reboot``: restart devices or their agents, or switch them off; and watch them return."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import click
from twisted.internet.defer import Deferred

from rshell.access.printable import printable
from rshell.cli import statuses
from rshell.cli.choosing import choose, names_one
from rshell.cli.fanout import Outputs, Target
from rshell.cli.options import common_options, login_option, parse_duration, settings_of
from rshell.cli.presenting import complaint, encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.cli.times import span
from rshell.client import Client, Outcome, RshellError
from rshell.client.commands import Collected
from rshell.client.reboots import WAIT_SECONDS, Reboot
from rshell.handlers import RebootRequest
from rshell.handlers.reboot import MAX_DELAY_SECONDS, RebootStep, read_steps

__all__ = ["reboot"]


#: A device may be called 3com-1: only what is a number is one.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")


class OptionalValue(click.Command):
    """Gives ``--wait`` its default where no number follows, so that ``--wait SELECTOR`` works."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the default out."""
        given: list[str] = []
        for index, word in enumerate(args):
            given.append(word)
            following = args[index + 1] if index + 1 < len(args) else ""
            if word == "--wait" and not _SECONDS.fullmatch(following):
                given[-1] = f"--wait={WAIT_SECONDS:g}"
        return super().parse_args(ctx, given)


class Rebooter:
    """Asks devices, so many at a time, and shows what they tell."""

    def __init__(
        self,
        surroundings: Surroundings,
        client: Client,
        request: RebootRequest,
        *,
        wait_seconds: float | None,
        login: str | None,
        concurrency: int,
        json: bool,
    ) -> None:
        self.outputs = Outputs(surroundings.reactor)
        self._surroundings = surroundings
        self._client = client
        self._request = request
        self._wait_seconds = wait_seconds
        self._login = login
        self._concurrency = concurrency
        self._json = json
        self._waiting: deque[Target] = deque()
        self._running: dict[str, Reboot] = {}
        self._outcomes: list[Outcome] = []
        self._done: Deferred[None] = Deferred()
        surroundings.interrupts.act = self._interrupted

    async def run(self, targets: Sequence[Target]) -> list[Outcome]:
        """Go through all devices; return their outcomes."""
        self._waiting.extend(targets)
        self._fill()
        await self._done
        await self.outputs.drained()
        return self._outcomes

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            target = self._waiting.popleft()
            if target.absent is not None:
                self._finish(target.device, target.absent)
            else:
                self._start(target.device)
        if not self._waiting and not self._running and not self._done.called:
            self._done.callback(None)

    def _start(self, device: str) -> None:
        one = Reboot(
            self._client,
            self._surroundings.reactor,
            device,
            self._request,
            wait_seconds=self._wait_seconds,
            progress=lambda step: self._step(device, step),
            login=self._login,
        )
        self._running[device] = one
        running = Deferred.fromCoroutine(one.run())
        running.addCallbacks(lambda outcome: outcome, _refused)
        running.addCallback(lambda outcome: self._ended(device, outcome))

    def _ended(self, device: str, outcome: Outcome) -> None:
        del self._running[device]
        self._finish(device, outcome)
        self._fill()

    def _interrupted(self, count: int) -> None:
        if count > 1:
            self._surroundings.leave(self._surroundings.interrupts.status)
            return
        self._waiting.clear()
        for one in list(self._running.values()):
            one.cancel()
        self._fill()

    # -- what is shown ---------------------------------------------------------------------------

    def _step(self, device: str, step: RebootStep) -> None:
        if self._json:
            told = {
                name: value
                for name in step.__struct_fields__
                if (value := getattr(step, name)) not in ("", None, 0.0, False, {})
            }
            self._line(encode_json({"device": device, "progress": told}), False)
            return
        text = _told(step, self._request.action)
        if text:
            self._line(f"{printable(device)}: {text}".encode(), False)

    def _finish(self, device: str, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._json:
            shown = _outcome_fields(outcome)
            self._line(encode_json({"device": device, "outcome": shown}), False)
        elif outcome.status == "ok":
            self._line(f"{printable(device)}: {self._good(outcome)}".encode(), False)
        else:
            self.outputs.write(complaint(device, outcome), True)

    def _good(self, outcome: Outcome) -> str:
        confirmed = isinstance(outcome.result, dict) and outcome.result.get("confirmed") is True
        if confirmed:
            return printable(outcome.message or "done", 300)
        if self._request.delay_seconds:
            return "scheduled; rshell reboot --cancel takes it back"
        if self._request.action == "reboot":
            return "requested; rshell reboot --wait would watch it return"
        return "requested"

    def _line(self, line: bytes, stderr: bool) -> None:
        self.outputs.write(line + b"\n", stderr)


def _refused(failure: Any) -> Outcome:
    failure.trap(RshellError)
    error = failure.value
    return Outcome(status="refused", code=error.code, message=error.message)


def _told(step: RebootStep, action: str) -> str:
    """Return a step in words; "" if it says nothing new to a person."""
    what = {"poweroff": "switching off", "restart-agent": "restarting its agent"}.get(
        action, "going down"
    )
    match step.step:
        case "accepted" if step.due_in_seconds:
            return f"accepted, due in {span(step.due_in_seconds)}"
        case "accepted":
            return "accepted"
        case "going":
            return what
        case "away":
            return "away"
        case "back" if step.seconds is not None:
            return f"has a link again after {span(step.seconds)}"
        case _:
            return ""


# -- the verb --------------------------------------------------------------------------------------


@click.command(cls=OptionalValue, short_help="Restart devices, and see them return.")
@login_option
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(1, 86_400),
    metavar="[S]",
    help=f"Wait until it is back with another boot id, {WAIT_SECONDS:g} s at most or S.",
)
@click.option(
    "--delay",
    callback=parse_duration,
    metavar="T",
    help="Let T pass first, such as 90s or 10m; it can be taken back so long.",
)
@click.option("--reason", default="", metavar="TEXT", help="Told to who is logged in, and kept.")
@click.option("--poweroff", is_flag=True, help="Switch the device off instead.")
@click.option("--agent", "only_agent", is_flag=True, help="Restart the device's agent only.")
@click.option("--cancel", is_flag=True, help="Take back a reboot whose time has not come.")
@click.option("--status", is_flag=True, help="Show what became of the last ones.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many devices at once; 1 with --wait is one after the other.",
)
@common_options
@click.argument("selector")
@click.pass_context
def reboot(
    context: click.Context,
    selector: str,
    login: str | None,
    wait_seconds: float | None,
    delay: int | None,
    reason: str,
    poweroff: bool,
    only_agent: bool,
    cancel: bool,
    status: bool,
    concurrency: int,
) -> int:
    """Restart every device that SELECTOR picks.

    \b
    rshell reboot pump-17                         ask for it, and leave
    rshell reboot --wait pump-17                  done when it is back with another boot id
    rshell reboot --wait 600 --concurrency 1 'site=berlin'       one after the other
    rshell reboot --delay 10m --reason 'new kernel' 'pump-*'     those logged in are told
    rshell reboot --cancel 'pump-*'               as long as its time has not come
    rshell reboot --status pump-17                what became of the last ones
    rshell reboot --agent pump-17                 the agent only; shells on it live on
    rshell reboot --poweroff pump-17              nobody will see it return

    A device is asked once and never again by itself. It writes down that it was asked before it
    acts, and tells after the restart whether its boot id has changed; a device that is back with
    the same one has failed. Its own policy limits how often it may be restarted.

    Exit status: 0 if all were asked (with --wait: are back); 255 if one device failed or was not
    back in time, 1 if some of several. Ctrl-C takes back what waits for its time; what a device
    has begun goes on.
    """
    _check(poweroff, only_agent, cancel, status, wait_seconds, delay)
    names_one(selector)
    settings = settings_of(context)
    action = "poweroff" if poweroff else "restart-agent" if only_agent else "reboot"
    if cancel or status:
        asked = RebootRequest(action="cancel" if cancel else "status")
        return run_with_client(
            settings.home,
            lambda surroundings, client: _question(
                surroundings, client, selector, asked, login, settings.json
            ),
        )
    try:
        request = RebootRequest(action=action, delay_seconds=delay or 0, reason=reason)  # type: ignore[arg-type]  # one of three
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--reason") from None
    if len(reason) > 200 or request.delay_seconds > MAX_DELAY_SECONDS:
        raise click.UsageError("a reason has at most 200 characters, a delay is at most a day")

    async def main(surroundings: Surroundings, client: Client) -> int:
        targets = await choose(client, selector)
        rebooter = Rebooter(
            surroundings,
            client,
            request,
            wait_seconds=wait_seconds,
            login=login,
            concurrency=concurrency,
            json=settings.json,
        )
        outcomes = await rebooter.run(targets)
        if surroundings.interrupts.received:
            return surroundings.interrupts.status
        own = statuses.of_many(outcomes)
        if len(targets) == 1:
            own = statuses.of_one(outcomes[0]) if outcomes else statuses.OURS
        return rebooter.outputs.status(own)

    return run_with_client(settings.home, main)


def _check(
    poweroff: bool,
    only_agent: bool,
    cancel: bool,
    status: bool,
    wait_seconds: float | None,
    delay: int | None,
) -> None:
    """Refuse combinations that mean nothing.

    Raises:
        click.UsageError: It is one.
    """
    if sum((poweroff, only_agent, cancel, status)) > 1:
        raise click.UsageError("give at most one of --poweroff, --agent, --cancel and --status")
    if poweroff and wait_seconds is not None:
        raise click.UsageError("nobody can tell a device that is off from one that is lost")
    if (cancel or status) and (wait_seconds is not None or delay is not None):
        raise click.UsageError("--cancel and --status take neither --wait nor --delay")


async def _question(
    surroundings: Surroundings,
    client: Client,
    selector: str,
    request: RebootRequest,
    login: str | None,
    json: bool,
) -> int:
    """Ask devices about their reboots, all at once: the answers are a few lines each."""
    targets = await choose(client, selector)
    outputs = Outputs(surroundings.reactor)
    rows: list[tuple[str, RebootStep]] = []
    asked = [(target, _ask(client, target, request, login)) for target in targets]
    outcomes: list[Outcome] = []
    for target, pending in asked:
        steps, outcome = await pending
        outcomes.append(outcome)
        rows += [(target.device, step) for step in steps]
        if outcome.status != "ok" and not json:
            outputs.write(complaint(target.device, outcome), True)
    if json:
        shown = [{"device": device, **_fields(step)} for device, step in rows]
        shown += [
            {"device": target.device, "outcome": _outcome_fields(outcome)}
            for (target, _), outcome in zip(asked, outcomes, strict=True)
            if outcome.status != "ok"
        ]
        outputs.write(encode_json(shown) + b"\n", False)
    await outputs.drained()
    if not json and request.action == "status":
        print_table(
            ("DEVICE", "WHEN", "WHAT", "BY", "BECAME", "MESSAGE"),
            [_row(device, step) for device, step in rows],
            clipped="MESSAGE",
        )
    elif not json:
        for device, step in rows:
            outputs.write(f"{printable(device)}: {printable(step.step)}\n".encode(), False)
        await outputs.drained()
    own = statuses.of_one(outcomes[0]) if len(outcomes) == 1 else statuses.of_many(outcomes)
    return outputs.status(own)


def _ask(
    client: Client, target: Target, request: RebootRequest, login: str | None
) -> Deferred[tuple[list[RebootStep], Outcome]]:
    async def ask() -> tuple[list[RebootStep], Outcome]:
        if target.absent is not None:
            return [], target.absent
        collected = Collected(256 * 1024)
        try:
            session = client.open(target.device, "reboot", request, collected, login=login)
        except RshellError as error:
            return [], Outcome(status="refused", code=error.code, message=error.message)
        session.write_eof()
        outcome = await session.outcome
        if outcome.status == "exit":
            said = " ".join(collected.stderr.decode(errors="replace").split())
            outcome = Outcome(status="error", code="failed", message=said[:500] or None)
        return read_steps(bytearray(collected.stdout)), outcome

    return Deferred.fromCoroutine(ask())


def _fields(step: RebootStep) -> dict[str, Any]:
    return {
        name: value
        for name in step.__struct_fields__
        if (value := getattr(step, name)) not in ("", None, 0.0, {})
    }


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    return {
        name: value
        for name in outcome.__struct_fields__
        if (value := getattr(outcome, name)) is not None
    }


def _row(device: str, step: RebootStep) -> tuple[str, ...]:
    ago = step.seconds_ago.get("accepted")
    message = step.message or ""
    if step.reason:
        message = f"{message} ({step.reason})" if message else step.reason
    return (
        device,
        "-" if ago is None else f"{span(ago)} ago",
        step.action or "-",
        step.operator or "-",
        step.state or "-",
        message or "-",
    )
