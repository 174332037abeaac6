"""Selectors: which devices are meant.  ``pump-*,site=berlin,tier!=test,env in (a,b)``

Terms are joined by commas, and a comma means AND (as in Kubernetes' label selectors):

====================  =================================================================
``pump-17``           the device of that name
``pump-*``            names that match; ``*`` is any text, ``?`` any one character
``site=berlin``       the label has that value (also ``==``); globs are allowed
``site!=berlin``      the label has another value *or is absent*; globs are allowed
``site in (a,b)``     the label has one of the values; globs are allowed
``site notin (a,b)``  the label has none of them *or is absent*
``site=*``            the label is present
``!site``             the label is absent
``facts.os=arch``     the device says so of itself; all forms, as with labels
====================  =================================================================

A word alone is always a name, never "label present": names win.  ``name``, ``id`` and
``state`` can be used like labels.  A device has one name, so two plain names would never
match; that is refused with a hint at ``name in (a,b)``.  An empty selector is refused
too, so that an unset variable in a script never means "all": that is ``*``.

A fact's path goes into maps by dots (``facts.memory.total_bytes``) and through lists: a term holds
if any element fits (``facts.addresses=10.0.*``, ``facts.disks.type=btrfs``).

What it is not: a policy.  It sees only what it is given.  A selector that *grants* something is
read by `parse_for_policy`, which knows no facts: a device may say anything of itself, so facts
choose devices and never decide what may be done to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from typing import Any, Literal

import attrs

from rshell.access.labels import FACT_PREFIX, KEY_PATTERN, PSEUDO_LABELS
from rshell.access.printable import printable

__all__ = ["MAX_SELECTOR", "MAX_TERMS", "BadSelector", "Selector", "parse", "parse_for_policy"]

# Enough for a hundred device names in one `in (...)`; a longer list is a label's job.
MAX_SELECTOR = 4_096
# Bounds the work per device when a selector meets the whole fleet.
MAX_TERMS = 64
# Of a long selector, what is shown around the mistake.
_CARET_WINDOW = 30

_LABEL_TERM = re.compile(rf"(?P<key>{KEY_PATTERN})\s*(?P<op>==|!=|=)\s*(?P<value>.*)", re.A | re.S)
_SET_TERM = re.compile(rf"(?P<key>{KEY_PATTERN})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)", re.A)
_ABSENT_TERM = re.compile(rf"!\s*(?P<key>{KEY_PATTERN})", re.A)
_NAME = re.compile(r"[a-z0-9*?][a-z0-9*?-]{0,62}", re.A)
_VALUE = re.compile(r"[A-Za-z0-9_.:/@+*?-]{0,253}", re.A)


class BadSelector(ValueError):
    """A selector that cannot be understood.

    Attributes:
        message: what is wrong, one line.
        position: index of the character where it is wrong.
    """

    def __init__(self, message: str, text: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.text = text
        self.position = position

    def __str__(self) -> str:
        start = max(0, self.position - _CARET_WINDOW)
        shown = self.text[start : self.position + _CARET_WINDOW]
        caret = " " * (self.position - start) + "^"
        return f"{self.message}\n  {printable(shown)}\n  {caret}"


@attrs.frozen
class _Glob:
    """A value, in which ``*`` and ``?`` are wild."""

    text: str
    _compiled: re.Pattern[str] | None = attrs.field(eq=False, repr=False)

    @classmethod
    def new(cls, text: str) -> _Glob:
        # fnmatch's translation has atomic groups: no input makes it backtrack for long
        return cls(text, re.compile(translate(text)) if _is_wild(text) else None)

    def matches(self, value: str) -> bool:
        if self._compiled is None:
            return value == self.text
        return self._compiled.match(value) is not None


@attrs.frozen
class _Term:
    """One term: *negated* turns the answer round, an absent label answers no."""

    key: str
    form: Literal["name", "label", "set", "absent"]
    values: tuple[_Glob, ...]
    negated: bool = False

    @property
    def asks_facts(self) -> bool:
        """Whether it is about what a device says of itself."""
        return self.key.startswith(FACT_PREFIX)

    def holds(
        self, labels: Mapping[str, str], pseudo: Mapping[str, str], facts: Mapping[str, Any]
    ) -> bool:
        if self.asks_facts:
            return self._holds_of(_fact_texts(facts, self.key.split(".")[1:]))
        value = pseudo.get(self.key) if self.key in PSEUDO_LABELS else labels.get(self.key)
        if self.form == "absent":
            return value is None
        found = value is not None and any(glob.matches(value) for glob in self.values)
        return found != self.negated

    def _holds_of(self, texts: list[str]) -> bool:
        """Judge a fact, which may have several values."""
        if self.form == "absent":
            return not texts
        found = any(glob.matches(text) for text in texts for glob in self.values)
        return found != self.negated

    def __str__(self) -> str:
        if self.form == "absent":
            return f"!{self.key}"
        if self.form == "name":
            return self.values[0].text
        if self.form == "label":
            return f"{self.key}{'!=' if self.negated else '='}{self.values[0].text}"
        listed = ",".join(glob.text for glob in self.values)
        return f"{self.key} {'notin' if self.negated else 'in'} ({listed})"


@attrs.frozen
class Selector:
    """A parsed selector; ``str()`` gives its canonical text, which parses to an equal one."""

    terms: tuple[_Term, ...]

    def matches(
        self,
        name: str,
        labels: Mapping[str, str],
        *,
        state: str = "",
        device_id: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Return whether a device is meant.

        Args:
            name: the device's name.
            labels: its operator-set labels.
            state: ``live``, ``suspect``, ``lost`` or ``never``.
            device_id: its id.
            facts: what it says of itself; needed only if `fact_names` has any.
        """
        pseudo = {"name": name, "state": state, "id": device_id}
        return all(term.holds(labels, pseudo, facts or {}) for term in self.terms)

    @property
    def fact_names(self) -> frozenset[str]:
        """The facts that it asks for, by their first names: usually none."""
        keys = (term.key for term in self.terms if term.asks_facts)
        return frozenset(key.split(".")[1] for key in keys)

    def state_allows(self, *states: str) -> bool:
        """Whether a device in one of these states may be meant, whatever else it is."""
        pseudo = [{"state": state} for state in states]
        terms = [term for term in self.terms if term.key == "state"]
        return any(all(term.holds({}, one, {}) for term in terms) for one in pseudo)

    @property
    def single_name(self) -> str | None:
        """The name, if the selector is one plain name and so means at most one device."""
        if len(self.terms) != 1 or self.terms[0].form != "name":
            return None
        text = self.terms[0].values[0].text
        return None if _is_wild(text) else text

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


