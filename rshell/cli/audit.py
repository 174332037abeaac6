"""``rshell audit``: the audit log, shown, followed, checked and exported."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import msgspec

from rshell.access.printable import printable
from rshell.access.syslog import syslog_line
from rshell.access.touched import touched_line
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, parse_moment, settings_of, written_as
from rshell.cli.pipes import say
from rshell.cli.presenting import encode_json
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.tables import print_table
from rshell.cli.targets import Target
from rshell.client import AuditRow, Client, RshellError

__all__ = ["audit"]

#: The kind of rows by which devices tell of files.
FILES = "session.files"
HEADINGS = ("SEQ", "AT", "KIND", "OPERATOR", "DEVICE", "WHAT", "RESULT", "DOOR", "FROM")
#: A public key in PEM is shorter; a file given by mistake is not read whole.
MAX_KEY_BYTES = 4_096


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that pick rows."""
    options = (
        click.option("--device", metavar="D", help="Only of this device."),
        click.option("--operator", metavar="O", help="Only of this operator."),
        click.option("--handler", metavar="H", help="Only of this handler."),
        click.option("--kind", metavar="K", help="Only of this kind: device is also device.enrol."),
        click.option("--status", metavar="S", help="Only with this outcome: refused, exit, ok."),
        click.option(
            "--session",
            metavar="ID",
            callback=written_as(
                "[0-9a-f]{32}",
                "a session is named by its whole id here: see rshell sessions --json",
            ),
            help="Only of this session, its whole id.",
        ),
        click.option(
            "--file",
            metavar="GLOB",
            callback=written_as("(?s).+", "a pattern is wanted, such as '/etc/*'"),
            help="Only files that match, as the device tells: '/etc/*'.",
        ),
        click.option(
            "--since",
            "since_ms",
            callback=parse_moment,
            metavar="T",
            help="Not before: 2h, or a date.",
        ),
        click.option(
            "--until", "until_ms", callback=parse_moment, metavar="T", help="Only before then."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _with_files(wanted: dict[str, Any], files: bool) -> dict[str, Any]:
    """Return the filters; a gateway that knows no files is asked only by who wants them."""
    if wanted["file"] is None:
        wanted = {name: value for name, value in wanted.items() if name != "file"}
    if files or wanted["session"] or "file" in wanted:
        wanted["files"] = True
    return wanted


def _lines(row: AuditRow) -> Iterator[Sequence[str]]:
    """Yield a row's lines: one, or one for each file that it tells of."""
    for entry in row.files or ():
        size = entry.get("size")
        yield _audit_row(
            row,
            touched_line(entry) + ("" if size is None else f", {size} bytes"),
            entry.get("code"),
        )
    if row.left_out:
        counts = ", ".join(f"{count} {op}" for op, count in row.left_out.items())
        yield _audit_row(row, f"not named: {counts}")
    if not row.files and not row.left_out:
        yield _audit_row(row)


def _audit_row(row: AuditRow, told: str | None = None, failed: object = None) -> Sequence[str]:
    what = row.handler or row.kind
    if row.login:
        what += f" as {row.login}"
    if row.refers is not None:
        what += f" -> #{row.refers}"
    if told or row.summary:
        what += f": {told or row.summary}"
    result = row.status or ""
    if row.exit_code:
        result += f" {row.exit_code}"
    if told:
        result = f"error ({failed})" if failed else "ok"
    elif row.kind == FILES:
        result = _report(row.code or "")
    elif row.code:
        result += f" ({row.code})"
    return (
        str(row.seq),
        row.at,
        row.kind,
        row.operator or "-",
        row.device or "-",
        what,
        result.strip() or "-",
        row.door or "-",
        row.address or "-",
    )


def _report(code: str) -> str:
    """Say what a row about files is: the device's own report, which may come in several parts."""
    number = code.removeprefix("part-")
    return f"reported, part {number}" if number not in ("", "1") else "reported"


@click.group(invoke_without_command=True, short_help="Show who did what to which device.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="The newest N rows.",
)
@_filters
@click.option(
    "--files", is_flag=True, help="Each touched file on a line; with --session and --file, too."
)
@click.option("-f", "--follow", is_flag=True, help="Show what comes from now on, until Ctrl-C.")
@click.option("--verify", is_flag=True, help="Check the whole log instead: chain and signatures.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="With --verify: only this public key may have signed. May be repeated.",
)
@click.option("--against", metavar="HEAD", help="With --verify: an earlier HEAD must be in it.")
@common_options
@click.pass_context
def audit(
    context: click.Context,
    /,
    limit: int,
    files: bool,
    follow: bool,
    verify: bool,
    keys: Sequence[str],
    against: str | None,
    **wanted: Any,
) -> int:
    """Show the newest rows of the audit log, follow it, or check it.

    \b
    rshell audit --limit 20
    rshell audit --device pump-17 --operator alice --since 2h --json
    rshell audit --status refused --follow
    rshell audit --file '/etc/*' --since 1d
    rshell audit --verify
    rshell audit export --format syslog --since 2026-11-01

    WHAT is the handler and what was asked of it, clipped to the terminal; -> #12 says how that
    of row 12 ended. --follow --json prints one object a line.

    Rows of the kind session.files say what sftp, scp and rshell cp read, wrote, renamed and removed
    on a device: in the device's own words.
    """
    if context.invoked_subcommand is not None:
        return 0
    if (keys or against) and not verify:
        raise click.UsageError("--key and --against go with --verify")
    if verify and follow:
        raise click.UsageError("either --verify or --follow")
    settings = settings_of(context)
    wanted = _with_files(wanted, files)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        if verify:
            return await _verify(client, keys, against, json=settings.json)
        if follow:
            return await _follow(client, wanted, json=settings.json)
        rows = await client.audit(limit=limit, **wanted)
        if settings.json:
            print_json(rows)
        else:
            print_table(HEADINGS, [line for row in rows for line in _lines(row)], clipped="WHAT")
        return 0

    return run_with_client(settings.home, main)


async def _follow(client: Client, wanted: dict[str, Any], *, json: bool) -> int:
    async for rows in client.follow_audit(**wanted):
        for row in rows:
            if json:
                say(encode_json(row).decode() + "\n")
            else:
                for line in _lines(row):
                    say("  ".join(printable(word, 240) for word in line) + "\n")
    return 0


async def _verify(client: Client, keys: Sequence[str], against: str | None, *, json: bool) -> int:
    pems = [_key_text(name) for name in keys]
    verdict = await client.verify_audit(keys=pems, against=against)
    if json:
        print_json(verdict)
        return 0 if verdict.sound else 1
    if not verdict.sound:
        say(
            f"the audit log is broken at row {verdict.broken_at}: {printable(verdict.reason)}\n"
            f"the {verdict.rows:,} rows before it are sound\n"
        )
        return 1
    covered = f"up to row {verdict.signed:,}" if verdict.checkpoints else "none yet"
    checkpoints = f"{verdict.checkpoints:,} signed checkpoint" + "s" * (verdict.checkpoints != 1)
    say(
        f"sound: {verdict.rows:,} rows, {checkpoints} ({covered})\n"
        f"head: {printable(verdict.head)}\n"
    )
    return 0


def _key_text(name: str) -> str:
    try:
        with open(name, "rb") as file:
            return file.read(MAX_KEY_BYTES).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no PEM"
        raise RshellError("bad-request", f"cannot read the key {name}: {reason}", "") from None


@audit.command("key", short_help="Print the public key of the checkpoints.")
@common_options
@click.pass_context
def key(context: click.Context) -> int:
    """Print the public key that signs checkpoints; keep it elsewhere, for --verify --key.

    \b
    rshell audit key > audit.pub
    """
    settings = settings_of(context)

    async def main(_surroundings: Surroundings, client: Client) -> int:
        pem = await client.audit_key()
        if settings.json:
            print_json({"key": pem})
        else:
            say(pem)
        return 0

    return run_with_client(settings.home, main)


@audit.command("export", short_help="Write rows to a file, oldest first.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "syslog"]),
    default="jsonl",
    show_default=True,
    help="JSON with all that the hashes cover, or RFC 5424; one row a line.",
)
@click.option("--to", metavar="FILE", default="-", help="A file, written whole or not at all.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Only rows behind this one."
)
@_filters
@common_options
@click.pass_context
def export(context: click.Context, /, form: str, to: str, after: int, **wanted: Any) -> int:
    """Write the audit log, or the rows that are asked for, oldest first.

    \b
    rshell audit export --to audit.jsonl
    rshell audit export --format syslog --since 1d | logger --no-act -s
    rshell audit export --after 120034 >> audit.jsonl

    Each line of jsonl has details, previous_hash and hash: with it, the chain can be checked
    anywhere.
    """
    settings = settings_of(context)
    host = socket.gethostname()
    wanted = {name: value for name, value in wanted.items() if name != "file" or value is not None}

    def line(row: AuditRow) -> bytes:
        if form == "jsonl":
            return encode_json(row) + b"\n"
        return syslog_line(msgspec.structs.asdict(row), host).encode() + b"\n"

    async def main(_surroundings: Surroundings, client: Client) -> int:
        with Target(to) as target:
            async for rows in client.audit_pages(after=after, whole=True, **wanted):
                target.write(b"".join(line(row) for row in rows))
        return 0

    return run_with_client(settings.home, main)
