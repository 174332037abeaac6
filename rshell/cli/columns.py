"""The columns of ``rshell devices``, and facts as an operator reads them.  Pure.

Values come from devices and may be any JSON: what is returned is made safe by the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import msgspec

from rshell.cli.times import span
from rshell.client import Device

__all__ = [
    "DEFAULT_COLUMNS",
    "WIDE_COLUMNS",
    "BadColumn",
    "Column",
    "columns_of",
    "fact_at",
    "fact_names",
    "fact_rows",
    "fact_text",
]

_PATH = re.compile(r"[A-Za-z0-9_./-]+(?:\.[A-Za-z0-9_./-]+)*", re.ASCII)
#: Of one table; more is a mistake, and a hostile device does not decide it.
MAX_COLUMNS = 32
#: Facts within facts that are shown, and rows of them.
MAX_DEPTH, MAX_ROWS = 4, 500


class BadColumn(ValueError):
    """There is no such column; the text says which there are."""


@attrs.frozen
class Column:
    """One column.

    Attributes:
        heading: Above it.
        cell: A device's text in it.
        fact: The fact that it needs, by its first name; "" for none.
    """

    heading: str
    cell: Callable[[Device], str]
    fact: str = ""


def _state(device: Device) -> str:
    state = "revoked" if device.revoked else device.state
    if device.state == "suspect" and device.silent_ms is not None:
        state += f" {span(device.silent_ms / 1000)}"
    if device.quarantined:
        state = "quarantined"
    if device.policy_error:
        state += " (bad policy)"
    if device.alerts:
        state += " (!)"
    return state


def _labels(device: Device) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(device.labels.items()))


_KNOWN: dict[str, Callable[[Device], str]] = {
    "name": lambda device: device.name,
    "id": lambda device: device.id,
    "state": _state,
    "since": lambda device: (device.connected_at if device.live else device.last_seen) or "",
    "connected_at": lambda device: device.connected_at or "",
    "last_seen": lambda device: device.last_seen or "",
    "address": lambda device: device.address or "",
    "agent": lambda device: device.agent_version or "",
    "labels": _labels,
    "handlers": lambda device: ",".join(device.handlers),
    "gateway": lambda device: device.gateway or "",
    "epoch": lambda device: "" if device.epoch is None else str(device.epoch),
    "policy": lambda device: device.policy_error or "ok",
}

DEFAULT_COLUMNS = "name,state,since,address,agent,labels"
WIDE_COLUMNS = f"{DEFAULT_COLUMNS},facts.os_name,facts.kernel,facts.architecture,handlers"


def columns_of(text: str) -> list[Column]:
    """Return the columns that ``name,state,facts.os,labels.site`` names.

    Raises:
        BadColumn: One of them does not exist, or there are too many.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) > MAX_COLUMNS:
        raise BadColumn(f"at most {MAX_COLUMNS} columns")
    return [_column(name) for name in names]


def _column(name: str) -> Column:
    known = _KNOWN.get(name)
    if known is not None:
        return Column(name.upper(), lambda device: known(device) or "-")
    kind, _, path = name.partition(".")
    if kind == "labels" and _PATH.fullmatch(path):
        return Column(path.upper(), lambda device: device.labels.get(path) or "-")
    if kind == "facts" and _PATH.fullmatch(path) and all(path.split(".")):
        return Column(
            path.upper(), lambda device: _fact_cell(device.facts, path), path.partition(".")[0]
        )
    listed = ", ".join(_KNOWN)
    raise BadColumn(f"no column {name!r}; there are: {listed}, labels.KEY and facts.NAME")


def fact_names(columns: Iterable[Column]) -> list[str]:
    """Return the facts that columns need."""
    return sorted({column.fact for column in columns if column.fact})


def _fact_cell(facts: Mapping[str, Any], path: str) -> str:
    value = fact_at(facts, path.split("."))
    name = path.rpartition(".")[2]
    if isinstance(value, list) and all(not isinstance(item, dict | list) for item in value):
        return ",".join(fact_text(name, item) for item in value) or "-"
    return fact_text(name, value) or "-"


def fact_at(value: Any, path: list[str]) -> Any:
    """Return what is at a path, None if nothing; of a list of maps, each one's."""
    if not path:
        return value
    if isinstance(value, list):
        found = [fact_at(item, path) for item in value]
        return [item for item in found if item is not None] or None
    return fact_at(value.get(path[0]), path[1:]) if isinstance(value, dict) else None


def fact_text(name: str, value: Any) -> str:
    """Return a fact as a person reads it, by what its name says of its unit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("_bytes"):
            return _size(value)
        return span(value) if name.endswith("_seconds") else str(value)
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode("utf-8")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} TB"


def fact_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (path, text) of every fact, in the order in which the device told them."""
    rows: list[tuple[str, str]] = []
    for row in _rows("", "", facts, 0):
        if len(rows) == MAX_ROWS:
            rows.append(("…", f"more than {MAX_ROWS} values"))
            break
        rows.append(row)
    return rows


def _rows(path: str, name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value and depth < MAX_DEPTH:
        for key, item in value.items():
            yield from _rows(f"{path}.{key}" if path else str(key), str(key), item, depth + 1)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield path, _line(item) if isinstance(item, dict) else fact_text(name, item)
    elif isinstance(value, list):
        yield path, ", ".join(fact_text(name, item) for item in value)
    else:
        yield path, fact_text(name, value)


def _line(entry: Mapping[str, Any]) -> str:
    """One disk, one interface: its values in a line, those with units by their names."""
    words = []
    for name, value in entry.items():
        if isinstance(value, list):
            words.append(", ".join(fact_text(name, item) for item in value))
        elif name.endswith("_bytes"):
            words.append(f"{name.removesuffix('_bytes')} {fact_text(name, value)}")
        elif isinstance(value, bool):
            words.append(name.replace("_", " ") if value else f"not {name.replace('_', ' ')}")
        else:
            words.append(fact_text(name, value))
    return "  ".join(filter(None, words))
