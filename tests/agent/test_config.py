"""Unit tests of config, home, device, status and log: small things that must not fail a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.config import AgentConfig, LinkConfig, load_config
from rshell_agent.device import proposed_name, read_boot_id
from rshell_agent.facts import brief_facts
from rshell_agent.home import HomeInUse, HomeLock, default_home, state_directory
from rshell_agent.identity import LinkMemory
from rshell_agent.log import format_line
from rshell_agent.status import Status, StatusFile, read_status


class HomeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        state_directory(self.home)

    def write(self, text: str) -> AgentConfig:
        (self.home / "agent.toml").write_text(text)
        return load_config(self.home)


class ConfigTests(HomeCase):
    def test_absent(self) -> None:
        """No file means the defaults, without a warning."""
        self.assertEqual(AgentConfig(), load_config(self.home))

    def test_good(self) -> None:
        """All that is documented is read, and nothing of it is warned of."""
        config = self.write(
            '[link]\ngateways = ["gw.example.net:7411", "[2001:db8::1]:99"]\n'
            'mode = "connected"\nproxy = ""\n'
            '[policy]\nhandlers = ["shell"]\nfuture = 1\n'
            '[reboot]\ncommand = ["sh", "-c", "x"]\nboot_id_file = "/tmp/id"\n'
            '[keeper]\nagent_user = "rshell"\nstart = false\n'
        )
        self.assertEqual((), config.warnings)
        self.assertEqual(("gw.example.net:7411", "[2001:db8::1]:99"), config.link.gateways)
        self.assertEqual(("sh", "-c", "x"), config.reboot.command)
        self.assertEqual("/tmp/id", config.reboot.boot_id_file)
        self.assertFalse(config.start_keeper)

    def test_unknown_keys(self) -> None:
        """Unknown sections and keys are named, and change nothing."""
        config = self.write('[link]\ngateway = "x:1"\n[colour]\nred = 1\n')
        self.assertEqual(LinkConfig(), config.link)
        self.assertEqual(
            ["agent.toml: [colour] is unknown", "agent.toml: [link] gateway: unknown"],
            sorted(config.warnings),
        )

    def test_last_good_copy(self) -> None:
        """A bad [link], or a file that is no TOML, falls back to the last good one."""
        self.write('[link]\ngateways = ["good:1"]\n')
        for text in (
            '[link]\ngateways = ["bad port:x"]\n',
            '[link]\ngateways = "good:1"\n',
            '[link]\nmode = "beacon"\n',
            "link = 7\n",
            "this is no TOML\n",
            "[link]\nproxy = 7\n",
            "[link]\ngateways = [" + '"a:1",' * 17 + "]\n",
        ):
            config = self.write(text)
            self.assertEqual(("good:1",), config.link.gateways, text)
            self.assertIn("the last good copy of [link] is used instead", config.warnings)

    def test_proxy(self) -> None:
        """A good proxy is taken and survives as the last good copy, in a file of ours alone."""
        config = self.write('[link]\nproxy = "http://me:hun%22ter2@proxy:3128"\n')
        self.assertEqual(
            ((), "http://me:hun%22ter2@proxy:3128"), (config.warnings, config.link.proxy)
        )
        self.assertNotIn("ter2", repr(config))
        self.assertEqual(0o600, (self.home / "state" / "link.toml").stat().st_mode & 0o777)
        self.assertEqual(config.link, self.write("[link]\nmode = 7\n").link)

    def test_bad_proxy_is_named_without_its_password(self) -> None:
        """A proxy that is none is refused by name; its value may hold a secret, not repeated."""
        for text in ('"https://me:hunter2@proxy:3128"', '"http://hunter2@proxy:1"', "7"):
            config = self.write(f"[link]\nproxy = {text}\n")
            self.assertIn("proxy", config.warnings[0])
            self.assertNotIn("hunter2", "".join(config.warnings))
            self.assertEqual("", config.link.proxy)

    def test_restart_after(self) -> None:
        """An agent ends itself only if told to, and never more often than every hour."""
        self.assertEqual(7200, self.write("[link]\nrestart_after_s = 7200\n").link.restart_after_s)
        for text in ("3599", "-1", "true", '"x"', "7200.0"):
            config = self.write(f"[link]\nrestart_after_s = {text}\n")
            self.assertIn("restart_after_s", config.warnings[0])

    def test_no_good_copy(self) -> None:
        """Without a good copy the default holds: what the gateway named at joining."""
        config = self.write('[link]\nmode = "x"\n')
        self.assertEqual(LinkConfig(), config.link)

    def test_other_sections(self) -> None:
        """A bad [reboot] or [keeper] leaves [link] alone."""
        config = self.write('[link]\ngateways = ["g:1"]\n[reboot]\ncommand = []\n[keeper]\nstart=1')
        self.assertEqual(("g:1",), config.link.gateways)
        self.assertEqual(2, len(config.warnings))
        self.assertTrue(config.start_keeper)

    def test_back_to_default(self) -> None:
        """Removing the file also replaces the copy: the default is a good [link], too."""
        self.write('[link]\ngateways = ["g:1"]\n')
        (self.home / "agent.toml").unlink()
        load_config(self.home)
        self.assertEqual(LinkConfig(), self.write("[link]\nmode = 7\n").link)


class HomeTests(HomeCase):
    def test_default_home(self) -> None:
        """The variable counts, then root's place, then the user's."""
        self.assertEqual(Path("/x"), default_home({"RSHELL_AGENT_HOME": "/x", "HOME": "/h"}, 0))
        self.assertEqual(Path("/var/lib/rshell-agent"), default_home({"HOME": "/h"}, 0))
        self.assertEqual(Path("/h/.local/state/rshell-agent"), default_home({"HOME": "/h"}, 7))

    def test_lock(self) -> None:
        """A second lock names the process that holds the first; a released one can be taken."""
        first = HomeLock(self.home)
        error = self.assertRaises(HomeInUse, HomeLock, self.home)
        self.assertIn(str(os.getpid()), str(error))
        first.release()
        HomeLock(self.home).release()

    def test_open_home(self) -> None:
        """A home that others can enter is refused."""
        self.home.chmod(0o755)
        self.assertRaises(PermissionError, state_directory, self.home)


class DeviceTests(HomeCase):
    def test_facts(self) -> None:
        """Facts are printable, short, and of known names."""
        (self.home / "etc").mkdir()
        release = self.home / "etc" / "os-release"
        release.write_text('NAME=x\nID=arch\nPRETTY_NAME="Arch \x1b[31m Linux"\n')
        facts = brief_facts(self.home)
        self.assertEqual({"hostname", "os", "os_name", "kernel", "architecture"}, set(facts))
        self.assertEqual(("arch", "Arch ?[31m Linux"), (facts["os"], facts["os_name"]))
        self.assertEqual("linux", brief_facts(self.home / "absent")["os"])

    def test_boot_id(self) -> None:
        """The boot id is read from its file; a missing file is no failure."""
        (self.home / "id").write_text("abc\n")
        self.assertEqual("abc", read_boot_id(str(self.home / "id")))
        self.assertEqual("", read_boot_id(str(self.home / "absent")))

    def test_proposed_name(self) -> None:
        """A host name becomes a valid device name, or none."""
        for host, name in (
            ("Pump_17.example.net", "pump-17"),
            ("--x--", "x"),
            ("ü", None),
            ("", None),
            ("a" * 80, "a" * 63),
        ):
            self.assertEqual(name, proposed_name(host))

    def test_link_memory(self) -> None:
        """Name and generation survive; a damaged file is like none."""
        state = self.home / "state"
        LinkMemory(state).learn("pump-17", 4)
        again = LinkMemory(state)
        self.assertEqual(("pump-17", 4), (again.name, again.link_generation))
        (state / "link.json").write_text("{")
        self.assertEqual(0, LinkMemory(state).link_generation)

    def test_generation_not_stored(self) -> None:
        """A generation that could not be written is not presented: it would rise and fall again."""
        memory = LinkMemory(self.home / "no" / "such" / "folder")
        (self.home / "no").write_text("a file")
        memory.learn("pump-17", 5)
        self.assertEqual(("pump-17", 0), (memory.name, memory.link_generation))


class StatusTests(HomeCase):
    def test_written_at_change_and_each_minute(self) -> None:
        """Many changes of one turn are one write; without any, there is one a minute."""
        clock, gathered = Clock(), []

        def gather() -> Status:
            gathered.append(clock.seconds())
            return Status(state="waiting", last_error="x")

        status = StatusFile(self.home, clock, gather)
        status.changed()
        status.changed()
        clock.advance(0)
        clock.advance(60)
        self.assertEqual([0, 60], gathered)
        status.close()
        self.assertEqual([], clock.getDelayedCalls())
        found = read_status(self.home)
        assert found is not None
        self.assertEqual(("waiting", os.getpid()), (found.state, found.pid))
        self.assertEqual(0o600, (self.home / "status.json").stat().st_mode & 0o777)

    def test_absent(self) -> None:
        """A home on which no agent ran has no status."""
        self.assertIsNone(read_status(self.home))

    def test_full_disk(self) -> None:
        """A status that cannot be written is no failure."""
        status = StatusFile(self.home / "absent", Clock(), lambda: Status(state="x"))
        status.write()


class LogTests(SynchronousTestCase):
    def event(self, **fields: Any) -> str:
        return format_line(
            {"log_time": 0.0, "log_level": LogLevel.warn, "log_namespace": "n", **fields}
        )

    def test_one_line(self) -> None:
        """Control characters, of a hostile peer or a traceback, never reach the terminal."""
        line = self.event(log_format="{text}", text="a\x1b[2J\nfake line\u202e")
        self.assertEqual("1970-01-01T00:00:00Z warn n: a\\x1b[2J\\nfake line\\u202e", line)

    def test_traceback(self) -> None:
        """A failure's traceback is part of its line."""
        try:
            raise RuntimeError("why")
        except RuntimeError:
            line = self.event(log_format="it failed", log_failure=Failure())
        self.assertIn("RuntimeError: why", line)
        self.assertNotIn("\n", line)
