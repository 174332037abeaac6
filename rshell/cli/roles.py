"""Verbs that say who may do what: roles, operators."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rshell.access.grants import seconds_words, term_words
from rshell.access.printable import printable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, login_option, parse_duration, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.client import Client, Grant, OperatorInfo, Role, RoleCheck

__all__ = ["operators", "roles"]

#: What `roles check` exits with if the answer is no.
NOT_ALLOWED = 1


@click.group(short_help="Say who may do what on which devices.")
@common_options
def roles() -> None:
    """Roles: which devices, which handlers there, as which logins.

    \b
    rshell roles set berlin-logs --select site=berlin --allow tail,facts
    rshell roles assign bob berlin-logs
    rshell roles check bob pump-17 shell --as root

    Nothing is granted by default; the grants of an operator's roles add up; what a device's own
    policy denies, no role allows. The role admin is built in and grants everything.
    """


def _words(texts: Sequence[str]) -> list[str]:
    """Return the names in lists as ``exec,shell``, whose option may be repeated."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _limit(context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    """Return a limit's seconds; ``0`` and ``none`` are no limit."""
    if value in (None, "0", "none"):
        return 0
    return parse_duration(context, parameter, value) or 0


def _grant_words(grant: Grant) -> str:
    if grant.admin and grant.console:
        return "everything"
    if grant.admin or grant.console:
        words = ["everything (console)" if grant.console else "everything but the console"]
        return "; ".join(words + term_words(grant))
    words = [grant.select]
    if grant.handlers:
        words.append(f"allow {','.join(grant.handlers)}")
    if grant.logins:
        words.append(f"as {','.join(grant.logins)}")
    words += [f"forward {target}" for target in grant.forward]
    words += [f"forward-back {target}" for target in grant.forward_back]
    if grant.watch:
        words.append("watch")
    return "; ".join(words + term_words(grant))


