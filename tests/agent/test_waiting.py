"""A device that has to wait: it asks on, over restarts, until it is let in (rule J7)."""

from __future__ import annotations

import signal
import stat
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.credentials import CredentialStore
from rshell.identity.join_string import JoinString
from rshell.identity.joining import JoinFailed
from rshell.identity.keys import fingerprint, read_csr, spki_hash
from rshell.identity.public_keys import read_public_keys
from rshell.link.core.constants import FrameType
from rshell.link.core.frames import encode_frame
from rshell.link.core.messages import GoAway, encode
from rshell_agent import joining as module
from rshell_agent.home import HomeInUse, HomeLock
from rshell_agent.joining import (
    BadJoinFile,
    Joining,
    JoinWish,
    fingerprint_of,
    keep_wish,
    read_wish,
)
from rshell_agent.joining_service import JoiningAgent, wish_of_home
from rshell_agent.service import NotJoined
from rshell_agent.status import read_status
from rshell_agent.watchdog import Watchdog
from tests.agent.gateway import reactor
from tests.agent.running import Program
from tests.agent.test_joining import JoinCase, goaway, joined

STRING = JoinString("127.0.0.1", 7411, b"\1" * 32, b"12345678")
PENDING = JoinFailed("pending", "wait", retry_seconds=10, refused=True)
OFFLINE = JoinFailed("offline", "nobody there")
REFUSED = JoinFailed("auth", "not valid", refused=True)
UNTRUSTED = JoinFailed("auth", "another fleet")


def waiting(seconds: float) -> bytes:
    """The frame of a gateway that has a device wait."""
    message = GoAway(code="pending", message="wait", retry_min_ms=int(seconds * 1000))
    return encode_frame(FrameType.GOAWAY, 0, encode(message))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir(mode=0o700)

    def test_round_trip(self) -> None:
        """What is waited for is kept for its owner's eyes only."""
        self.assertIsNone(read_wish(self.home))
        secret = JoinString("gw", 1, b"\1" * 32, b"12345678", b"s" * 20)
        for wish in (JoinWish(STRING), JoinWish(secret, "pump-1", True)):
            keep_wish(self.home, wish)
            self.assertEqual(read_wish(self.home), wish)
        self.assertEqual(stat.S_IMODE((self.home / "join").stat().st_mode), 0o600)

    def test_a_name_of_several_lines(self) -> None:
        """Whatever is typed as a name is one line of the file."""
        keep_wish(self.home, JoinWish(STRING, "a\nforce = yes\x1b[31m"))
        self.assertEqual(read_wish(self.home), JoinWish(STRING, "a force = yes [31m"))
        keep_wish(self.home, JoinWish(STRING, "\n"))
        self.assertEqual(read_wish(self.home), JoinWish(STRING))

    def test_written_by_people(self) -> None:
        """A string and nothing else is enough; empty lines do not matter."""
        (self.home / "join").write_text(f"\n  {STRING.encode()}\r\n\n name=pump-1\n")
        self.assertEqual(read_wish(self.home), JoinWish(STRING, "pump-1"))

    def test_bad_files(self) -> None:
        """What cannot be understood is one line, and the agent says so instead of starting."""
        good = STRING.encode()
        long = f"{good}\nname = {'x' * 65}"
        for text in ("", "hello", f"{good}\nfoo = 1", good[:-3], "\x1b[2J", long):
            (self.home / "join").write_text(text)
            error = self.assertRaises(BadJoinFile, read_wish, self.home)
            self.assertNotIn("\x1b", str(error))
            self.assertRaises(NotJoined, wish_of_home, self.home)


