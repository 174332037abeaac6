"""Grants: what may be written into a role, and the compiled form that decisions are made by.

A grant names devices by a selector of names and labels, handlers, and the logins that may be asked
for.  Nothing else decides: what a device says of itself (facts, its state, a name that it proposed
and nobody accepted) never does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec

from rshell.access import selectors
from rshell.access.forward_rules import (
    BadRule,
    ForwardRule,
    admitted,
    parse_rule,
    place_of,
)
from rshell.access.labels import PSEUDO_LABELS
from rshell.access.printable import printable
from rshell.handlers.forward import ForwardRequest
from rshell.store.records import Device, Grant

__all__ = [
    "ANY",
    "BACK",
    "FORWARD",
    "MAX_LIMIT_SECONDS",
    "RECORD_MODES",
    "BadGrant",
    "CompiledGrant",
    "check_grant",
    "check_role_name",
    "forward_option",
    "grant_words",
    "seconds_words",
    "term_words",
]

#: Every handler but ``forward``; any login.
ANY = "*"
FORWARD = "forward"
#: The option of ``rshell roles set`` that grants listening.
BACK = "--forward-back"
#: Of one grant: lists longer than this belong into several grants, or a label.
MAX_NAMES = 64
#: Shorter limits than this could not be announced in time; longer ones than a year are typos.
MIN_LIMIT_SECONDS, MAX_LIMIT_SECONDS = 10, 366 * 86_400
#: What may be recorded, the least first.
RECORD_MODES = ("off", "output", "input")

#: These run as no login of the device, so they are asked for without one.
_WITHOUT_LOGIN = frozenset({"facts", "forward"})
_ROLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_HANDLER = re.compile(r"[a-z][a-z0-9_.-]{0,62}", re.ASCII)
# What useradd(8) takes, and the upper case and dots that some directories have.
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}\$?", re.ASCII)
#: Not names of handlers: verbs of the gateway, and the console.
_NOT_HANDLERS = ("gateway.", "console")


class BadGrant(ValueError):
    """A grant, or a role's name, that cannot be; the text says why."""


def check_role_name(name: str) -> str:
    """Return *name* if a role may be called so.

    Raises:
        BadGrant: It is not written as a name, or is built in.
    """
    if not _ROLE.fullmatch(name):
        raise BadGrant(
            "a role's name has 1 to 63 characters of a-z, 0-9 and . _ -, "
            f"starting with a letter or digit, not {printable(name, 80)!r}"
        )
    if name == "admin":
        raise BadGrant("the role admin is built in: it grants everything and cannot be changed")
    return name


def check_grant(grant: Grant) -> Grant:
    """Return *grant*, its selector in canonical form, its lists without repetitions.

    Raises:
        BadGrant: One line on what is wrong with it.
    """
    selector = _policy_selector(grant.select)
    for what, names in (
        ("handlers", grant.handlers),
        ("logins", grant.logins),
        ("forward", grant.forward),
        ("forward_back", grant.forward_back),
    ):
        if len(names) > MAX_NAMES:
            raise BadGrant(f"a grant has at most {MAX_NAMES} {what}")
    for name in grant.handlers:
        _check_handler(name)
    for login in grant.logins:
        if login != ANY and not _LOGIN.fullmatch(login):
            raise BadGrant(f"{printable(login, 80)!r} is no login")
    try:
        for text in (*grant.forward, *grant.forward_back):
            parse_rule(text)
    except BadRule as error:
        raise BadGrant(f"forward target {error}") from None
    _check_terms(grant)
    _check_whole(grant, str(selector))
    return attrs.evolve(
        grant,
        select=str(selector),
        handlers=_once(grant.handlers),
        logins=_once(grant.logins),
        forward=_once(grant.forward),
        forward_back=_once(grant.forward_back),
    )


def _check_handler(name: str) -> None:
    if name != ANY and not _HANDLER.fullmatch(name):
        raise BadGrant(f"{printable(name, 80)!r} is no handler's name")
    if name.startswith(_NOT_HANDLERS[0]):
        raise BadGrant(f"{printable(name, 80)} is the gateway's: only a role with admin grants it")
    if name == _NOT_HANDLERS[1]:
        raise BadGrant("the console is granted by itself (--console), and is everything")


