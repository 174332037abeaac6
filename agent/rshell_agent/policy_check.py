"""``rshell-agent policy check``: what this device's policy allows, and why.

It reads the policy as the keeper does and decides nothing itself: handlers and logins are judged by
the keeper's code, paths by the workers', targets by the code that forwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from rshell_agent.config import unknown_keys
from rshell_agent.keeper.policy import BUILT_IN, LIMITS, LISTS
from rshell_agent.keeper.process import Account
from rshell_agent.keeper.wire import Refused
from rshell_agent.policy_place import Standing, look, user_name
from rshell_agent.policy_reach import Reach, reach

__all__ = ["Answer", "BadQuestion", "CannotCheck", "Question", "check_policy"]

_COLUMN = 14  # where the explanations of a line begin
_RUNS_ANYTHING = ("shell", "exec")
_PATHS = ("files", "sftp", "tail")
_IN_AGENT = ("forward", "facts")  # no process of a login, so `logins` is no matter


class CannotCheck(Exception):
    """The policy cannot be looked at; the message says why and what to do."""


class BadQuestion(Exception):
    """What was asked makes no sense for that handler."""


@attrs.frozen
class Question:
    """What is asked about.

    Attributes:
        handler: Its name, or None for the policy as a whole.
        subject: A path for files, sftp and tail; a target for forward; or None.
        login: Who shall run it; None is the policy's first login.
        back: For forward: the device shall listen there for the operator (``-R``).
    """

    handler: str | None = None
    subject: str | None = None
    login: str | None = None
    back: bool = False


@attrs.frozen
class Answer:
    """One step of a decision."""

    what: str
    allowed: bool
    why: str


def check_policy(
    home: Path, path: str | None, question: Question, as_json: bool, say: Callable[[str], None]
) -> bool:
    """Say what the policy allows; return whether what was asked about is allowed.

    Args:
        home: The agent's home.
        path: The policy file, if it is neither ``home/agent.toml`` nor the running keeper's.
        question: Without a handler: whether the policy can be used at all.
        as_json: Say it as one JSON object.
        say: Takes lines.

    Raises:
        CannotCheck: It cannot be looked at.
        BadQuestion: The question makes no sense.
    """
    check = _Check(_look(home, path))
    if question.handler is None:
        answers: list[Answer] = []
        allowed = check.policy.error is None
    else:
        answers = list(check.answers(question))
        allowed = _verdict(question, answers)
    if question.handler is None and check.policy.error is not None and not as_json:
        raise CannotCheck(f"the policy denies everything: {_line(check.policy.error)}")
    if as_json:
        say(json.dumps(check.document(question, answers, allowed), ensure_ascii=True))
    else:
        for line in check.lines(question, answers, allowed):
            say(_line(line))
    return allowed


def _verdict(question: Question, answers: list[Answer]) -> bool:
    """Whether all steps allow it; of reading and writing one is enough."""
    places = [answer.allowed for answer in answers if answer.what in ("read", "write")]
    others = all(a.allowed for a in answers if a.what not in ("read", "write"))
    return others and (not places or any(places))


def _look(home: Path, path: str | None) -> Standing:
    if not home.is_dir():
        raise CannotCheck(f"{home}: there is no such home; name it with --home")
    try:
        standing = look(home, path)
    except OSError as error:
        raise CannotCheck(f"{home}: {error.strerror}") from None
    file = standing.file.path
    if os.geteuid() and not os.access(file, os.R_OK) and (standing.exists or not _seen(file)):
        who = user_name(os.geteuid())
        raise CannotCheck(f"{file} cannot be read as {who}; ask as root or as the agent's user")
    if path is not None and not standing.exists:
        raise CannotCheck(f"{file}: there is no such file")
    return standing


def _seen(file: str) -> bool:
    """Whether we could see the file if it were there."""
    return os.access(os.path.dirname(os.path.abspath(file)), os.X_OK)


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


class _Check:
    """One reading of a policy, and what can be said of it."""

    def __init__(self, standing: Standing) -> None:
        self.standing, self.policy = standing, standing.policy
        self._numbers = _line_numbers(standing.file.path)

    # -- one question --------------------------------------------------------------------------

    def answers(self, question: Question) -> Iterator[Answer]:
        """Give the steps of a decision, as the keeper takes them."""
        handler, policy = question.handler or "", self.policy
        if policy.error is not None:
            yield Answer("policy", False, f"it denies everything: {policy.error}")
            return
        kind = _subject_kind(question)
        known = handler in policy.handlers
        yield Answer(f"handler {handler}", known, self._why_handler(handler, known))
        if not known:
            return
        if kind == "target":
            yield self._target(question)
        if handler in _IN_AGENT and question.login in (None, *policy.logins):
            return
        try:
            account = self._account(handler, question.login)
        except Refused as refusal:
            name = question.login or (policy.logins[0] if policy.logins else "self")
            yield Answer(f"login {name}", False, str(refusal))
            return
        yield Answer(f"login {account.name}", True, self.why("logins"))
        if kind == "path":
            yield from self._paths(question.subject or "", account)
        elif handler in _RUNS_ANYTHING:
            yield Answer("commands", True, f"any, within what {account.name} may do")

    def _account(self, handler: str, login: str | None) -> Account:
        """Return whom the keeper would run it as.

        Raises:
            Refused: It would not.
        """
        keeper = user_name(self.standing.keeper_uid)
        name = self.policy.login(handler, login)
        if name is not None and self.standing.keeper_uid:
            raise Refused("policy", f"the keeper runs as {keeper} and cannot become {name}")
        try:
            return Account(name or keeper)
        except Refused as refusal:
            if refusal.code != "policy":
                raise
            return _as_seen(name or keeper)  # we cannot become it, but the keeper can

    def _why_handler(self, handler: str, known: bool) -> str:
        if known and "handlers" not in self.policy.given:
            return "handlers: not set, so all built-in ones"
        if not known and handler not in BUILT_IN:
            return f"{self.why('handlers')}; a plug-in's handler must be named there"
        return self.why("handlers")

    def _paths(self, subject: str, account: Account) -> Iterator[Answer]:
        found = reach(os.fsencode(subject), account, self.policy.rules())
        for key, allowed in (("read", found.read), ("write", found.write)):
            yield Answer(key, allowed, self._why_path(key, allowed, found))
        if found.system:
            who = account.name if found.as_login else f"{user_name(os.geteuid())}, who asks,"
            yield Answer("system", True, f"{who} finds at {found.place}: {found.system}")

    def _why_path(self, key: str, allowed: bool, found: Reach) -> str:
        deny = f"deny_{key}"
        for seal in self.policy.lists[deny]:
            real = os.path.realpath(os.path.expanduser(seal))
            if not allowed and (found.place + "/").startswith(real.rstrip("/") + "/"):
                return f"{self.why(deny)} wins"
        if not allowed and found.place.startswith("/proc/"):
            return "a worker's own process is hidden, whatever the policy says"
        return f"beneath {'a' if allowed else 'no'} root of {self.why(key)}"

    def _target(self, question: Question) -> Answer:
        from rshell_agent.keeper.targets import BadTarget, Rules, parse_target

        key = "forward_back" if question.back else "forward"
        rules = Rules.parse(self.policy.lists[key], key)
        try:
            target = parse_target(question.subject or "")
        except BadTarget as error:
            raise BadQuestion(str(error)) from None
        verdict = rules.judge_listening(target) if question.back else rules.judge(target)
        what = f"listen at {target}" if question.back else f"target {target}"
        why = f"{verdict.reason} [{self.source(key)}]"
        resolved = target.address is not None or target.path or target.is_localhost
        if verdict.allowed and not resolved and not question.back:
            why += "; where the name leads to is checked at each connection"
        return Answer(what, verdict.allowed, why)

    # -- sources -------------------------------------------------------------------------------

    def source(self, key: str) -> str:
        """Return where a key's value comes from."""
        if key not in self.policy.given:
            return "not set: the default"
        number = self._numbers.get(key)
        file = os.path.basename(self.standing.file.path)
        return f"{file} line {number}" if number else file

    def why(self, key: str) -> str:
        """Return a key, its value and where that comes from."""
        return f"{key} = {json.dumps(self.value(key), ensure_ascii=False)} [{self.source(key)}]"

    def value(self, key: str) -> object:
        """Return what holds for a key."""
        policy = self.policy
        if key in LISTS:
            return policy.lists[key]
        if key in LIMITS:
            return policy.limits[key]
        return {"max_file_size": policy.max_file_size, "setid": policy.setid}[key]

    def warnings(self) -> list[str]:
        """Return what its owner should know."""
        policy, standing = self.policy, self.standing
        lines = list(policy.warnings)
        lines += unknown_keys(standing.file.document)
        for key in ("read", "write"):
            lines += [
                f"{key}: {path} is no folder: nothing is beneath it"
                for path in policy.lists[key]
                if path.startswith("/") and not os.path.isdir(path)
            ]
        if "write" in policy.given or "read" in policy.given:
            read = [os.path.realpath(path).rstrip("/") + "/" for path in policy.lists["read"]]
            lines += [
                f"write: {path} is beneath no root of read: files can be put there, but copying "
                "cannot resume or compare"
                for path in policy.lists["write"]
                if not any((os.path.realpath(path) + "/").startswith(root) for root in read)
            ]
            if any(name in policy.handlers for name in _RUNS_ANYTHING):
                lines.append(
                    "read and write bound files, sftp and tail only: the handlers shell and exec "
                    "are allowed and do whatever the login may"
                )
        if standing.differs and standing.running is not None:
            lines.append(
                f"the keeper that runs (process {standing.running.pid}) obeys another policy"
                + (f": {standing.running.policy}" if standing.running.policy else "")
            )
        return lines

    # -- saying it -------------------------------------------------------------------------------

    def lines(self, question: Question, answers: list[Answer], allowed: bool) -> Iterator[str]:
        """Give what people read."""
        if question.handler is not None:
            for answer in answers:
                word = "allowed" if answer.allowed else "denied"
                if answer.what == "system":
                    word = ""
                yield f"{answer.what + ':':<{_COLUMN}} {word:<8} {answer.why}"
            yield f"{'result:':<{_COLUMN}} {'allowed' if allowed else 'denied'}"
            return
        for line in self.warnings():
            yield f"warning: {line}"
        yield f"policy: {self._file()}"
        for key in (*LISTS, *LIMITS, "max_file_size", "setid"):
            value = self.value(key)
            text = ", ".join(value) or "none" if isinstance(value, list) else str(value).lower()
            if key == "max_file_size" and not value:
                text = "no limit"
            yield f"{key}: {text}  [{self.source(key)}]"
        yield from self._boundary_lines()

    def _file(self) -> str:
        standing = self.standing
        what = standing.file.path if standing.exists else f"{standing.file.path} does not exist"
        running = standing.running
        if running is None:
            return f"{what}; no keeper runs"
        obeys = "another policy" if standing.differs else "it"
        return f"{what}; the keeper, process {running.pid}, obeys {obeys}"

    def _boundary_lines(self) -> Iterator[str]:
        if self.standing.boundary:
            yield "this policy is a boundary: who has the agent, or the gateway, cannot exceed it"
        else:
            yield (
                "this policy is a guard rail, not a boundary: whoever has the agent's user, by a "
                "hole in the agent or as an operator with a shell, can get round it"
            )
        for condition in self.standing.conditions:
            yield f"  {'yes' if condition.holds else 'no ':<4} {condition.what} ({condition.why})"

    def document(self, question: Question, answers: list[Answer], allowed: bool) -> dict[str, Any]:
        """Return it all for programs."""
        standing = self.standing
        running = standing.running
        asked: dict[str, Any] | None = None
        if question.handler is not None:
            asked = {**attrs.asdict(question), "steps": [attrs.asdict(a) for a in answers]}
        return {
            "allowed": allowed,
            "error": self.policy.error,
            "file": standing.file.path,
            "exists": standing.exists,
            "keys": {
                key: {
                    "value": self.value(key),
                    "set": key in self.policy.given,
                    "line": self._numbers.get(key) if key in self.policy.given else None,
                }
                for key in (*LISTS, *LIMITS, "max_file_size", "setid")
            },
            "warnings": self.warnings(),
            "boundary": standing.boundary,
            "conditions": [attrs.asdict(condition) for condition in standing.conditions],
            "keeper": None
            if running is None
            else {**attrs.asdict(running), "same_policy": not standing.differs},
            "question": asked,
        }


