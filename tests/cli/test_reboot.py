"""The command line of ``rshell reboot``, without any device."""

from __future__ import annotations

from typing import Any

import click
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli.reboot import _told, reboot
from rshell.client.reboots import WAIT_SECONDS
from rshell.handlers.reboot import RebootStep


class WaitTests(SynchronousTestCase):
    def parsed(self, *words: str) -> tuple[Any, str]:
        context = click.Context(reboot)
        reboot.parse_args(context, list(words))
        return context.params["wait_seconds"], context.params["selector"]

    def test_value(self) -> None:
        """The seconds may be left out, wherever the option stands."""
        for words, seconds in (
            (["pump-1"], None), (["--wait", "pump-1"], WAIT_SECONDS),
            (["pump-1", "--wait"], WAIT_SECONDS), (["--wait", "40", "pump-1"], 40.0),
            (["--wait=40", "pump-1"], 40.0), (["pump-1", "--wait", "1.5"], 1.5),
            (["--wait", "--json", "pump-1"], WAIT_SECONDS),
        ):  # fmt: skip
            self.assertEqual((seconds, "pump-1"), self.parsed(*words), words)

    def test_name_with_digits(self) -> None:
        """A device whose name begins with a digit is no time."""
        self.assertEqual((WAIT_SECONDS, "3com-1"), self.parsed("--wait", "3com-1"))

    def test_range(self) -> None:
        """A time that is none is refused."""
        for word in ("0", "0.5", "90000"):
            with self.assertRaises(click.BadParameter):
                self.parsed("--wait", word, "pump-1")

    def test_words(self) -> None:
        """Each step is a few words; what says nothing new is left out."""
        for step, action, text in (
            (RebootStep(step="accepted"), "reboot", "accepted"),
            (
                RebootStep(step="accepted", due_in_seconds=90),
                "reboot",
                "accepted, due in 1 min 30 s",
            ),
            (RebootStep(step="going"), "poweroff", "switching off"),
            (RebootStep(step="going"), "reboot", "going down"),
            (RebootStep(step="announced"), "reboot", ""),
            (RebootStep(step="x\x1b[2J"), "reboot", ""),
        ):
            self.assertEqual(text, _told(step, action))