def _check_terms(grant: Grant) -> None:
    for what, seconds in (("idle", grant.idle_limit), ("time", grant.time_limit)):
        if seconds and not MIN_LIMIT_SECONDS <= seconds <= MAX_LIMIT_SECONDS:
            raise BadGrant(
                f"the {what} limit is 0 for none, or from {MIN_LIMIT_SECONDS} seconds to a year"
            )
    if grant.record is not None and grant.record not in RECORD_MODES:
        shown = printable(grant.record, 40)
        raise BadGrant(f"what is recorded is one of {', '.join(RECORD_MODES)}, not {shown!r}")


def _check_whole(grant: Grant, selector: str) -> None:
    forwards = bool(grant.forward or grant.forward_back)
    if grant.admin or grant.console:
        word = "console" if grant.console else "admin"
        if selector != ANY:
            raise BadGrant(f"{word} concerns the whole fleet: it goes with no selector")
        if grant.handlers or grant.logins or forwards or grant.watch:
            raise BadGrant(f"{word} is everything: it needs no handlers, logins, targets or watch")
    elif not (grant.handlers or forwards):
        if not grant.watch:
            raise BadGrant("a grant names a handler at least")
        if grant.logins or grant.idle_limit or grant.time_limit or grant.record:
            # Whoever wrote this expects something of it that it does not do.
            raise BadGrant("logins, limits and recording go with handlers, which are missing")
    elif FORWARD in grant.handlers and not forwards:
        raise BadGrant("forward is granted by its targets, * for whatever the device allows")


def _once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _policy_selector(text: str) -> selectors.Selector:
    try:
        selector = selectors.parse_for_policy(text)
    except selectors.BadSelector as error:
        raise BadGrant(f"selector: {error.message}") from None
    for term in selector.terms:
        if term.key in PSEUDO_LABELS and term.key != "name":
            raise BadGrant(f"a role's selector has names and labels, not {term.key}")
    return selector


# -- compiled --------------------------------------------------------------------------------------

Predicate = Callable[[str, Mapping[str, str]], bool]


@attrs.frozen(kw_only=True)
class CompiledGrant:
    """A grant that answers within a microsecond; make it with `new`.

    Attributes:
        rule: how the audit names it: ``ROLE/NUMBER``, counted from 1.
        grant: as it is kept.
    """

    rule: str
    grant: Grant
    _covers: Predicate
    _handlers: frozenset[str]
    _any_handler: bool
    _logins: frozenset[str]
    _any_login: bool
    _default_login: bool
    _forward: tuple[ForwardRule, ...]
    _forward_back: tuple[ForwardRule, ...]

    @classmethod
    def new(cls, rule: str, grant: Grant) -> CompiledGrant:
        """Compile a grant that `check_grant` passed."""
        return cls(
            rule=rule,
            grant=grant,
            covers=_predicate(selectors.parse(grant.select)),
            handlers=frozenset(grant.handlers),
            any_handler=ANY in grant.handlers,
            logins=frozenset(grant.logins),
            any_login=ANY in grant.logins,
            default_login=not grant.logins or ANY in grant.logins,
            forward=tuple(parse_rule(text) for text in grant.forward),
            forward_back=tuple(parse_rule(text) for text in grant.forward_back),
        )

    def covers(self, device: Device) -> bool:
        """Whether the selector picks a device; never one whose name nobody accepted."""
        return not device.name_provisional and self._covers(device.name, device.labels)

    def names(self, handler: str) -> bool:
        """Whether it is about a handler at all."""
        if handler == FORWARD:
            return bool(self._forward or self._forward_back)
        return self._any_handler or handler in self._handlers

    def admits_login(self, handler: str, login: str | None) -> bool:
        """Whether it grants asking for that login; None is the device's default."""
        if login is None:
            return self._default_login or handler in _WITHOUT_LOGIN
        return self._any_login or login in self._logins

    def admits_request(self, handler: str, request: Mapping[str, Any] | None) -> bool:
        """Whether it grants what is asked of the handler; that matters for ``forward`` only.

        None asks whether it grants anything of it.
        """
        if handler != FORWARD or request is None:
            return True
        try:
            asked = msgspec.convert(request, ForwardRequest)
            if asked.accept is not None:
                # The id is a secret of the session that listens, which was judged.
                return bool(self._forward_back)
            place = asked.listen
            if place is not None:
                wanted = place_of(place.host, place.port, place.path, listen=True)
                return admitted(self._forward_back, wanted, listen=True)
            wanted = place_of(asked.host, asked.port, asked.path)
        except (msgspec.ValidationError, BadRule):
            return False  # the device would refuse it, too
        return admitted(self._forward, wanted)

    def admits(
        self,
        device: Device,
        handler: str,
        login: str | None,
        request: Mapping[str, Any] | None,
    ) -> bool:
        """Whether it grants all of this."""
        # The cheapest first: most grants are about other handlers.
        return (
            self.names(handler)
            and self.admits_login(handler, login)
            and not device.name_provisional
            and self._covers(device.name, device.labels)
            and (handler != FORWARD or self.admits_request(handler, request))
        )

    def missing(
        self,
        device: Device,
        handler: str,
        login: str | None,
        request: Mapping[str, Any] | None,
    ) -> list[str]:
        """Return, in words, what keeps it from granting this; nothing if it does."""
        words = []
        if device.name_provisional:
            words.append(f"the name {device.name} is provisional, and no role matches it")
        elif not self.covers(device):
            words.append(f"its selector {self.grant.select} does not pick {device.name}")
        if not self.names(handler):
            words.append(f"it does not allow {handler}")
        elif not self.admits_request(handler, request):
            words.append("it does not allow this forward target")
        if not self.admits_login(handler, login):
            asked = "the device's default login" if login is None else f"the login {login}"
            words.append(f"it does not allow {asked}")
        return words


