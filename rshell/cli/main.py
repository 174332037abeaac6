"""Entry point: verbs by name, loaded when used; errors as one line and an exit status."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import sys
import traceback

import click

from rshell import __version__
from rshell.cli.options import Settings, common_options
from rshell.lazy import twisted_alone

__all__ = ["VERBS", "cli", "main"]

#: Verb -> where it is defined, and what the overview says.  Loading all would take longer than
#: most commands run.
VERBS: dict[str, tuple[str, str]] = {
    "accept": ("rshell.cli.pending:accept", "Let in devices that wait."),
    "attach": ("rshell.cli.sessions:attach", "Continue a session, or watch it."),
    "audit": ("rshell.cli.audit:audit", "Show who did what to which device."),
    "ca": ("rshell.cli.ca:ca", "Keep the root safe, certify and revoke gateways."),
    "call": ("rshell.cli.call:call", "Call any handler of one device or of many."),
    "cat": ("rshell.cli.files:cat", "Show files of devices."),
    "confirm": ("rshell.cli.confirm:confirm", "Let a change stand that waits for it."),
    "console": ("rshell.cli.console:console", "Python in the running gateway."),
    "cp": ("rshell.cli.cp:cp", "Copy files to, from and between devices."),
    "demo": ("rshell.cli.demo:demo", "Try it all out on this machine, with toy devices."),
    "devices": ("rshell.cli.listings:devices", "List devices."),
    "facts": ("rshell.cli.facts:facts", "Show what a device is: system, memory, disks."),
    "forward": ("rshell.cli.forward:forward", "Reach ports of a device, or let it reach ours."),
    "handlers": ("rshell.cli.handlers:handlers", "List what can be called on a device."),
    "inventory": ("rshell.cli.inventory:inventory", "Tell Ansible and ssh of the devices."),
    "invite": ("rshell.cli.admin:invite", "Make a join string for a device or an operator."),
    "invites": ("rshell.cli.pending:invites", "List the invites that hold."),
    "join": ("rshell.cli.admin:join", "Make this machine an operator's."),
    "keys": ("rshell.cli.keys:keys", "Manage the SSH keys that operators log in with."),
    "label": ("rshell.cli.admin:label", "Set or remove labels of a device."),
    "ls": ("rshell.cli.files:ls", "List files on devices."),
    "metrics": ("rshell.cli.links:metrics", "Print the gateway's counters, for Prometheus."),
    "operators": ("rshell.cli.roles:operators", "List operators, their roles, when last seen."),
    "pending": ("rshell.cli.pending:pending", "List devices that wait to be let in."),
    "play": ("rshell.cli.play:play", "Play a recorded terminal session."),
    "probe": ("rshell.cli.links:probe", "Ask a device for a sign of life now."),
    "quarantine": ("rshell.cli.links:quarantine", "Keep a device out, or let it in again."),
    "reboot": ("rshell.cli.reboot:reboot", "Restart devices, and see them return."),
    "recordings": ("rshell.cli.recordings:recordings", "List and fetch recorded sessions."),
    "reject": ("rshell.cli.pending:reject", "Refuse devices that wait."),
    "rename": ("rshell.cli.admin:rename", "Rename a device, or accept its own name."),
    "revoke": ("rshell.cli.admin:revoke", "Take a device's or operator's rights away."),
    "rm": ("rshell.cli.files:rm", "Remove files on devices."),
    "roles": ("rshell.cli.roles:roles", "Say who may do what on which devices."),
    "run": ("rshell.cli.run:run", "Run a command on one device or on many."),
    "sessions": ("rshell.cli.sessions:sessions", "List sessions that live on devices."),
    "shell": ("rshell.cli.shell:shell", "Open a login shell on a device."),
    "tail": ("rshell.cli.tail:tail", "Show the ends of logs, and follow them."),
    "whoami": ("rshell.cli.listings:whoami", "Show which operator you are."),
    "why": ("rshell.cli.links:why", "Show what happened to a device's link, and why."),
}


class VerbGroup(click.Group):
    """The group of verbs, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        with twisted_alone():
            command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, VERBS[name][1]) for name in sorted(VERBS)])


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rshell", message="%(prog)s %(version)s")
@common_options
def cli() -> None:
    """Reach the devices of a fleet.

    \b
    rshell join - < join.txt                     become an operator
    rshell devices                               see what is there
    rshell shell pump-17                         a login shell
    rshell run pump-17 -- uptime                 one command, as with ssh
    rshell run 'site=berlin' -- uptime           the same on many devices
    rshell cp pump.conf pump-17:/etc/            copy files there, or back
    rshell why pump-17                           what happened to its link
    rshell invite device --name pump-18          let another device in

    A SELECTOR picks devices by name, glob and label; a comma means AND:
    pump-*,site=berlin,tier!=test,site in (berlin,oslo)

    Exit status: the command's own for one device, 255 for errors of rshell, 2 for wrong usage.
    """


