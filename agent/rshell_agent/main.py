"""The command ``rshell-agent``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rshell.lazy import modules_absent, twisted_alone
from rshell_agent import __version__
from rshell_agent.home import default_home

__all__ = ["import_agent", "main"]

_EPILOG = """\
examples:
  rshell-agent join rsh1.gw.example.net:7411....    make this machine a device of the fleet
  rshell-agent join - < join.txt                    the same; the string stays out of `ps`
  rshell-agent key                                  its public key, for rshell invite device --key
  rshell-agent run                                  be the agent, in the foreground
  rshell-agent status                               is it connected, and if not, why

The home is --home, else $RSHELL_AGENT_HOME, else /var/lib/rshell-agent for root and
~/.local/state/rshell-agent for others.
"""

_CHECK_EXAMPLES = """\
rshell-agent policy check                            all of it, and whether it is a boundary
  rshell-agent policy check exec --as root             may operators run commands as root
  rshell-agent policy check files /srv/data/x          may files be read and written there
  rshell-agent policy check forward localhost:5432     may that be forwarded

The exit status is 0 if it is allowed (without HANDLER: if the policy can be used), else 1."""

_JOIN_EXAMPLES = """\
rshell-agent join - --name pump-17 < join.txt

A device that has to be accepted shows its fingerprint, to be compared with what `rshell pending`
shows, and waits. It may be interrupted: the string is kept in HOME/join, and `rshell-agent join`
without one, or `rshell-agent run`, goes on. An image for many devices has the string there."""

#: Lines of the flight recorder that `status` shows.
_RECENT = 5


class _Failed(Exception):
    """The command ends with this line and status 1, or that which is its second argument."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rshell-agent",
        description="The device side of rshell: dials out, and runs what policy allows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rshell-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_join(commands)
    run = _command(
        commands,
        "run",
        "be the agent, in the foreground (as: twistd -n rshell-agent)",
        "rshell-agent run --home /var/lib/rshell-agent",
    )
    run.add_argument("--debug", action="store_true", help="log more")
    status = _command(
        commands, "status", "show whether the agent is connected", "rshell-agent status --json"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    keeper = _command(
        commands,
        "keeper",
        "be the keeper (the agent starts one by itself)",
        "rshell-agent keeper --policy /etc/rshell/agent.toml",
    )
    keeper.add_argument("--policy", metavar="FILE", help="default: HOME/agent.toml")
    policy = commands.add_parser("policy", help="look at this device's policy")
    verbs = policy.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_check(verbs)
    return parser


def _add_join(commands: Any) -> None:
    join = _command(commands, "join", "join a fleet", _JOIN_EXAMPLES)
    join.add_argument(
        "join",
        metavar="JOIN",
        nargs="?",
        help="the join string; - reads it from stdin; without it, an earlier join goes on",
    )
    join.add_argument("--name", metavar="N", help="the name to propose (default: the host's name)")
    join.add_argument("--force", action="store_true", help="also if this home has joined already")
    join.add_argument(
        "--no-wait", action="store_true", help="do not wait to be accepted: status 75 (run goes on)"
    )
    key = _command(
        commands,
        "key",
        "print the public key that this device joins with, made if need be",
        "rshell-agent key --line --name pump-17 >> keys.txt",
    )
    kind = key.add_mutually_exclusive_group()
    kind.add_argument("--line", action="store_true", help="as one line, NAME<TAB>KEY, not as PEM")
    kind.add_argument("--fingerprint", action="store_true", help="only what people compare")
    key.add_argument("--name", metavar="N", help="with --line (default: the host's name)")


def _add_check(verbs: Any) -> None:
    check = _command(verbs, "check", "say what the policy allows, and why", _CHECK_EXAMPLES)
    check.add_argument("--policy", metavar="FILE", help="default: the running keeper's")
    check.add_argument("--as", dest="login", metavar="LOGIN", help="default: the policy's first")
    check.add_argument(
        "--back", action="store_true", help="forward: may the device listen there for an operator"
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.add_argument("handler", nargs="?", metavar="HANDLER", help="such as exec; default: all")
    check.add_argument(
        "subject",
        nargs="?",
        metavar="PATH|TARGET",
        help="a path for files, sftp and tail; HOST:PORT or unix:/PATH for forward",
    )


def _command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[:1].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="the agent's home")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failure, 2 for wrong usage.

    141 if nobody reads its output any more.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes all words of `check` at once: what stands behind an option is left over
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(options, "subject", "") is None:
        options.subject = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    home = (options.home or default_home(os.environ, os.geteuid())).absolute()
    commands = {
        "join": _join,
        "key": _key,
        "run": _run,
        "status": _status,
        "keeper": _keeper,
        "policy": _check_policy,
    }
    try:
        return commands[options.command](home, options)
    except _Failed as error:
        line, status = (*error.args, 1)[:2]
        print(f"rshell-agent: {line}", file=sys.stderr)
        return int(status)
    except BrokenPipeError:  # as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains at its end
        return 141
    except OSError as error:
        print(f"rshell-agent: {error}", file=sys.stderr)
        return 1


def _join(home: Path, options: argparse.Namespace) -> int:
    """Join, and say as whom; wait if need be."""
    from rshell_agent.join_command import CannotJoin, join_command

    try:
        return join_command(home, options.join, options.name, options.force, options.no_wait)
    except CannotJoin as error:
        raise _Failed(str(error), error.status) from None


def _key(home: Path, options: argparse.Namespace) -> int:
    """Print the public key that this home joins with."""
    from rshell_agent.join_command import CannotJoin, print_key

    try:
        return print_key(home, options.line, options.name, options.fingerprint)
    except CannotJoin as error:
        raise _Failed(str(error), error.status) from None


def import_agent() -> Callable[..., int]:
    """Return what runs the agent, imported without what it does not use."""
    # hashlib does without OpenSSL
    with twisted_alone(), modules_absent("_ssl", "_hashlib"):
        from rshell_agent.tap import run
    return run


def _run(home: Path, options: argparse.Namespace) -> int:
    """Be the agent."""
    return import_agent()(home, debug=options.debug)


def _status(home: Path, options: argparse.Namespace) -> int:
    """Show what the agent wrote; status 0 only if it is connected."""
    from msgspec import DecodeError, json, structs

    from rshell_agent.flight_recorder import recorded
    from rshell_agent.status import read_status

    try:
        status = read_status(home)
    except DecodeError as error:
        raise _Failed(f"{home}/status.json is damaged: {error}") from None
    if status is None:
        so_far = f"no agent has run on {home}"
        if (home / "join").exists():
            so_far += ", which asks to be let in by HOME/join (see: rshell-agent key --fingerprint)"
        raise _Failed(f"{so_far}; start one with: rshell-agent run --home {home}")
    if status.state != "stopped" and not _alive(status.pid):
        status = structs.replace(status, state="stopped", gateway=None, epoch=0)
    recent = recorded(home, _RECENT)
    if options.json:
        document = structs.asdict(status) | {"recent": recent}
        print(json.encode(document).decode())
    else:
        for key, value in structs.asdict(status).items():
            if isinstance(value, list):
                for line in value:
                    print(f"{'broken plug-in:':<17} {_line(line)}")
            elif value not in (None, "", {}):
                print(f"{key.replace('_', ' ') + ':':<17} {_line(value)}")
        for record in recent:
            print(f"{'then:':<17} {_line(_told(record))}")
    return 0 if status.state == "connected" else 1


def _told(record: Any) -> str:
    """Say what the flight recorder kept, in a line."""
    from datetime import UTC, datetime

    from rshell_agent.status import stamp

    try:
        when = stamp(datetime.fromtimestamp(record.wall_ms / 1000, UTC))
    except (OverflowError, ValueError, OSError):
        when = "?"
    words = [when if record.clock_trusted else f"({when})", record.kind, record.target]
    words.append(record.message)
    if record.seconds is not None:
        words.append(f"[{record.seconds:.1f} s]")
    if record.count > 1:
        words.append(f"({record.count} times)")
    return " ".join(filter(None, words))


def _line(value: object) -> str:
    text = (
        ", ".join(f"{key} {item}" for key, item in value.items())
        if isinstance(value, dict)
        else str(value)
    )
    return "".join(c if c.isprintable() else "?" for c in text)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0


def _keeper(home: Path, options: argparse.Namespace) -> int:
    """Become the keeper: a fresh interpreter without anything of the agent's in it."""
    from rshell.identity.files import make_private_dir
    from rshell_agent.keeper.command import spawn_keeper_command

    if not home.is_dir():
        make_private_dir(home)
    command = spawn_keeper_command(str(home), options.policy)
    os.execv(command[0], command)  # noqa: S606  # a list of ours, no shell wanted


def _check_policy(home: Path, options: argparse.Namespace) -> int:
    """Say what the policy allows, and why."""
    from rshell_agent.policy_check import BadQuestion, CannotCheck, Question, check_policy

    question = Question(options.handler, options.subject, options.login, options.back)
    try:
        allowed = check_policy(home, options.policy, question, options.json, print)
    except CannotCheck as error:
        raise _Failed(str(error)) from None
    except BadQuestion as error:
        print(f"rshell-agent: {error}", file=sys.stderr)
        return 2
    return 0 if allowed else 1


if __name__ == "__main__":
    sys.exit(main())
