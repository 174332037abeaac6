"""What a fresh interpreter loads: the device's side and the core stay lean."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
_SAY = "import json, sys; import {name}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(name: str) -> set[str]:
    """Return the modules that are loaded once ``name`` is imported in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _SAY.format(name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'agent'}"},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


#: What Twisted and cryptography bring along, and neither agent nor command needs.
_BALLAST = ("asyncio", "ssl", "_ssl", "bcrypt", "http.client", "urllib.request", "email.parser")
_RUN = (
    "rshell.cli.main as main; main.cli.get_command(None, 'run');"
    "from twisted.internet import reactor"
)
_AGENT = "rshell_agent.main as main; main.import_agent(); from twisted.internet import reactor"
_NOT_FOR_RUN = (
    "rich",
    "twisted.internet.endpoints",
    "twisted.internet._sslverify",
    "rshell.gateway",
    "rshell.store",
    "sqlalchemy",
)


class ImportTests(SynchronousTestCase):
    def _without(self, name: str, *forbidden: str) -> None:
        loaded = loaded_by(name)
        self.assertIn(name, loaded)
        found = {
            module
            for module in loaded
            if any(module == word or module.startswith(f"{word}.") for word in forbidden)
        }
        if "twisted" not in forbidden:
            # Twisted's own Deferred brings asyncio; nothing of ours may bring more.
            found -= loaded_by("twisted.internet.defer")
        self.assertEqual(found, set())

    def test_agent(self) -> None:
        """The agent loads neither asyncio, conch, a database nor anything of the gateway."""
        if importlib.util.find_spec("rshell_agent.service") is None:
            raise SkipTest("rshell_agent.service is not part of this checkout")
        self._without(
            "rshell_agent.service",
            "asyncio",
            "twisted.internet.asyncioreactor",
            "twisted.conch",
            "sqlalchemy",
            "alembic",
            "rshell.gateway",
            "rshell.store",
            "rshell.doors",
            "rshell.access",
            "rshell.cli",
        )

    def _free_of(self, name: str, *forbidden: str) -> None:
        loaded = loaded_by(name)
        found = {
            module
            for module in loaded
            if any(module == word or module.startswith(f"{word}.") for word in forbidden)
        }
        self.assertEqual(found, set())

    def test_run(self) -> None:
        """``rshell run`` starts without what it does not use: a third of its start."""
        self._free_of(_RUN, *_BALLAST, *_NOT_FOR_RUN)

    def test_agent_at_rest(self) -> None:
        """``rshell-agent run`` holds nothing in memory that only Twisted's other users need."""
        self._free_of(_AGENT, *_BALLAST)

    def test_asyncio_can_be_had(self) -> None:
        """A plug-in that wants asyncio gets the real one, and Twisted's Deferred works with it."""
        code = (
            "rshell_agent.main as main; main.import_agent(); import asyncio;"
            "from twisted.internet.defer import Deferred, ensureDeferred;"
            "loop = asyncio.new_event_loop(); future = loop.create_future();"
            "seen = []; Deferred.fromFuture(future).addCallback(seen.append);"
            "future.set_result(7); loop.run_until_complete(asyncio.sleep(0));"
            "back = Deferred(); back.callback(8);"
            "seen.append(loop.run_until_complete(back.asFuture(loop)));"
            "loop.close(); assert seen == [7, 8], seen"
        )
        self.assertIn("asyncio.events", loaded_by(code))

    def test_keeper(self) -> None:
        """The keeper loads the standard library only."""
        self._without(
            "rshell_agent.keeper.main",
            "twisted",
            "zope",
            "msgspec",
            "attrs",
            "attr",
            "cryptography",
            "OpenSSL",
            "rshell",
            "asyncio",
        )

    def test_core(self) -> None:
        """The core of the link does no I/O: neither twisted nor socket is loaded."""
        self._without(
            "rshell.link.core.connection", "twisted", "socket", "OpenSSL", "asyncio", "select"
        )

    def test_client(self) -> None:
        """The operator's library loads no database and nothing of the gateway."""
        self._without(
            "rshell.client",
            "sqlalchemy",
            "alembic",
            "rshell.gateway",
            "rshell.store",
            "asyncio",
            "twisted.conch",
        )

    def test_doors(self) -> None:
        """Neither the service's module nor the SSH door brings a reactor: twistd installs it."""
        self._without("rshell.tap", "twisted.internet.reactor", "twisted.conch")
        self._without("rshell.doors.ssh.door", "twisted.internet.reactor")

    def test_dropin(self) -> None:
        """The dropin that every twistd loads imports neither a reactor nor rshell."""
        dropin = ROOT / "twisted" / "plugins" / "rshell_plugin.py"
        code = (
            "import json, sys, runpy; runpy.run_path(sys.argv[1]);"
            "print(json.dumps([m for m in sys.modules if m.startswith('rshell')"
            " or m == 'twisted.internet.reactor']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(dropin)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        self.assertEqual(json.loads(done.stdout), [])