class LoopTests(SynchronousTestCase):
    """The loop on a clock of its own; what a gateway says is scripted."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.home = Path(self.mktemp())
        self.home.mkdir(mode=0o700)
        self.answers: list[Any] = []
        self.asked: list[float] = []
        self.told: list[JoinFailed] = []
        self.patch(module, "_join", self._answer)

    async def _answer(self, _reactor: Any, _home: Path, _wish: JoinWish) -> Any:
        self.asked.append(self.clock.seconds())
        answer = self.answers.pop(0)
        if isinstance(answer, JoinFailed):
            raise answer
        return answer

    def start(self, *, patient: bool = True, give_up: bool = False) -> Deferred[Any]:
        """Begin to ask; numbers drawn are the largest."""
        loop = Joining(
            self.clock,
            self.home,
            JoinWish(STRING),
            lambda _low, high: high,
            self.told.append,
            give_up=give_up,
        )
        return Deferred.fromCoroutine(loop.joined(patient=patient))

    def test_asks_when_told(self) -> None:
        """It asks again after what the gateway said and up to a fifth more, and is let in."""
        self.answers = [PENDING, PENDING, "in"]
        done = self.start(patient=False)
        self.assertEqual(read_wish(self.home), JoinWish(STRING))
        self.clock.advance(11.9)
        self.assertEqual(self.asked, [0])
        self.clock.advance(0.2)
        self.clock.advance(12)
        self.assertEqual(self.successResultOf(done), "in")
        self.assertEqual((len(self.asked), len(self.told)), (3, 2))
        self.assertIsNone(read_wish(self.home))

    def test_at_once_or_not(self) -> None:
        """Before anybody had it wait, a command fails at the first trouble and keeps nothing."""
        for answer in (OFFLINE, REFUSED, UNTRUSTED):
            self.answers = [answer]
            self.failureResultOf(self.start(patient=False, give_up=True), JoinFailed)
            self.assertIsNone(read_wish(self.home))

    def test_trouble_while_waiting(self) -> None:
        """A gateway that is down, or another network's, is asked ever more rarely, up to 10 min."""
        self.answers = [PENDING, *([OFFLINE, UNTRUSTED] * 8), PENDING, "in"]
        done = self.start(give_up=True)
        while self.answers:
            self.clock.advance(1)
        self.clock.advance(12)
        self.successResultOf(done)
        gaps = [later - sooner for sooner, later in zip(self.asked, self.asked[1:], strict=False)]
        self.assertEqual(gaps[:4], [12, 10, 20, 40])
        self.assertEqual(max(gaps), 600)

    def test_refused(self) -> None:
        """A command gives up and forgets what it kept; an agent asks on, hourly."""
        self.answers = [PENDING, REFUSED]
        done = self.start(patient=False, give_up=True)
        self.clock.advance(12)
        self.failureResultOf(done, JoinFailed)
        self.assertIsNone(read_wish(self.home))
        keep_wish(self.home, JoinWish(STRING))
        self.answers = [REFUSED]
        self.failureResultOf(self.start(give_up=True), JoinFailed)
        self.assertIsNotNone(read_wish(self.home), "what somebody else wrote stays")
        self.asked.clear()
        self.answers = [REFUSED, "in"]
        done = self.start()
        self.clock.advance(4319)
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(1)
        self.successResultOf(done)

    def test_a_gateway_that_asks_for_years(self) -> None:
        """No gateway has a device wait for more than an hour and a bit."""
        endless = JoinFailed("pending", "wait", retry_seconds=1e9, refused=True)
        self.answers = [endless, "in"]
        done = self.start()
        self.clock.advance(4320)
        self.successResultOf(done)


class AgentTests(JoinCase):
    """`JoiningAgent` over real TLS."""

    def agent(self, watchdog: Watchdog | None = None) -> JoiningAgent:
        self.inner = Service()
        wish = read_wish(self.home)
        assert wish is not None
        quiet = Watchdog(reactor, None)
        return JoiningAgent(reactor, self.home, wish, lambda: self.inner, watchdog or quiet)

    def setUp(self) -> None:
        super().setUp()
        self.home.mkdir(mode=0o700, parents=True)
        keep_wish(self.home, JoinWish(self.join_string, "pump-9"))

    async def until(self, true: Any) -> None:
        while not true():
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.01, pause.callback, None)
            await pause

    async def test_joins_then_runs(self) -> None:
        """It asks with one key, shows its fingerprint, and once let in is the agent."""
        self.answer = lambda request: waiting(0.01) if len(self.requests) < 3 else joined(request)
        agent = self.agent()
        agent.startService()
        status = read_status(self.home)
        assert status is not None
        key = fingerprint_of(self.home)
        self.assertEqual((status.state, status.fingerprint), ("pending", key))
        self.assertRaises(HomeInUse, HomeLock, self.home)
        await self.until(lambda: self.inner.running)
        keys = {spki_hash(read_csr(request.csr)) for request in self.requests}
        self.assertEqual([fingerprint(one) for one in keys], [key])
        self.assertEqual({request.name for request in self.requests}, {"pump-9"})
        self.assertIsNotNone(CredentialStore(self.home).load())
        self.assertIsNone(wish_of_home(self.home))
        HomeLock(self.home).release()
        await agent.stopService()
        self.assertFalse(self.inner.running)

    async def test_stopped(self) -> None:
        """Stopped while it waits it lets go of home and connection, and goes on later."""
        for answer in (lambda _request: b"silence", lambda _request: waiting(60)):
            self.answer = answer
            agent = self.agent()
            before = len(self.requests)
            agent.startService()
            await self.until(lambda seen=before: len(self.requests) > seen)
            await agent.stopService()
            await self.until(lambda: self.closed == len(self.requests))
            self.assertEqual(getattr(read_status(self.home), "state", ""), "stopped")
        self.answer = joined
        agent = self.agent()
        agent.startService()
        await self.until(lambda: self.inner.running)
        await agent.stopService()


