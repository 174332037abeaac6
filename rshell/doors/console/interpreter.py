"""Interpreter: statements typed line by line, compiled with ``await`` at the top level, and run.

Every expression statement shows its value, as in Python's own prompt, but without that prompt's
process-wide ``sys.displayhook``: the syntax tree is changed to ``await __show__(value)``.  It
decides nothing about what is shown, and how; it knows no terminal.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import traceback
import warnings
from codeop import CommandCompiler
from collections import deque
from collections.abc import Awaitable, Callable
from types import CodeType, FunctionType
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError

from rshell.client.errors import RshellError
from rshell.doors.console.watchdog import FILE_PREFIX, LineBlocked

__all__ = ["MAX_SOURCE", "Interpreter", "SourceTooLong", "Statement", "describe_error"]

#: Characters of one statement: it has to fit into a row of the audit log.
MAX_SOURCE = 16 * 1024
#: Statements whose source is kept, to be shown in tracebacks.
MAX_SOURCES = 200
#: Lines of one traceback.
MAX_TRACEBACK_LINES = 60
SHOW = "__show__"


class SourceTooLong(ValueError):
    """More than one statement may have."""


@attrs.frozen
class Statement:
    """Something complete, ready to be run."""

    source: str
    code: CodeType


class _Showing(ast.NodeTransformer):
    """Wraps expression statements outside functions and classes."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = ast.Call(func=ast.Name(id=SHOW, ctx=ast.Load()), args=[node.value], keywords=[])
        return ast.copy_location(ast.Expr(value=ast.Await(value=call)), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


class Interpreter:
    """Runs statements in one namespace.

    Args:
        namespace: Its names; changed by what is run.
        label: Tells this console's code from others'.
        show: Shows the value of an expression.
    """

    def __init__(
        self, namespace: dict[str, Any], label: str, show: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.namespace = namespace
        self.lines: list[str] = []
        self._label = label
        self._count = 0
        self._kept: deque[str] = deque()
        self._compiler = CommandCompiler()
        self._compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        namespace[SHOW] = show

    def reset(self) -> None:
        """Forget the lines of an incomplete statement."""
        self.lines.clear()

    def push(self, line: str) -> Statement | None:
        """Take a line.

        Returns:
            The statement that it completes; None if more is needed.

        Raises:
            Exception: It cannot be compiled: SyntaxError, ValueError, RecursionError, MemoryError
                … whatever Python's compiler says; the lines are forgotten.
        """
        self.lines.append(line)
        source = "\n".join(self.lines)
        statement = None
        try:
            statement = self.compile(source, whole=False)
        except BaseException:
            self.reset()
            raise
        if statement is not None:
            self.reset()
        return statement

    def compile(self, source: str, *, whole: bool) -> Statement | None:
        """Compile a statement, or with ``whole`` all statements of a text.

        Raises:
            Exception: As `push`.
        """
        if len(source) > MAX_SOURCE:
            raise SourceTooLong(f"at most {MAX_SOURCE:,} characters in one statement")
        name = f"{FILE_PREFIX}{self._label}:{self._count + 1}>"
        with warnings.catch_warnings():
            # They would go to the gateway's log, and by a filter that all of it shares.
            warnings.simplefilter("ignore")
            if not whole and self._compiler(source, name, "single") is None:
                return None
            tree = ast.fix_missing_locations(_Showing().visit(ast.parse(source, name)))
            # compile() with this flag and a tree returns code, whatever its type says.
            code = cast(CodeType, compile(tree, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        self._count += 1
        self._keep(name, source)
        return Statement(source, code)

    def _keep(self, name: str, source: str) -> None:
        # An entry without a time is not checked against a file.
        linecache.cache[name] = (len(source), None, (source + "\n").splitlines(True), name)
        self._kept.append(name)
        while len(self._kept) > MAX_SOURCES:
            linecache.cache.pop(self._kept.popleft(), None)

    async def run(self, statement: Statement) -> None:
        """Run a statement.

        Raises:
            BaseException: Whatever it raised.
        """
        if statement.code.co_flags & inspect.CO_COROUTINE:
            await FunctionType(statement.code, self.namespace)()
        else:
            exec(statement.code, self.namespace)  # noqa: S102  # that is what a console does

    def close(self) -> None:
        """Forget the sources."""
        while self._kept:
            linecache.cache.pop(self._kept.popleft(), None)


def describe_error(error: BaseException) -> str:
    """Return what an error is told as: one line for what operators can meet, else a traceback."""
    if isinstance(error, CancelledError | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, LineBlocked | SourceTooLong):
        return str(error)
    if isinstance(error, RshellError):
        return f"{error.code}: {error.message}" + (f" ({error.hint})" if error.hint else "")
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(FILE_PREFIX):
        trace = trace.tb_next
    try:
        lines = "".join(traceback.format_exception(type(error), error, trace)).splitlines()
    except Exception:  # an exception whose own words fail
        return type(error).__name__
    if len(lines) > MAX_TRACEBACK_LINES:
        half = MAX_TRACEBACK_LINES // 2
        lines = [*lines[:half], f"  … {len(lines) - 2 * half} lines …", *lines[-half:]]
    return "\n".join(lines)
