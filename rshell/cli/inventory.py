"""``rshell inventory``: devices as Ansible and OpenSSH want to be told of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import attrs
import click

from rshell.access.selectors import parse
from rshell.cli.ansible_inventory import make_inventory, usable
from rshell.cli.listings import print_json
from rshell.cli.options import common_options, login_option, settings_of
from rshell.cli.pipes import say
from rshell.cli.running import Surroundings, run_with_client
from rshell.cli.ssh_settings import KNOWN_HOSTS_NAME, SshSettings, ssh_config
from rshell.client import Client, RshellError, SelectedNothing, SshDoor, find_profile
from rshell.link.addresses import split_address

__all__ = ["inventory", "main"]

_FACT = re.compile(r"[A-Za-z0-9_/-]+(\.[A-Za-z0-9_/-]+)*", re.ASCII)
#: What Linux lets a login be, and the ssh door takes.
_LOGIN = re.compile(r"[^\s\"'\\{}%$:]{1,64}")
#: More facts, or groups by them, than this are a mistake.
MAX_FACTS = 32


@attrs.frozen(kw_only=True)
class _Wanted:
    """What the options ask for.

    Attributes:
        kind: ``ansible``, ``ssh-config`` or ``known-hosts``.
        host: Of Ansible's ``--host``; None for the whole list.
        facts: Paths of the facts to tell of.
        group_by: Paths of the facts that make groups.
        address: Of the SSH door; None for what the gateway tells.
        known_hosts: The file that pins it; None for one in the profile.
    """

    kind: str
    selector: str
    host: str | None
    login: str | None
    facts: tuple[str, ...]
    group_by: tuple[str, ...]
    address: tuple[str, int | None] | None
    known_hosts: str | None

    @property
    def fact_names(self) -> list[str]:
        """The facts to ask the gateway for, by their first names."""
        return sorted({path.partition(".")[0] for path in (*self.facts, *self.group_by)})


def _fact_paths(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    paths = [path.removeprefix("facts.") for words in value for path in words.split(",")]
    for path in paths:
        if not _FACT.fullmatch(path):
            raise click.BadParameter(f"{path!r} names no fact (see: rshell facts)")
    if len(paths) > MAX_FACTS:
        raise click.BadParameter(f"at most {MAX_FACTS}")
    return tuple(dict.fromkeys(paths))


def _address(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, int | None] | None:
    if value is None:
        return None
    host, port = value, None
    try:
        if value.startswith("[") and value.endswith("]"):
            host = value[1:-1]
        elif value.count(":") == 1 or value.startswith("["):
            host, port = split_address(value)
    except ValueError:
        host = ""
    if not re.fullmatch(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}", host, re.ASCII):
        raise click.BadParameter(f"{value!r} is no HOST or HOST:PORT")
    return host, port


@click.command(short_help="Tell Ansible and ssh of the devices.")
@click.option("--ansible", "kind", flag_value="ansible", help="An inventory, for Ansible.")
@click.option("--ssh-config", "kind", flag_value="ssh-config", help="A file for ssh's Include.")
@click.option("--known-hosts", "kind", flag_value="known-hosts", help="The gateway's host key.")
@click.option("--list", "listed", is_flag=True, help="With --ansible: all of it, as without.")
@click.option("--host", metavar="NAME", help="With --ansible: one device's variables.")
@click.option(
    "--facts", multiple=True, metavar="A,B,...", callback=_fact_paths, help="Tell these facts too."
)
@click.option(
    "--group-by-fact",
    "group_by",
    multiple=True,
    metavar="NAME",
    callback=_fact_paths,
    help="A group for each value of a fact, as devices tell it.",
)
@login_option
@click.option(
    "--ssh-address",
    "address",
    metavar="HOST[:PORT]",
    callback=_address,
    help="Where ssh dials the gateway, if not where it says.",
)
@click.option(
    "--known-hosts-file",
    metavar="FILE",
    help="Keep the gateway's host key there, not in the profile.",
)
@common_options
@click.argument("selector", default="")
@click.pass_context
def inventory(
    context: click.Context,
    kind: str | None,
    listed: bool,
    host: str | None,
    facts: tuple[str, ...],
    group_by: tuple[str, ...],
    login: str | None,
    address: tuple[str, int | None] | None,
    known_hosts_file: str | None,
    selector: str,
) -> int:
    """Tell other programs how to reach the devices that SELECTOR picks, or all that you may see.

    \b
    ansible -i "$(command -v rshell-inventory)" site_berlin -m ping
    rshell inventory --ansible --as root 'pump-*'        the same JSON, for a script of yours
    rshell inventory --ssh-config > ~/.ssh/rshell.conf   then: ssh pump-17
    rshell inventory --known-hosts >> ~/.ssh/known_hosts

    They go through the gateway's ssh door, with the key that you log in with there (see: rshell
    keys). Its host key is pinned: the gateway tells it over its own link.

    Groups are rshell_devices; site_berlin for the label site=berlin; rshell_live, rshell_suspect,
    rshell_lost and rshell_never; with --group-by-fact os also fact_os_arch, as devices say
    themselves.
    """
    if kind is None:
        if any(value for name, value in context.params.items() if name != "kind"):
            raise click.UsageError("say for whom: --ansible, --ssh-config or --known-hosts")
        say(context.get_help() + "\n")
        return 0
    if kind != "ansible" and (host or listed or facts or group_by):
        raise click.UsageError("--list, --host, --facts and --group-by-fact go with --ansible")
    if kind == "known-hosts" and (selector or login):
        raise click.UsageError("--known-hosts is about the gateway: no SELECTOR and no --as")
    if host and listed:
        raise click.UsageError("give either --list or --host")
    if login is not None and not _LOGIN.fullmatch(login):
        raise click.UsageError(f"{login!r} is no login that ssh could be told of")
    if selector:
        parse(selector)
    settings = settings_of(context)
    wanted = _Wanted(
        kind=kind,
        selector=selector,
        host=host,
        login=login,
        facts=facts,
        group_by=group_by,
        address=address,
        known_hosts=known_hosts_file,
    )
    file = (
        Path(known_hosts_file).absolute()
        if known_hosts_file is not None
        else find_profile(settings.home, os.environ).directory / KNOWN_HOSTS_NAME
    )

    async def main(_surroundings: Surroundings, client: Client) -> int:
        await _tell(client, wanted, file)
        return 0

    return run_with_client(settings.home, main)


async def _tell(client: Client, wanted: _Wanted, file: Path) -> None:
    """Ask the gateway and print.

    Raises:
        RshellError: There is no ssh door, nothing is selected, or the host key cannot be kept.
    """
    ssh = SshSettings.of(await _door(client, wanted.address), file)
    if wanted.kind == "known-hosts":
        say(ssh.known_hosts_lines())
        return
    devices = await client.devices(wanted.selector, facts=wanted.fact_names)
    ssh.keep()
    if wanted.kind == "ssh-config":
        shown, notes = usable(devices)
        if wanted.selector and not shown:
            raise SelectedNothing(wanted.selector)
        _note(notes)
        say(ssh_config([one.name for one in shown], ssh, wanted.login))
        return
    made = make_inventory(devices, ssh, login=wanted.login, group_by_facts=wanted.group_by)
    _note(made.notes)
    print_json(made.listing if wanted.host is None else made.host(wanted.host))


def _note(notes: Iterable[str]) -> None:
    for note in notes:
        sys.stderr.write(f"rshell: {note}\n")


async def _door(client: Client, address: tuple[str, int | None] | None) -> SshDoor:
    door = (await client.doors()).ssh
    if door is None:
        raise RshellError(
            "no-ssh-door",
            "the gateway has no ssh door",
            "start it with: twistd -n rshell --ssh tcp:2222",
        )
    if address is None:
        return door
    host, port = address
    return SshDoor(host=host, port=port or door.port, host_keys=door.host_keys)


def main() -> None:
    """Be ``rshell inventory --ansible``, as one word: Ansible runs its script with ``--list``."""
    from rshell.cli.main import main as rshell

    sys.argv[1:1] = ["inventory", "--ansible"]
    rshell()