class CommandTests(JoinCase):
    def run_join(self, *words: str, stdin: bytes = b"") -> Program:
        return Program("join", *words, "--home", str(self.home), stdin=stdin)

    async def test_waits(self) -> None:
        """The command shows the fingerprint once, waits, and says as what it joined."""
        self.answer = lambda request: waiting(0.01) if len(self.requests) < 3 else joined(request)
        program = self.run_join("-", stdin=self.join_string.encode().encode() + b"\n")
        self.assertEqual((await program.ended, program.errors), (0, b""))
        text = program.output.decode()
        self.assertIn("waits to be accepted", text)
        self.assertIn("joined as", text)
        (request, *_) = self.requests
        self.assertEqual(text.count(fingerprint(spki_hash(read_csr(request.csr)))), 2)

    async def test_no_wait(self) -> None:
        """With --no-wait it ends with 75, and a join without a string goes on with the same key."""
        self.answer = lambda _request: waiting(600)
        program = self.run_join("-", "--no-wait", stdin=self.join_string.encode().encode())
        self.assertEqual(await program.ended, 75)
        program = Program("status", "--home", str(self.home))
        self.assertEqual(await program.ended, 1)
        self.assertIn(b"asks to be let in", program.errors)
        self.answer = joined
        program = self.run_join()
        self.assertEqual(await program.ended, 0, program.errors)
        first, second = (spki_hash(read_csr(request.csr)) for request in self.requests)
        self.assertEqual(first, second)
        program = self.run_join()
        self.assertEqual((await program.ended, program.output), (2, b""))
        self.assertIn(b"waits for none", program.errors)

    async def test_interrupted(self) -> None:
        """Interrupted while it waits it says how to go on."""
        self.answer = lambda _request: waiting(600)
        program = self.run_join("-", stdin=self.join_string.encode().encode())
        while b"waits to be accepted" not in program.output:
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.02, pause.callback, None)
            await pause
        await program.kill(signal.SIGINT)
        self.assertEqual(await program.ended, 130)
        self.assertIn(b"still waiting; go on with: rshell-agent run --home", program.errors)
        self.assertIsNotNone(read_wish(self.home))

    async def test_refused_while_waiting(self) -> None:
        """Refused, it says so in a line, fails, and does not wait for it again."""
        self.answer = lambda _: (
            waiting(0.01) if len(self.requests) < 2 else goaway("auth", "not valid")
        )
        program = self.run_join("-", stdin=self.join_string.encode().encode())
        self.assertEqual(await program.ended, 1)
        self.assertIn(b"not joined (auth): not valid", program.errors)
        self.assertIsNone(read_wish(self.home))

    async def test_key(self) -> None:
        """`key` prints the public key that the device will join with, in three ways."""
        printed = []
        for words in ((), ("--line", "--name", "pump-9"), ("--fingerprint",)):
            program = Program("key", *words, "--home", str(self.home))
            self.assertEqual(await program.ended, 0, program.errors)
            printed.append(program.output)
        pem, line, shown = printed
        found = [*read_public_keys(pem), *read_public_keys(line)]
        self.assertEqual([one.name for one in found], [None, "pump-9"])
        self.assertEqual({fingerprint(one.spki) for one in found}, {shown.decode().strip()})
        self.assertEqual(shown.decode().strip(), fingerprint_of(self.home))
        program = Program("key", "--line", "--name", "a\tb", "--home", str(self.home))
        self.assertEqual((await program.ended, program.output), (2, b""))
        self.assertIn(b"a device's name has", program.errors)