def _role_rows(found: Sequence[Role]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for role in found:
        for number, grant in enumerate(role.grants, 1):
            first = number == 1
            rows.append(
                (
                    role.name if first else "",
                    str(role.operators) if first else "",
                    str(number),
                    _grant_words(grant),
                )
            )
        if not role.grants:
            rows.append((role.name, str(role.operators), "-", "nothing"))
    return rows


@roles.command("list", short_help="List roles.")
@common_options
@click.pass_context
def list_roles(context: click.Context) -> int:
    """List all roles with their grants, and how many operators have them."""
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        _show(settings.json, await client.roles())
        return 0

    return run_with_client(settings.home, main)


def _show(json: bool, found: list[Role]) -> None:
    if json:
        print_json(found)
    else:
        print_table(("ROLE", "OPERATORS", "NO", "GRANTS"), _role_rows(found), clipped="GRANTS")


@roles.command("show", short_help="Show one role.")
@common_options
@click.argument("name")
@click.pass_context
def show_role(context: click.Context, name: str) -> int:
    """Show the grants of the role NAME, each as options of rshell roles set."""
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        (role,) = await client.roles(name)
        if settings.json:
            print_json(role)
            return 0
        by = f", changed {role.changed_at} by {role.changed_by}" if role.changed_at else ""
        having = "1 operator" if role.operators == 1 else f"{role.operators} operators"
        say(printable(f"{role.name}: {having}{by}") + "\n")
        for number, grant in enumerate(role.grants, 1):
            say(printable(f"  {number}. {_grant_words(grant)}", 8_000) + "\n")
        return 0

    return run_with_client(settings.home, main)


@roles.command("set", short_help="Make a role, or change what it grants.")
@click.option("--select", metavar="SELECTOR", help="On these devices, by name and label. [*]")
@click.option(
    "--allow", multiple=True, metavar="HANDLER[,…]", help="These handlers; * is all but forward."
)
@click.option(
    "--as",
    "logins",
    multiple=True,
    metavar="LOGIN[,…]",
    help="As these accounts; * is any. Without it as the device's default login only.",
)
@click.option(
    "--forward",
    multiple=True,
    metavar="TARGET",
    help="Forward to localhost:80, 10.0.0.0/8:443, unix:/run/x.sock; * is all it allows.",
)
@click.option(
    "--forward-back", multiple=True, metavar="TARGET", help="Let it listen there for forward -R."
)
@click.option("--watch", is_flag=True, help="Look on at other operators' sessions there.")
@click.option(
    "--idle-limit",
    metavar="SPAN",
    callback=_limit,
    help="End a terminal that nobody types at for so long: 15m. [0: never]",
)
@click.option(
    "--time-limit",
    metavar="SPAN",
    callback=_limit,
    help="End any session after so long. [0: never]",
)
@click.option(
    "--record",
    type=click.Choice(("output", "input", "off")),
    help="Record what terminals show, what is typed too, or nothing. [as the gateway says]",
)
@click.option("--console", is_flag=True, help="The gateway's console, which is everything.")
@click.option("--admin", is_flag=True, help="Everything but the console.")
@click.option("--add", is_flag=True, help="Add this grant to those that the role has.")
@common_options
@click.argument("name")
@click.pass_context
def set_role(
    context: click.Context,
    name: str,
    select: str | None,
    allow: tuple[str, ...],
    logins: tuple[str, ...],
    forward: tuple[str, ...],
    forward_back: tuple[str, ...],
    watch: bool,
    idle_limit: int,
    time_limit: int,
    record: str | None,
    console: bool,
    admin: bool,
    add: bool,
) -> int:
    """Make the role NAME with one grant, in place of what it granted; --add adds another grant.

    \b
    rshell roles set berlin-ops --select site=berlin --allow exec,shell,files,sftp --as web
    rshell roles set berlin-ops --add --select site=berlin --allow tail,facts
    rshell roles set db-tunnel --select 'db-*,tier=prod' --forward localhost:5432
    rshell roles set second-admin --admin
    rshell roles set contractors --select site=oslo --allow shell --idle-limit 15m \
        --time-limit 8h --record input
    rshell roles set auditors --select '*' --watch

    Of several grants that allow the same session the longest limit holds, and the most is
    recorded. Selectors of roles see names and the labels that operators set: facts, and names
    that a device proposed and nobody accepted, decide nothing. A change holds at once: sessions
    that are no longer granted end within a second.
    """
    settings = settings_of(context)
    grant = Grant(
        select="*" if select is None else select,
        handlers=_words(allow),
        logins=_words(logins),
        forward=list(forward),
        forward_back=list(forward_back),
        watch=watch,
        idle_limit=idle_limit,
        time_limit=time_limit,
        record=record,
        console=console,
        admin=admin,
    )
    if select is None and not (admin or console):
        raise click.UsageError("say on which devices: --select SELECTOR, '*' for all")

    async def main(_surroundings: Surroundings, client: Client) -> int:
        role = await client.set_role(name, [grant], add=add)
        if role.unknown_handlers:
            names = printable(", ".join(role.unknown_handlers))
            sys.stderr.write(f"rshell: no device has told of a handler called {names} yet\n")
        if settings.json:
            print_json(role)
        else:
            count = "1 grant" if len(role.grants) == 1 else f"{len(role.grants)} grants"
            say(f"role {printable(role.name)} has {count}\n")
        return 0

    return run_with_client(settings.home, main)


@roles.command("remove", short_help="Remove a role.")
@click.option("--force", is_flag=True, help="Also from the operators that have it.")
@common_options
@click.argument("name")
@click.pass_context
def remove_role(context: click.Context, name: str, force: bool) -> int:
    """Remove the role NAME. One that operators have stays, unless --force takes it from them.

    \b
    rshell roles remove berlin-ops
    rshell roles remove berlin-ops --force        who had it is left without it, invites are void
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        had = await client.remove_role(name, force=force)
        if settings.json:
            print_json({"removed": name, "operators": had})
        else:
            taken = f", taken from {', '.join(had)}" if had else ""
            say(printable(f"removed role {name}{taken}", 4_000) + "\n")
        return 0

    return run_with_client(settings.home, main)


@roles.command("assign", short_help="Give an operator roles.")
@common_options
@click.argument("operator")
@click.argument("names", nargs=-1, required=True, metavar="ROLE...")
@click.pass_context
def assign(context: click.Context, operator: str, names: tuple[str, ...]) -> int:
    """Give OPERATOR the roles, besides those that they have.

    \b
    rshell roles assign bob berlin-ops db-tunnel
    """
    return _assign(context, operator, names, ())


@roles.command("unassign", short_help="Take roles from an operator.")
@common_options
@click.argument("operator")
@click.argument("names", nargs=-1, required=True, metavar="ROLE...")
@click.pass_context
def unassign(context: click.Context, operator: str, names: tuple[str, ...]) -> int:
    """Take the roles from OPERATOR; what they no longer grant ends within a second.

    \b
    rshell roles unassign bob db-tunnel
    """
    return _assign(context, operator, (), names)


def _assign(
    context: click.Context, operator: str, add: Sequence[str], remove: Sequence[str]
) -> int:
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        now = await client.assign_roles(operator, add, remove)
        if settings.json:
            print_json({"name": operator, "roles": now})
        else:
            say(printable(f"{operator}: {', '.join(now) or 'no roles'}", 4_000) + "\n")
        return 0

    return run_with_client(settings.home, main)


@roles.command("check", short_help="Tell whether an operator may do something, and why.")
@click.option("--forward", "target", metavar="TARGET", help="To where, for the handler forward.")
@login_option
@common_options
@click.argument("operator")
@click.argument("device")
@click.argument("handler")
@click.pass_context
def check(
    context: click.Context,
    operator: str,
    device: str,
    handler: str,
    login: str | None,
    target: str | None,
) -> int:
    """Tell whether OPERATOR may use HANDLER on DEVICE: by which grant, or what is missing.

    \b
    rshell roles check bob pump-17 shell
    rshell roles check bob pump-17 exec --as root
    rshell roles check bob db-1 forward --forward localhost:5432

    Everybody may ask about themselves. The device's own policy comes on top: see there with
    rshell-agent policy check. Exit status: 0 if it is allowed, 1 if not.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        answer = await client.check_role(operator, device, handler, login=login, target=target)
        if settings.json:
            print_json(answer)
        else:
            _explain(answer)
        return 0 if answer.allowed else NOT_ALLOWED

    return run_with_client(settings.home, main)


def _explain(answer: RoleCheck) -> None:
    say(printable(f"{'yes' if answer.allowed else 'no'}: {answer.reason}", 1_000) + "\n")
    for one in answer.grants:
        missing = "; ".join(one.missing) or "grants it"
        say(printable(f"  {one.rule} ({one.grant}): {missing}", 4_000) + "\n")
    if (terms := answer.terms) is not None:
        for what, seconds, rule in (
            ("idle limit", terms.idle_limit, terms.idle_rule),
            ("time limit", terms.time_limit, terms.time_rule),
        ):
            limit = seconds_words(seconds) if seconds else "none"
            say(printable(f"  {what}: {limit} ({rule})") + "\n")
        whose = terms.record_rule or "as the gateway is configured"
        say(printable(f"  recorded, if it has a terminal: {terms.recorded} ({whose})") + "\n")
    if answer.watch_rule is not None:
        say(printable(f"  may watch others' sessions there ({answer.watch_rule})") + "\n")


def _operator_row(one: OperatorInfo) -> tuple[str, ...]:
    state = one.status if one.status != "active" or not one.links else "connected"
    return (one.name, state, ",".join(one.roles) or "-", one.last_seen or "-")


@click.command(short_help="List operators, their roles, when last seen.")
@common_options
@click.pass_context
def operators(context: click.Context) -> int:
    """List all operators, revoked ones too.

    \b
    rshell operators
    rshell operators --json

    SEEN is when they last did something that the audit log tells of.
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        found = await client.operators()
        if settings.json:
            print_json(found)
        else:
            print_table(
                ("OPERATOR", "STATE", "ROLES", "SEEN"), [_operator_row(one) for one in found]
            )
        return 0

    return run_with_client(settings.home, main)
