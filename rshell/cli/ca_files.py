"""What ``rshell ca`` is given and gives: passphrases, bundles, files, remarks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rshell.cli.ca_home import failing
from rshell.cli.pipes import say
from rshell.client.errors import RshellError
from rshell.identity.bundle import MAX_PASSPHRASE, Bundle, open_bundle, read_bundle, write_new

__all__ = ["opened", "passphrase", "put_output", "read_input", "remark"]


def passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """Return the passphrase of a bundle, from a file's first line or the terminal."""
    if file is not None:
        with failing(), file.open("rb") as opened_file:
            line = opened_file.readline(4 * MAX_PASSPHRASE)
        return line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise RshellError(
            "no-terminal", "there is no terminal to ask for the passphrase", "--passphrase-file F"
        ) from None
    text: str = click.prompt(
        "Passphrase of the bundle", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return text


def opened(bundle: Path | None, passphrase_file: Path | None) -> Bundle | None:
    """Open a bundle, with the passphrase in a file or from the terminal; None stays None."""
    if bundle is None:
        return None
    with failing():
        data = read_bundle(bundle)  # before anybody types a passphrase
        return open_bundle(data, passphrase(passphrase_file))


def read_input(file: str, limit: int) -> bytes:
    """Return what is in a file, or comes on standard input; more than the limit is cut there."""
    with failing():
        if file == "-":
            return sys.stdin.buffer.read(limit + 1)
        with open(file, "rb") as opened_file:
            return opened_file.read(limit + 1)


def put_output(data: bytes, out: Path | None) -> None:
    """Write text to a new file, or to standard output."""
    if out is None:
        say(data.decode("utf-8"))
        return
    with failing():
        write_new(out.absolute(), data)


def remark(text: str) -> None:
    """Say something on standard error, which is not what was asked for."""
    sys.stderr.write(f"rshell: {text}\n")
    sys.stderr.flush()
