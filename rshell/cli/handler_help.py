"""The help of a handler that only its device knows: made from its schemas.  Pure.

All of it is the device's word, and made safe.
"""

from __future__ import annotations

import textwrap
from typing import Any

from rshell.access.printable import printable
from rshell.cli.arguments import Argument, arguments_of, description_of
from rshell.client import Handler

__all__ = ["handler_help", "handler_summary_lines"]

WIDTH = 100
_INDENT = "  "


def handler_help(device: str, handler: Handler) -> str:
    """Return what ``rshell call DEVICE HANDLER --help`` prints."""
    name, arguments = printable(handler.name, 64), arguments_of(handler.schema)
    usage = f"Usage: rshell call {printable(device, 64)} {name} [OPTIONS]"
    required = [f"{argument.name}={argument.kind}" for argument in arguments if argument.required]
    words = [usage, *required, *(["[key=value]..."] if len(required) < len(arguments) else [])]
    lines = [" ".join(words), "", *_paragraph(handler.summary)]
    for paragraph in description_of(handler.schema):
        lines += ["", *_paragraph(paragraph)]
    if not handler.allowed:
        lines += ["", *_paragraph("The device's policy does not allow it: it would be refused.")]
    lines += handler_summary_lines(handler)
    lines += ["", "Options of rshell call itself: rshell call --help"]
    return "\n".join(lines) + "\n"


def handler_summary_lines(handler: Handler) -> list[str]:
    """Return arguments, result and events as indented lines; of a handler with none, that."""
    arguments = arguments_of(handler.schema)
    lines = ["", "Arguments:" if arguments else "It takes no arguments."]
    lines += _table(arguments)
    if handler.result is not None:
        lines += ["", "Result:", *_table(arguments_of(handler.result), answer=True)]
    for kind, schema in list(handler.events.items())[:16]:
        lines += ["", f"Event {printable(kind, 64)}:"]
        lines += _table(arguments_of(schema), answer=True)
    return lines


def _table(arguments: list[Argument], *, answer: bool = False) -> list[str]:
    """Return a line or more for each; what is answered needs no defaults."""
    width = min(36, max((len(_head(argument)) for argument in arguments), default=0))
    lines: list[str] = []
    for argument in arguments:
        notes = list(argument.limits)
        if not answer:
            if argument.required:
                notes.append("required")
            elif argument.default:
                notes.append(f"default: {argument.default}")
        text = argument.description + (f"  [{'; '.join(notes)}]" if notes else "")
        head = _head(argument).ljust(width)
        hanging = _INDENT + " " * (width + 2)
        if len(head) > width:
            lines.append(_INDENT + head)
            head = " " * width
        wrapped = textwrap.wrap(
            text.strip(), WIDTH, initial_indent=f"{_INDENT}{head}  ", subsequent_indent=hanging
        )
        lines += [line.rstrip() for line in wrapped or [_INDENT + head]]
    return lines


def _head(argument: Argument) -> str:
    return f"{argument.name}={argument.kind}"


def _paragraph(text: Any) -> list[str]:
    return textwrap.wrap(
        printable(str(text), 1000), WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
    )
