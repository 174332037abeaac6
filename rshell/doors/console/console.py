"""Console: lines in, values out, one at a time; each is committed to the audit log before it runs.

It joins the interpreter, the screen and, at a terminal, the line editor.  It knows neither doors
nor links.
"""

from __future__ import annotations

import inspect
import pprint
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rshell.doors.console.completion import Completer
from rshell.doors.console.editor import ConsoleLine
from rshell.doors.console.interpreter import Interpreter, Statement, describe_error
from rshell.doors.console.painting import DIM, RED, safe_text, tint
from rshell.doors.console.results import Call, Shown, record_text
from rshell.doors.console.screen import Screen

__all__ = ["Console"]

#: Deferreds that were shown and have not fired; more are not watched.
MAX_DEFERREDS = 1000
#: A value is not laid out wider, however wide the window.
MAX_COLUMNS = 120


class Console:
    """One operator's console.

    Args:
        namespace: Its names.
        screen: Shows.
        label: Tells its code from other consoles'.
        write_down: Commits a statement's source to the audit log; what it raises keeps the
            statement from being run.
        left: Called once, when the operator leaves.
    """

    _log = Logger()

    def __init__(
        self,
        namespace: dict[str, Any],
        screen: Screen,
        label: str,
        write_down: Callable[[str], Awaitable[None]],
        left: Callable[[], None],
    ) -> None:
        self.interpreter = Interpreter(namespace, label, self.show)
        self.line: ConsoleLine | None = None
        self.failed = False
        self._screen = screen
        self._write_down = write_down
        self._left = left
        self._completer = Completer(namespace)
        self._running: Deferred[None] | None = None
        self._cancelled = self._leaving = self._over = False
        self._deferreds: dict[int, tuple[int, Deferred[Any]]] = {}
        self._count = 0

    # -- LineOwner -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a line runs."""
        return self._running is not None or self._over

    @property
    def before(self) -> str:
        """The lines of an incomplete statement."""
        return "".join(f"{line}\n" for line in self.interpreter.lines)

    def line_entered(self, line: str) -> None:
        """Take a line that was typed."""
        try:
            statement = self.interpreter.push(line)
        except Exception as error:  # whatever Python's compiler has to say about odd input
            self._tell(error)
            statement = None
        if statement is None or not statement.source.strip():
            self._prompt()
        else:
            self._begin(statement)

    def interrupt(self) -> None:
        """Ctrl-C: cancel what runs; again, leave it to itself; else forget what was typed."""
        running = self._running
        if running is None:
            self.interpreter.reset()
        elif not self._cancelled:
            self._cancelled = True
            running.cancel()
            if self._running is not None:
                self._screen.show(tint(DIM, "interrupting; Ctrl-C again leaves it to itself"))
        else:
            self._running = None
            self._screen.show(tint(DIM, "left to itself"))
            self._prompt()

    def leave(self) -> None:
        """Leave, once what runs has ended."""
        self._leaving = True
        if self._running is None:
            self._end()

    def complete(self, text: str) -> Awaitable[tuple[int, list[str]]]:
        """Return what Tab offers."""
        return self._completer.complete(text)

    # -- running ---------------------------------------------------------------------------------

    def start(self, line: ConsoleLine, banner: str) -> None:
        """Begin at a terminal."""
        self.line = line
        self._screen.show(tint(DIM, safe_text(banner)))
        self._prompt()

    def run_script(self, source: str) -> None:
        """Run a whole text, and leave."""
        self._leaving = True
        try:
            statement = self.interpreter.compile(source, whole=True)
        except Exception as error:  # as above
            self.failed = True
            self._tell(error)
            statement = None
        if statement is None or not source.strip():
            self._end()
        else:
            self._begin(statement)

    def close(self) -> None:
        """The operator is gone: cancel what runs."""
        self._over = True
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        self.interpreter.close()

    def _begin(self, statement: Statement) -> None:
        self._cancelled = False
        self._screen.above_prompt = None
        running = Deferred.fromCoroutine(self._run(statement))
        self._running = running
        running.addBoth(self._ended, running)

    async def _run(self, statement: Statement) -> None:
        await self._write_down(statement.source)
        await self.interpreter.run(statement)

    def _ended(self, result: Any, running: Deferred[None]) -> None:
        if isinstance(result, Failure):
            if isinstance(result.value, SystemExit):
                self._leaving = True
            else:
                self.failed = True
                self._tell(result.value or RuntimeError(str(result)))
        if self._running is running:
            self._running = None
            if self._leaving:
                self._end()
            else:
                self._prompt()

    def _tell(self, error: BaseException) -> None:
        if not self._over:
            self._screen.begin_line()
            self._screen.show(tint(RED, safe_text(describe_error(error))), error=True)

    def _prompt(self) -> None:
        if self.line is not None and not self._over:
            self._screen.begin_line()
            self._screen.above_prompt = self.line.write_above
            self.line.go_on()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._left()

    # -- showing ---------------------------------------------------------------------------------

    async def show(self, value: Any) -> None:
        """Show the value of an expression, and keep it as ``_``.

        What can be awaited is awaited, but for a Deferred: that is shown when it fires.
        """
        call = getattr(type(value), "default_call", None)
        if call is not None:
            self.interpreter.namespace["_"] = value
            value = call(value)
        if isinstance(value, Call) or inspect.iscoroutine(value):
            value = await value
        if value is None:
            return
        self.interpreter.namespace["_"] = value
        if isinstance(value, Deferred):
            self._show_deferred(value)
        else:
            text = self._look(value)
            if text or self._screen.columns:
                self._screen.show(text)

    def _look(self, value: Any) -> str:
        if isinstance(value, Shown):
            return value.look(self._screen.columns)
        width = max(20, min(self._screen.columns or MAX_COLUMNS, MAX_COLUMNS))
        # One with a repr of its own has its reasons: an invitation hides its secret.
        looks: Any = type(value).__repr__
        if isinstance(value, msgspec.Struct) and looks is msgspec.Struct.__repr__:
            return safe_text(record_text(value))
        return safe_text(pprint.pformat(value, width=width, sort_dicts=False))

    def _show_deferred(self, deferred: Deferred[Any]) -> None:
        known = self._deferreds.get(id(deferred))
        if known is None and len(self._deferreds) < MAX_DEFERREDS and not deferred.called:
            self._count += 1
            known = self._deferreds[id(deferred)] = (self._count, deferred)
            self._screen.show(f"<Deferred #{self._count}>")
            deferred.addCallbacks(self._fired, self._failed, callbackArgs=known, errbackArgs=known)
        elif known is not None:
            self._screen.show(f"<Deferred #{known[0]}>")
        else:
            self._screen.write(repr(deferred))

    def _fired(self, result: Any, number: int, deferred: Deferred[Any]) -> Any:
        del self._deferreds[id(deferred)]
        if not self._over:
            self._screen.show(f"Deferred #{number} fired: {self._look(result)}")
        return result

    def _failed(self, failure: Failure, number: int, deferred: Deferred[Any]) -> None:
        # It was shown to who made it; the gateway's log need not tell it again.
        del self._deferreds[id(deferred)]
        if not self._over:
            words = safe_text(f"Deferred #{number} failed: {failure.getErrorMessage()}")
            self._screen.show(tint(RED, words))