def forward_option(request: Mapping[str, Any] | None) -> str:
    """Return the option of ``rshell roles set`` that would grant a forward; "" if there is none."""
    try:
        asked = msgspec.convert(request, ForwardRequest)
        place = asked.listen or asked
        if asked.accept is not None:
            return ""  # it is granted with the listening that it belongs to
        back = asked.listen is not None
        found = place_of(place.host, place.port, place.path, listen=back)
    except (msgspec.ValidationError, BadRule):
        return ""  # the device would refuse it, too
    host = f"[{found.host}]" if ":" in found.host else found.host
    target = f"unix:{found.path}" if found.path else f"{host}:{found.port or '*'}"
    return f"{BACK if back else '--forward'} {printable(target, 80)}"


class _Terms(Protocol):
    """What a grant says of sessions' time and recording."""

    @property
    def idle_limit(self) -> int: ...

    @property
    def time_limit(self) -> int: ...

    @property
    def record(self) -> str | None: ...


def grant_words(grant: Grant) -> str:
    """Return what a grant says, in a line for people."""
    words = [f"on {grant.select}"]
    if grant.handlers:
        words.append(f"allow {','.join(grant.handlers)}")
    if grant.logins:
        words.append(f"as {','.join(grant.logins)}")
    words += [f"forward {target}" for target in grant.forward]
    words += [f"forward-back {target}" for target in grant.forward_back]
    if grant.watch:
        words.append("watch")
    return "; ".join(words + term_words(grant))


def term_words(grant: _Terms) -> list[str]:
    """Return what a grant says of its sessions' time and recording."""
    words = []
    if grant.idle_limit:
        words.append(f"idle-limit {seconds_words(grant.idle_limit)}")
    if grant.time_limit:
        words.append(f"time-limit {seconds_words(grant.time_limit)}")
    if grant.record:
        words.append(f"record {grant.record}")
    return words


def seconds_words(seconds: int) -> str:
    """Return whole seconds as they are typed: ``15m``, ``8h``, ``90s``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _predicate(selector: selectors.Selector) -> Predicate:
    """Return the selector as nested functions: three times as fast as walking its terms."""
    tests = [_term(term) for term in selector.terms]
    if str(selector) == ANY:
        return lambda _name, _labels: True
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda name, labels: first(name, labels) and second(name, labels)
    return lambda name, labels: all(test(name, labels) for test in tests)


def _term(term: Any) -> Predicate:
    key, negated, globs = term.key, term.negated, term.values
    if term.form == "absent":
        return lambda _name, labels: key not in labels
    texts = frozenset(glob.text for glob in globs)
    if any(mark in text for text in texts for mark in "*?"):
        return _wild(key, negated, [glob.matches for glob in globs])
    # An absent label is None, which is none of the texts.
    if key == "name":
        return lambda name, _labels: (name in texts) != negated
    return lambda _name, labels: (labels.get(key) in texts) != negated


def _wild(key: str, negated: bool, fitting: Sequence[Callable[[str], bool]]) -> Predicate:
    def holds(name: str, labels: Mapping[str, str]) -> bool:
        value = name if key == "name" else labels.get(key)
        found = value is not None and any(fits(value) for fits in fitting)
        return found != negated

    return holds