def main() -> None:
    """Run the command and exit."""
    # Start-up makes many objects and little garbage; collecting it costs a tenth of the start.
    gc.set_threshold(100_000, 20, 20)
    _open_standard_streams()
    status = run_command(sys.argv[1:])
    # Taking the modules down one by one would take 40 ms; the kernel does it at once.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads them any more
    os._exit(status)


def run_command(arguments: list[str]) -> int:
    """Run a command line and return its exit status; every error has been shown."""
    settings = Settings()
    try:
        result = cli.main(arguments, prog_name="rshell", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return _pipe_broken()
    except SystemExit as error:
        # click ends so with 1 when nobody reads its output any more, else with what it means.
        status = error.code if isinstance(error.code, int) else 0
        return _pipe_broken() if status == 1 else status
    except Exception as error:
        if os.environ.get("RSHELL_DEBUG"):
            traceback.print_exc()
        if isinstance(error, click.UsageError) and error.ctx is None:
            error.ctx = _verb_of(arguments)
        return _report(_cannot_write(error) or error, settings.json)


def _cannot_write(error: Exception) -> Exception | None:
    """Return what is wrong with standard output, if that is where an error came from."""
    if not isinstance(error, OSError):
        return None
    try:
        # A help text that could not be written is still there, and fails again.
        sys.stdout.flush()
    except OSError as again:
        from rshell.cli.pipes import CannotWrite

        return CannotWrite(again.errno or errno.EIO)
    return None


def _verb_of(arguments: list[str]) -> click.Context:
    """Return the context of the verb that a command line names.

    click's own parser does not know it where an option lacks its value.
    """
    context = click.Context(cli, info_name="rshell")
    for word in arguments:
        group = context.command
        command = group.get_command(context, word) if isinstance(group, click.Group) else None
        if command is not None:
            context = click.Context(command, info_name=word, parent=context)
    return context


def _report(error: Exception, json: bool) -> int:
    """Show an error and return the exit status it stands for."""
    status, code, message, hint = _explain(error)
    try:
        # With nowhere to write JSON to, words have to do.
        if json and code != "cannot-write":
            from rshell.cli.presenting import encode_json

            answer = {"error": {"code": code, "message": message, "hint": hint}}
            sys.stdout.write(encode_json(answer).decode("utf-8") + "\n")
            sys.stdout.flush()
        else:
            sys.stderr.write(f"rshell: {message}" + (f" ({hint})" if hint else "") + "\n")
            sys.stderr.flush()
    except BrokenPipeError:
        return _pipe_broken()
    except OSError:
        pass  # a full disk takes no complaint about itself
    return status


def _explain(error: Exception) -> tuple[int, str, str, str]:
    """Return exit status, code, message and hint of an error."""
    from rshell.access.selectors import BadSelector

    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "rshell"
        return 2, "usage", error.format_message().rstrip("."), f"see: {command} --help"
    if isinstance(error, BadSelector):
        return 2, "bad-selector", str(error), ""
    from rshell.cli.places import BadPlace
    from rshell.client.errors import RshellError

    if isinstance(error, RshellError):
        return 2 if isinstance(error, BadPlace) else 255, error.code, error.message, error.hint
    kind = type(error).__name__
    text = " ".join(str(error).split())
    return 255, "internal", f"{kind}: {text}", "RSHELL_DEBUG=1 shows where"


def _pipe_broken() -> int:
    """Whoever read our output is gone: leave quietly, as if SIGPIPE had ended us."""
    # The interpreter flushes stdout at its end; into the closed pipe that would be a traceback.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


def _open_standard_streams() -> None:
    """Make sure that 0, 1 and 2 are ours: a socket that got one of them would be written into.

    Of a descriptor that was closed the interpreter has made None instead of a stream.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            stream = open(  # noqa: SIM115  # for as long as the process lives
                descriptor, mode, encoding="utf-8", errors="replace", closefd=False
            )
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