def _subject_kind(question: Question) -> str:
    """Return what the subject is: a path, a target, or nothing.

    Raises:
        BadQuestion: The handler takes none.
    """
    if question.back and question.handler != "forward":
        raise BadQuestion("--back is about forward only")
    if question.subject is None:
        if question.back:
            raise BadQuestion("forward --back needs a place to listen at, such as localhost:8080")
        return ""
    if question.handler in _PATHS:
        return "path"
    if question.handler == "forward":
        return "target"
    raise BadQuestion(f"{question.handler} has neither path nor target; the policy names none")


def _as_seen(name: str) -> Account:
    """Return a login that we cannot become, to look with our own rights where it would."""
    import pwd

    account = Account(None)
    entry = pwd.getpwnam(name)
    account.name, account.uid, account.gid = entry.pw_name, entry.pw_uid, entry.pw_gid
    account.home, account.switch = entry.pw_dir or "/", True
    return account


def _line_numbers(path: str) -> dict[str, int]:
    """Return in which line of ``[policy]`` each key stands; good enough to be found by people."""
    found: dict[str, int] = {}
    section = ""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text.startswith("[") and text.rstrip().split("#")[0].strip().endswith("]"):
                    section = text.split("#")[0].strip().strip("[]").strip()
                elif section == "policy" and "=" in text:
                    found.setdefault(text.split("=", 1)[0].strip().strip("\"'"), number)
    except OSError:  # there is none
        pass
    return found
