"""The join exchange over real TLS on loopback, and what a device stores of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rshell.identity.credentials import CredentialStore
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.join_string import JoinString
from rshell.identity.joining import JoinFailed, join
from rshell.identity.keys import new_key, read_csr, spki_hash
from rshell.link.core.constants import FrameType
from rshell.link.core.frames import FrameReader, encode_frame
from rshell.link.core.messages import GoAway, Join, Joined, decode, encode
from rshell.link.sockets import wrap_tls
from rshell_agent.home import HomeInUse, HomeLock
from rshell_agent.joining import AlreadyJoined, join_device
from tests.agent.gateway import reactor
from tests.agent.running import Program
from tests.identity.dev_fleet import fleet, gateway_tls, make_dev

FACTS = {"hostname": "Pump_17"}
Answer = Callable[[Join], bytes | None]


def joined(request: Join, **changes: Any) -> bytes:
    """The frame of a gateway that accepts."""
    keys = fleet().keys
    device = str(uuid.uuid4())
    leaf = keys.issue_device(read_csr(request.csr), device, datetime.now(UTC))
    fields: dict[str, Any] = {
        "chain": chain_to_pem((leaf, keys.device.certificate)).decode(),
        "root": chain_to_pem((keys.root.certificate,)).decode(),
        "fleet": keys.fleet,
        "id": device,
        "name": request.name or "unnamed",
        "gateways": ["gw.example.net:7411"],
        "time_ms": int(datetime.now(UTC).timestamp() * 1000),
        **changes,
    }
    return encode_frame(FrameType.JOINED, 0, encode(Joined(**fields)))


def goaway(code: str, message: str) -> bytes:
    return encode_frame(FrameType.GOAWAY, 0, encode(GoAway(code=code, message=message)))


class Registrar(Protocol):
    """Answers each JOIN with what the test says; None closes without a word."""

    def __init__(self, case: JoinCase) -> None:
        self._case = case
        self._reader = FrameReader()

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        frame = self._reader.next_frame()
        if frame is None:
            return
        request = decode(frame.payload, Join)
        self._case.requests.append(request)
        answer = self._case.answer(request)
        transport: Any = self.transport
        if answer == b"silence":
            return
        if answer is not None:
            transport.write(answer)
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._case.closed += 1


class JoinCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.requests: list[Join] = []
        self.closed = 0
        self.answer: Answer = joined
        self.listen("gateway")
        self.home = Path(self.mktemp()).absolute() / "home"

    def listen(self, leaf: str) -> None:
        factory = Factory.forProtocol(lambda: Registrar(self))
        factory.noisy = False
        port = reactor.listenTCP(
            0, wrap_tls(gateway_tls(leaf), client=False, factory=factory), interface="127.0.0.1"
        )
        self.addCleanup(port.stopListening)
        pin = spki_hash(fleet().keys.root.certificate.public_key())
        self.join_string = JoinString("127.0.0.1", port.getHost().port, pin, bytes(8), b"s" * 20)

    async def fails(self, running: Any) -> JoinFailed:
        try:
            await running
        except JoinFailed as error:
            return error
        raise self.failureException("it joined")


class ExchangeTests(JoinCase):
    def join(self, **changes: Any) -> Any:
        return join(reactor, self.join_string, "device", new_key(), "pump-17", FACTS, **changes)

    async def test_joins(self) -> None:
        """The request carries kind, token, key, name and facts; the answer comes back."""
        answer = await self.join()
        (request,) = self.requests
        self.assertEqual(
            ("device", bytes(8), b"s" * 20, "pump-17", FACTS),
            (request.kind, request.id, request.secret, request.name, request.facts),
        )
        self.assertEqual("pump-17", answer.name)

    async def test_refused(self) -> None:
        """The gateway's refusal comes with its code and its text, without control characters."""
        self.answer = lambda request: goaway("auth", "this join\x1bstring is spent")
        error = await self.fails(self.join())
        self.assertEqual(("auth", "this join?string is spent"), (error.code, error.message))

    async def test_wrong_fleet(self) -> None:
        """A gateway whose root is not the pinned one is told nothing."""
        stranger = make_dev().make_fleet(datetime.now(UTC))
        pin = spki_hash(stranger.keys.root.certificate.public_key())
        port = self.join_string.port
        self.join_string = JoinString("127.0.0.1", port, pin, bytes(8), b"s" * 20)
        error = await self.fails(self.join())
        self.assertEqual(("auth", []), (error.code, self.requests))

    async def test_wrong_name(self) -> None:
        """Nor is a gateway of our fleet that is not the one dialled."""
        self.listen("gateway-wrong-name")
        error = await self.fails(self.join())
        self.assertEqual(("auth", []), (error.code, self.requests))

    async def test_other_root_in_the_answer(self) -> None:
        """A root that is not the pinned one is not believed, whoever sent it."""
        other = make_dev().make_fleet(datetime.now(UTC)).keys.root.certificate
        self.answer = lambda request: joined(request, root=chain_to_pem((other,)).decode())
        self.assertEqual("protocol", (await self.fails(self.join())).code)
        self.answer = lambda request: joined(request, root="no PEM")
        self.assertEqual("protocol", (await self.fails(self.join())).code)

    async def test_garbage(self) -> None:
        """Garbage, other frames and a closed connection are failures with a code."""
        for answer, code in (
            (b"\xff" * 64, "frame-size"),
            (encode_frame(FrameType.PONG, 0, b"12345678"), "protocol"),
            (encode_frame(FrameType.JOINED, 0, b"{}"), "protocol"),
            (None, "link-lost"),
        ):
            self.answer = lambda request, answer=answer: answer
            self.assertEqual(code, (await self.fails(self.join())).code)

    async def test_silence(self) -> None:
        """A gateway that does not answer is given up in time."""
        self.answer = lambda request: b"silence"
        error = await self.fails(self.join(timeout_seconds=0.2))
        self.assertEqual("timeout", error.code)

    async def test_nobody_listens(self) -> None:
        """An address where nobody listens, or a name that is none, is `offline`."""
        pin = self.join_string.root_pin
        for host in ("127.0.0.1", "no-such-host.invalid"):
            self.join_string = JoinString(host, 1, pin, bytes(8), b"s" * 20)
            self.assertEqual("offline", (await self.fails(self.join())).code)


