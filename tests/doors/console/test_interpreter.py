"""Statements: complete or not, compiled, run and told when they fail."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from rshell.client import RshellError
from rshell.doors.console.interpreter import MAX_SOURCE, Interpreter, describe_error
from rshell.doors.console.watchdog import LineBlocked


class InterpreterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shown: list[Any] = []

        async def show(value: Any) -> None:
            self.shown.append(value)

        self.interpreter = Interpreter({}, "test", show)
        self.addCleanup(self.interpreter.close)

    def run_lines(self, *lines: str) -> None:
        for line in lines:
            statement = self.interpreter.push(line)
            if statement is not None:
                self.successResultOf(Deferred.fromCoroutine(self.interpreter.run(statement)))

    def test_expressions(self) -> None:
        """Every expression statement shows its value, but for those in functions."""
        self.run_lines("1; 2", "if True:", "  3", "")
        self.run_lines("def f():", "  4", "  return 5", "", "f()", "x = 6")
        self.assertEqual(self.shown, [1, 2, 3, 5])

    def test_await(self) -> None:
        """await stands anywhere; names bound beside it stay bound."""
        self.interpreter.namespace["d"] = waiting = Deferred()
        statement = self.interpreter.push("y = await d; y + 1")
        assert statement is not None
        running = Deferred.fromCoroutine(self.interpreter.run(statement))
        self.assertNoResult(running)
        waiting.callback(1)
        self.successResultOf(running)
        self.assertEqual((self.shown, self.interpreter.namespace["y"]), ([2], 1))

    def test_odd_input(self) -> None:
        """What is no Python raises, is forgotten, and the next line counts."""
        for odd in (
            "\x00", "\ufffd", "'", "(]", "  1", "\\", "return", "yield", "await", "1 = 2", "f'{'",
            "(" * 5000, "-" * 5000 + "1", "x" * (MAX_SOURCE + 1), "\ud800",
        ):  # fmt: skip
            raised: BaseException | None = None
            try:
                if self.interpreter.push(odd) is None:
                    self.interpreter.push("]]")
            except Exception as error:  # whatever the compiler says
                raised = error
            self.assertIsNotNone(raised, repr(odd[:20]))
            self.assertEqual(self.interpreter.lines, [])
        self.run_lines("1")
        self.assertEqual(self.shown, [1])

    def test_traceback(self) -> None:
        """A traceback begins with what was typed, with its source."""
        statement = self.interpreter.push("1/0")
        assert statement is not None
        running = Deferred.fromCoroutine(self.interpreter.run(statement))
        error = self.failureResultOf(running).value
        assert error is not None
        text = describe_error(error)
        self.assertRegex(text, r'^Traceback .*\n  File "<console test:1>", line 1')
        self.assertIn("    1/0", text)
        self.assertNotIn("interpreter.py", text)

    def test_errors_in_words(self) -> None:
        """What an operator can meet is one line."""
        self.assertEqual(describe_error(CancelledError()), "interrupted")
        self.assertIn("kept the gateway", describe_error(LineBlocked()))
        self.assertEqual(
            describe_error(RshellError("offline", "gone", "wait")), "offline: gone (wait)"
        )

        class Bad(Exception):
            def __str__(self) -> str:
                raise ValueError

        self.assertIn("Bad", describe_error(Bad()))

    def test_deep_recursion(self) -> None:
        """A traceback of thousands of frames is cut."""
        self.run_lines("def f(n):", "  return f(n + 1) if n % 2 else g(n)", "")
        self.run_lines("def g(n): return f(n + 1)", "")
        statement = self.interpreter.push("f(0)")
        assert statement is not None
        failure = self.failureResultOf(Deferred.fromCoroutine(self.interpreter.run(statement)))
        assert failure.value is not None
        self.assertLess(describe_error(failure.value).count("\n"), 70)