def parse(text: str) -> Selector:
    """Return the selector *text* spells; see the module's table.

    Raises:
        BadSelector: and nothing else, whatever *text* is.
    """
    if len(text) > MAX_SELECTOR:
        raise BadSelector(f"a selector has at most {MAX_SELECTOR} characters", text, MAX_SELECTOR)
    if not text.strip():
        raise BadSelector("an empty selector; every device is *", text, 0)
    terms: list[_Term] = []
    plain_name: str | None = None
    for start, part in _split(text):
        if len(terms) == MAX_TERMS:
            raise BadSelector(f"a selector has at most {MAX_TERMS} terms", text, start)
        term = _term(text, start, part)
        if term.form == "name" and not _is_wild(part):
            if plain_name is not None:
                raise BadSelector(
                    "a comma means AND, and a device has one name: "
                    f"use name in ({plain_name},{part})",
                    text,
                    start,
                )
            plain_name = part
        terms.append(term)
    return Selector(tuple(terms))


def parse_for_policy(text: str) -> Selector:
    """Return a selector that may decide who may do what: names and labels, no facts.

    Raises:
        BadSelector: It cannot be understood, or asks for a fact.
    """
    selector = parse(text)
    for term in selector.terms:
        if term.asks_facts:
            raise BadSelector(
                f"{term.key} is what a device says of itself, and decides nothing: use a label",
                text,
                max(0, text.find(term.key)),
            )
    return selector