class DeviceTests(JoinCase):
    async def test_stores(self) -> None:
        """A device stores key, certificate, root and gateways, private to itself."""
        answer = await join_device(reactor, self.home, self.join_string, "pump-17")
        credentials = CredentialStore(self.home).load()
        assert credentials is not None
        self.assertEqual((answer.id, "device"), (credentials.name.name, credentials.name.kind))
        self.assertEqual(("gw.example.net:7411",), credentials.gateways)
        self.assertEqual(0o700, self.home.stat().st_mode & 0o777)

    async def test_lost_answer(self) -> None:
        """J4: after a lost answer the same key asks again."""
        self.answer = lambda request: None
        await self.fails(join_device(reactor, self.home, self.join_string))
        self.answer = joined
        await join_device(reactor, self.home, self.join_string)
        first, second = (read_csr(request.csr).public_numbers() for request in self.requests)  # type: ignore[union-attr]  # only what the test uses
        self.assertEqual(first, second)

    async def test_joined_already(self) -> None:
        """A joined home is left alone, unless told otherwise; then the old identity is gone."""
        await join_device(reactor, self.home, self.join_string)
        with self.assertRaises(AlreadyJoined):
            await join_device(reactor, self.home, self.join_string)
        self.assertEqual(1, len(self.requests))
        await join_device(reactor, self.home, self.join_string, force=True)
        self.assertIsNone(CredentialStore(self.home).previous())

    async def test_agent_runs(self) -> None:
        """No join beneath a running agent."""
        self.home.mkdir(mode=0o700, parents=True)
        lock = HomeLock(self.home)
        self.addCleanup(lock.release)
        with self.assertRaises(HomeInUse):
            await join_device(reactor, self.home, self.join_string)

    async def test_answer_for_another_key(self) -> None:
        """A certificate that is not of our key is not stored."""
        certificate = chain_to_pem(fleet().leaves["device-1"].chain).decode()
        self.answer = lambda request: joined(request, chain=certificate)
        error = await self.fails(join_device(reactor, self.home, self.join_string))
        self.assertEqual("protocol", error.code)
        self.assertIsNone(CredentialStore(self.home).load())


class CommandTests(JoinCase):
    async def test_join_from_stdin(self) -> None:
        """`join -` joins, proposes --name, and says what to do next."""
        text = self.join_string.encode().encode() + b"\n"
        program = Program("join", "-", "--name", "p1", "--home", str(self.home), stdin=text)
        self.assertEqual(0, await program.ended, program.errors)
        self.assertIn(b"joined as p1", program.output)
        self.assertEqual(b"", program.errors)

    async def test_secret_on_the_command_line(self) -> None:
        """A string in argv works, with a warning; the secret itself is never repeated."""
        program = Program("join", self.join_string.encode(), "--home", str(self.home))
        self.assertEqual(0, await program.ended, program.errors)
        self.assertIn(b"`ps`", program.errors)
        secret = self.join_string.encode().rpartition(".")[2].encode()
        self.assertNotIn(secret, program.output + program.errors)

    async def test_refused(self) -> None:
        """A refusal is one line on standard error and status 1."""
        self.answer = lambda request: goaway("auth", "spent")
        text = self.join_string.encode().encode()
        program = Program("join", "-", "--home", str(self.home), stdin=text)
        self.assertEqual(1, await program.ended)
        self.assertEqual(b"rshell-agent: not joined (auth): spent\n", program.errors)

    async def test_usage(self) -> None:
        """Wrong usage is status 2; a broken string is status 1 and one line."""
        for status, arguments in (
            (2, ["nonsense"]),
            (2, ["join"]),
            (1, ["join", "-"]),
            (2, ["join", "-", "--name", "x" * 65]),
            (0, ["--version"]),
            (0, ["join", "--help"]),
        ):
            program = Program(*arguments, stdin=b"rsh1.broken")
            self.assertEqual(status, await program.ended, (arguments, program.errors))

    async def test_policy_check(self) -> None:
        """`policy check` says what is allowed; a bad policy is status 1."""
        self.home.mkdir(mode=0o700, parents=True)
        (self.home / "agent.toml").write_text('[policy]\nhandlers = ["exec"]\nx = 1\n')
        program = Program("policy", "check", "--home", str(self.home))
        self.assertEqual(0, await program.ended, program.errors)
        self.assertIn(b"handlers: exec  [agent.toml line 2]\n", program.output)
        self.assertIn(b"x: unknown", program.output)
        (self.home / "agent.toml").write_text("[policy]\nhandlers = 7\n")
        program = Program("policy", "check", "--home", str(self.home))
        self.assertEqual(1, await program.ended)
        self.assertIn(b"denies everything", program.errors)