def _fact_texts(value: Any, path: list[str]) -> list[str]:
    """Return the values at a path as text; of lists, those of every element."""
    if isinstance(value, list):
        return [text for item in value for text in _fact_texts(item, path)]
    if path:
        if isinstance(value, dict):
            # An operator reads facts.disks./mnt nowhere: keys of maps have no dots.
            return _fact_texts(value.get(path[0]), path[1:])
        return []
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, str | int | float):
        return [str(value)]
    return []


def _is_wild(text: str) -> bool:
    return "*" in text or "?" in text


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Yield position and text of each term: split at the commas outside parentheses."""
    opened: int | None = None
    start = 0
    for index, character in enumerate(text):
        if character == "(":
            if opened is not None:
                raise BadSelector("parentheses inside parentheses", text, index)
            opened = index
        elif character == ")":
            if opened is None:
                raise BadSelector("a closing parenthesis without an opening one", text, index)
            opened = None
        elif character == "," and opened is None:
            yield _stripped(text, start, index)
            start = index + 1
    if opened is not None:
        raise BadSelector("the parenthesis is not closed", text, opened)
    yield _stripped(text, start, len(text))


def _stripped(text: str, start: int, end: int) -> tuple[int, str]:
    part = text[start:end]
    position = start + len(part) - len(part.lstrip())
    part = part.strip()
    if not part:
        raise BadSelector("nothing between the commas", text, min(end, len(text)))
    return position, part


def _term(text: str, start: int, part: str) -> _Term:
    term = _any_term(text, start, part)
    if term.asks_facts and not all(term.key.split(".")):
        raise BadSelector("a fact has a name between its dots, as in facts.os", text, start)
    return term


def _any_term(text: str, start: int, part: str) -> _Term:
    if match := _ABSENT_TERM.fullmatch(part):
        key = match["key"]
        if key in PSEUDO_LABELS:
            raise BadSelector(f"every device has {key}", text, start)
        return _Term(key, "absent", ())
    if match := _LABEL_TERM.fullmatch(part):
        glob = _value(text, start + match.start("value"), match["value"])
        return _Term(match["key"], "label", (glob,), negated=match["op"] == "!=")
    if match := _SET_TERM.fullmatch(part):
        return _set_term(text, start, match)
    if _NAME.fullmatch(part):
        return _Term("name", "name", (_Glob.new(part),))
    raise _misspelt(text, start, part)


def _set_term(text: str, start: int, match: re.Match[str]) -> _Term:
    globs: list[_Glob] = []
    position = start + match.start("values")
    if not match["values"].strip():
        raise BadSelector("no value between the parentheses", text, position)
    for value in match["values"].split(","):
        at = position + len(value) - len(value.lstrip())
        if not value.strip():
            raise BadSelector("nothing between the commas", text, at)
        globs.append(_value(text, at, value.strip()))
        position += len(value) + 1
    return _Term(match["key"], "set", tuple(globs), negated=match["op"] == "notin")


def _value(text: str, position: int, value: str) -> _Glob:
    good = _VALUE.match(value)
    length = good.end() if good else 0
    if length != len(value):
        raise BadSelector(
            "a value has at most 253 characters of letters, digits and _.:/@+- (and * ?)",
            text,
            position + length,
        )
    return _Glob.new(value)


def _misspelt(text: str, start: int, part: str) -> BadSelector:
    if _NAME.fullmatch(part.lower()):
        return BadSelector(f"device names are lower case: {part.lower()}", text, start)
    if re.match(rf"{KEY_PATTERN}\s+(in|notin)\b", part, re.A):
        return BadSelector("a list of values is written key in (a,b)", text, start)
    good = _NAME.match(part)
    position = start + (good.end() if good else 0)
    return BadSelector("not a name, a glob or a label term such as site=berlin", text, position)
