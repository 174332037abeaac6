"""The client over a real TLS link to a scripted gateway."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rshell.client import Client, ConnectionFailed, Profile, Refused, RshellError, connect
from rshell.client.commands import Collected
from rshell.client.signals import SIGNALS
from rshell.handlers import Outcome
from rshell.identity.credentials import CredentialStore
from rshell.link.core.messages import GoAway
from rshell_agent.keeper.process import SIGNALS as KEEPER_SIGNALS
from tests.client.fake_gateway import (
    FakeGateway,
    FakeStream,
    Flood,
    cats,
    operator_credentials,
    prints,
    refuses,
    waits,
)

reactor: Any = _reactor


def profile_of(directory: Path, address: str) -> Profile:
    store = CredentialStore(directory)
    store.save(operator_credentials())
    credentials = store.load()
    assert credentials is not None
    return Profile(directory, store, credentials, (address,))


class Receiver(Collected):
    """Keeps events too."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.opened: Deferred[None] = Deferred()

    def session_opened(self) -> None:
        self.opened.callback(None)

    def event_received(self, kind: str, body: dict[str, Any]) -> None:
        self.events.append(kind)


class ClientCase(TestCase):
    """A gateway and, on demand, a client."""

    timeout = 20

    def setUp(self) -> None:
        self.gateway = FakeGateway(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.gateway.stop()))

    async def client(self, address: str | None = None) -> Client:
        directory = Path(self.mktemp())
        directory.mkdir(mode=0o700)
        profile = profile_of(directory, address or self.gateway.address)
        client = await connect(reactor, profile)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        return client


class ConnectTests(ClientCase):
    async def test_welcomed(self) -> None:
        """A client introduces itself by HELLO and is told the gateway's time by WELCOME."""
        client = await self.client()
        self.assertTrue(self.gateway.hellos[0].software.startswith("rshell/"))
        self.assertEqual(client.gateway_time_ms, self.gateway.time_ms)
        self.assertFalse(client.closed)

    async def test_close_tells_the_gateway(self) -> None:
        """After close() the gateway's end of the link is gone too, and calls fail clearly."""
        client = await self.client()
        await client.close()
        self.assertTrue(client.closed)
        with self.assertRaises(ConnectionFailed) as caught:
            await client.whoami()
        self.assertEqual(caught.exception.code, "link-lost")

    async def test_second_address(self) -> None:
        """When the first gateway is down the next one is dialled."""
        directory = Path(self.mktemp())
        directory.mkdir(mode=0o700)
        profile = profile_of(directory, "127.0.0.1:1")
        both = Profile(
            directory,
            profile.store,
            profile.credentials,
            ("127.0.0.1:1", "bad address", self.gateway.address),
        )
        client = await connect(reactor, both)
        await client.close()
        self.assertEqual(len(self.gateway.hellos), 1)

    async def test_nobody_listens(self) -> None:
        """A gateway that is down is `unreachable`, and the hint names what was dialled."""
        with self.assertRaises(ConnectionFailed) as caught:
            await self.client("127.0.0.1:1")
        self.assertEqual(caught.exception.code, "unreachable")
        self.assertIn("connection refused", caught.exception.message)
        self.assertIn("127.0.0.1:1", caught.exception.hint)

    async def dial(self, *addresses: str) -> Client:
        directory = Path(self.mktemp())
        directory.mkdir(mode=0o700)
        profile = profile_of(directory, addresses[0])
        many = Profile(directory, profile.store, profile.credentials, addresses)
        client = await connect(reactor, many)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        return client

    async def test_address_that_answers_nothing(self) -> None:
        """A gateway whose path is dead delays the next one by a moment, not by its time-out."""
        full = socket.socket()
        self.addCleanup(full.close)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        dead = f"127.0.0.1:{full.getsockname()[1]}"
        for _ in range(2):  # its queue is full: SYNs are dropped from now on
            filler = socket.socket()
            filler.setblocking(False)
            self.addCleanup(filler.close)
            filler.connect_ex(full.getsockname())
        began = reactor.seconds()
        await self.dial(dead, self.gateway.address)
        self.assertLess(reactor.seconds() - began, 5)
        self.assertEqual(len(self.gateway.hellos), 1)

    async def test_next_after_a_refusal(self) -> None:
        """A gateway that accepts and refuses is not asked again; the next one is."""
        other = FakeGateway(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        other.refusal = GoAway(code="overload", message="busy")
        await self.dial(other.address, "127.0.0.1:1", self.gateway.address)
        self.assertEqual((len(other.hellos), len(self.gateway.hellos)), (1, 1))

    async def test_refusal_tells_more_than_silence(self) -> None:
        """Of several gateways the words of one that answered count."""
        self.gateway.refusal = GoAway(code="revoked", message="operator alice was revoked")
        with self.assertRaises(ConnectionFailed) as caught:
            await self.dial("127.0.0.1:1", self.gateway.address, "127.0.0.1:2")
        self.assertEqual(caught.exception.code, "revoked")
        self.assertEqual(len(self.gateway.hellos), 1)

    async def test_every_address_is_told(self) -> None:
        """When none accepts, each is named with its reason."""
        with self.assertRaises(ConnectionFailed) as caught:
            await self.dial("127.0.0.1:1", "bad address", "127.0.0.1:2")
        for words in ("127.0.0.1:1: connection refused", "127.0.0.1:2", "'bad address'"):
            self.assertIn(words, caught.exception.message)

    async def test_refused_by_goaway(self) -> None:
        """A GOAWAY instead of WELCOME is an error with the gateway's code and words."""
        self.gateway.refusal = GoAway(code="revoked", message="operator alice was revoked")
        with self.assertRaises(ConnectionFailed) as caught:
            await self.client()
        self.assertEqual(caught.exception.code, "revoked")
        self.assertIn("operator alice was revoked", caught.exception.message)
        self.assertIn("rshell join", caught.exception.hint)

    async def test_wrong_gateway_name(self) -> None:
        """A gateway whose certificate is for another name is not told anything."""
        other = FakeGateway(reactor, "gateway-wrong-name")
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        with self.assertRaises(ConnectionFailed) as caught:
            await self.client(other.address)
        self.assertIn("certificate is not for", caught.exception.message)
        self.assertEqual(other.hellos, [])


class GatewayVerbTests(ClientCase):
    async def test_devices(self) -> None:
        """A listing arrives typed, whatever more the gateway says."""
        self.gateway.answers["devices"] = [
            {"id": "1", "name": "pump-1", "state": "live", "labels": {"a": "b"}, "new": 1},
            {"id": "2", "name": "pump-2", "state": "lost", "last_seen": "2026-01-01T00:00:00Z"},
        ]
        client = await self.client()
        first, second = await client.devices("pump-*")
        self.assertEqual((first.name, first.live, first.labels), ("pump-1", True, {"a": "b"}))
        self.assertEqual((second.live, second.last_seen), (False, "2026-01-01T00:00:00Z"))
        self.assertEqual(self.gateway.requests[0].request, {"selector": "pump-*"})

    async def test_large_answer(self) -> None:
        """An answer far beyond one window arrives whole."""
        self.gateway.answers["devices"] = [
            {"id": str(n), "name": f"d-{n}", "facts": {"x": "y" * 200}} for n in range(10_000)
        ]
        client = await self.client()
        self.assertEqual(len(await client.devices()), 10_000)

    async def test_refused(self) -> None:
        """What the role forbids is `Refused` with the code and what to do."""
        client = await self.client()
        with self.assertRaises(Refused) as caught:
            await client.devices()
        self.assertEqual(caught.exception.code, "policy")
        self.assertIn("gateway.devices", caught.exception.message)
        self.assertNotEqual(caught.exception.hint, "")

    async def test_error_outcome(self) -> None:
        """An outcome that is an error is `Refused` with the gateway's code and message."""
        self.gateway.answers["label"] = Outcome(
            status="error", code="not-found", message="there is no device x"
        )
        client = await self.client()
        with self.assertRaises(Refused) as caught:
            await client.label("x", {"a": "b"})
        self.assertEqual(caught.exception.code, "not-found")
        self.assertEqual(caught.exception.message, "there is no device x")

    async def test_recording_by_no_id(self) -> None:
        """What names no recording is told here, in words, and asks nobody."""
        client = await self.client()
        for wrong in ("nosuch", "abc", "", "ab" * 17, "../../etc"):
            with self.assertRaises(RshellError) as caught:
                await client.fetch_recording(wrong, lambda piece: None)
            self.assertEqual(caught.exception.code, "bad-request")
            self.assertEqual(caught.exception.hint, "list them with: rshell recordings")

    async def test_answer_too_deep(self) -> None:
        """An answer nested deeper than can be read is an error with a code, not a crash."""
        self.gateway.answers["devices"] = msgspec.Raw(b"[" * 5000 + b"]" * 5000)
        client = await self.client()
        with self.assertRaises(Refused) as caught:
            await client.devices()
        self.assertEqual(caught.exception.code, "protocol")

    async def test_answer_of_another_shape(self) -> None:
        """An answer that is not understood says which side to upgrade."""
        self.gateway.answers["devices"] = {"not": "a list"}
        client = await self.client()
        with self.assertRaises(Refused) as caught:
            await client.devices()
        self.assertEqual(caught.exception.code, "version")

    async def test_verbs(self) -> None:
        """Each verb sends what the gateway expects, key by key."""
        answers = self.gateway.answers
        answers["invite"] = {"join": "rsh1.x", "expires_at": "2026-01-01T00:00:00Z"}
        answers["revoke"] = {"revoked": "d", "links_closed": 2}
        answers["label"] = {"id": "1", "name": "d", "labels": {"k": "v"}}
        answers["rename"] = {"id": "1", "name": "e", "name_provisional": False}
        answers["handlers"] = [{"name": "exec", "summary": "s", "schema": {}, "priority": "normal"}]
        answers["audit"] = [{"seq": 1, "at": "2026-01-01T00:00:00Z", "kind": "open"}]
        answers["whoami"] = {"name": "alice", "roles": ["admin"]}
        client = await self.client()
        invitation = await client.invite_device(name="d", labels={"k": "v"}, ttl_seconds=60, uses=1)
        self.assertEqual(invitation.join, "rsh1.x")
        self.assertNotIn("rsh1", repr(invitation))
        await client.invite_operator("bob", "admin", ttl_seconds=5)
        self.assertEqual(await client.revoke("device", "d"), 2)
        self.assertEqual((await client.label("d", {"k": "v"}, ["b", "a"])).labels, {"k": "v"})
        self.assertEqual((await client.rename("d", "e")).name, "e")
        self.assertEqual((await client.handlers("d"))[0].name, "exec")
        self.assertEqual((await client.audit(limit=5, operator="o"))[0].seq, 1)
        self.assertEqual((await client.whoami()).roles, ["admin"])
        self.assertEqual(
            [(r.handler, r.request) for r in self.gateway.requests],
            [
                (
                    "gateway.invite",
                    {"kind": "device", "name": "d", "labels": {"k": "v"}, "ttl_s": 60, "uses": 1},
                ),
                (
                    "gateway.invite",
                    {"kind": "operator", "name": "bob", "roles": ["admin"], "ttl_s": 5},
                ),
                ("gateway.revoke", {"kind": "device", "name": "d"}),
                ("gateway.label", {"device": "d", "set": {"k": "v"}, "remove": ["a", "b"]}),
                ("gateway.rename", {"device": "d", "name": "e"}),
                ("gateway.handlers", {"device": "d"}),
                ("gateway.audit", {"limit": 5, "before": None, "operator": "o"}),
                ("gateway.whoami", {}),
            ],
        )


class RunTests(ClientCase):
    async def test_run(self) -> None:
        """A command's output, error output and exit status come back."""
        self.gateway.devices["pump"] = prints(b"out", b"err", status="exit", exit_code=3)
        client = await self.client()
        done = await client.run("pump", argv=["ls", b"\xff"], login="root", timeout=1.5)
        self.assertEqual((done.stdout, done.stderr), (b"out", b"err"))
        self.assertEqual((done.outcome.status, done.outcome.exit_code), ("exit", 3))
        opened = self.gateway.requests[0]
        self.assertEqual((opened.handler, opened.device, opened.login), ("exec", "pump", "root"))
        self.assertEqual((opened.attempt, len(opened.session)), (1, 16))
        self.assertEqual(opened.request, {"argv": ["bHM=", "/w=="], "timeout_ms": 1500})

    async def test_input(self) -> None:
        """Input larger than a window reaches the command, then its end."""
        self.gateway.devices["pump"] = cats
        client = await self.client()
        data = bytes(range(256)) * 8192
        done = await client.run("pump", line="cat", input=data)
        self.assertEqual(done.stdout, data)

    async def test_output_limit(self) -> None:
        """Output beyond the limit is dropped, counted as consumed, and marked."""
        self.gateway.devices["pump"] = prints(b"x" * 1_000_000)
        client = await self.client()
        done = await client.run("pump", line="big", max_output_bytes=1000)
        self.assertEqual((len(done.stdout), done.truncated), (1000, True))
        self.assertEqual(done.outcome.status, "ok")

    async def test_refusals_are_outcomes(self) -> None:
        """Offline and refused devices are outcomes with their codes, not exceptions."""
        self.gateway.devices["away"] = refuses("offline", "last seen yesterday")
        self.gateway.devices["strict"] = refuses("policy", "exec is not enabled")
        self.gateway.devices["gone"] = refuses("lost", "")
        client = await self.client()
        for device, status, code in (
            ("away", "offline", "offline"),
            ("strict", "refused", "policy"),
            ("gone", "lost", "lost"),
            ("unheard-of", "refused", "not-found"),
        ):
            outcome = (await client.run(device, argv=["x"])).outcome
            self.assertEqual((outcome.status, outcome.code), (status, code))

    async def test_bad_requests(self) -> None:
        """A command that cannot be asked for is refused before anything is sent."""
        client = await self.client()
        refused: tuple[dict[str, Any], ...] = (
            {},
            {"argv": []},
            {"argv": ["a"], "line": "b"},
            {"line": "x", "timeout": 0},
        )
        for options in refused:
            with self.assertRaises(RshellError) as caught:
                await client.run("pump", **options)
            self.assertEqual(caught.exception.code, "bad-request")
        with self.assertRaises(Refused):
            await client.run("pump", argv=["x" * 5000] * 4)
        self.assertEqual(self.gateway.requests, [])

    async def test_link_lost(self) -> None:
        """When the link breaks before the device answered, the command is asked for again."""
        attempts: list[int] = []

        def behave(stream: FakeStream) -> None:
            attempts.append(stream.request.attempt)
            if len(attempts) < 3:
                stream.link.abort("cut")
            else:
                prints(b"done")(stream)

        self.gateway.devices["pump"] = behave
        client = await self.client()
        done = await client.run("pump", argv=["x"])
        self.assertEqual((done.stdout, done.outcome.status), (b"done", "ok"))
        self.assertEqual(attempts, [1, 2, 3])

    async def test_gateway_restarts(self) -> None:
        """A client whose gateway was away, and came back with other links, works on."""
        self.gateway.answers["whoami"] = {"name": "alice", "roles": ["admin"]}
        client = await self.client()
        for link in list(self.gateway.links):
            link.abort("killed")
        self.assertEqual((await client.whoami()).name, "alice")
        self.assertFalse(client.closed)
        self.assertEqual(len(self.gateway.hellos), 2)

    async def test_unreadable_outcome(self) -> None:
        """A device whose outcome has the wrong shape is an error, not a crash."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.send_event("outcome", {"status": 7})

        self.gateway.devices["pump"] = behave
        client = await self.client()
        outcome = (await client.run("pump", argv=["x"])).outcome
        self.assertEqual((outcome.status, outcome.code), ("error", "protocol"))

    async def test_run_many(self) -> None:
        """Many devices run at most `concurrency` at a time, and each is reported once."""
        running: list[FakeStream] = []
        most = 0

        def behave(stream: FakeStream) -> None:
            nonlocal most
            stream.accept()
            running.append(stream)
            most = max(most, len(running))
            reactor.callLater(0.01, end, stream)

        def end(stream: FakeStream) -> None:
            running.remove(stream)
            stream.channel.write(str(stream.request.device).encode())
            stream.finish(status="ok")

        names = [f"d-{n}" for n in range(20)]
        self.gateway.devices.update(dict.fromkeys(names, behave))
        client = await self.client()
        found = {}
        async for done in client.run_many([*names, "absent"], argv=["x"], concurrency=4):
            found[done.device] = done
        self.assertEqual(len(found), 21)
        self.assertEqual(found["d-7"].stdout, b"d-7")
        self.assertEqual(found["absent"].outcome.code, "not-found")
        self.assertEqual(most, 4)

    async def test_run_many_cancel(self) -> None:
        """Cancelling starts no more and still reports those that ran."""
        self.gateway.devices.update(dict.fromkeys("abcdef", waits))
        client = await self.client()
        many = client.run_many("abcdef", argv=["x"], concurrency=2)
        reactor.callLater(0.05, many.cancel)
        outcomes = [done.outcome.signal async for done in many]
        self.assertEqual(outcomes, ["TERM", "TERM"])

    async def test_run_many_needs_room(self) -> None:
        """A concurrency of nothing is refused."""
        client = await self.client()
        self.assertRaises(RshellError, client.run_many, ["a"], argv=["x"], concurrency=0)


class SessionTests(ClientCase):
    async def test_events_reach_the_device(self) -> None:
        """Window, signal and cancel arrive in order, as urgent events."""
        self.gateway.devices["pump"] = waits
        client = await self.client()
        receiver = Receiver()
        session = client.open("pump", "shell", {}, receiver, priority="interactive")
        self.assertFalse(session.opened)
        await receiver.opened
        session.send_window(50, 132)
        session.send_signal("INT")
        session.cancel()
        outcome = await session.outcome
        self.assertEqual((outcome.status, outcome.signal), ("signal", "TERM"))
        self.assertEqual(
            self.gateway.streams[0].events,
            [
                ("window", {"rows": 50, "columns": 132}),
                ("signal", {"signal": "INT"}),
                ("cancel", {}),
            ],
        )
        self.assertEqual(await session.outcome, outcome)

    async def test_unknown_signals(self) -> None:
        """A signal that no device knows is refused here, before anything is sent."""
        self.gateway.devices["pump"] = waits
        client = await self.client()
        receiver = Receiver()
        session = client.open("pump", "exec", {}, receiver)
        await receiver.opened
        for name in ("FOO", "SIGINT", "int", "", "RTMIN", "9"):
            error = self.assertRaises(RshellError, session.send_signal, name)
            self.assertEqual(error.code, "bad-request")
            self.assertIn(repr(name), error.message)
        session.cancel()
        await session.outcome
        self.assertEqual([kind for kind, _ in self.gateway.streams[0].events], ["cancel"])

    def test_signals_are_those_of_devices(self) -> None:
        """The keeper knows every signal that we send."""
        self.assertEqual(SIGNALS - set(KEEPER_SIGNALS), set())

    async def test_outcome_is_acknowledged_before_it_is_told(self) -> None:
        """Whoever closes the link at the outcome has already acknowledged it."""
        self.gateway.devices["pump"] = prints(b"x")
        client = await self.client()
        await client.run("pump", argv=["x"])
        await client.close()
        self.assertEqual(await self.gateway.streams[0].closed, "none")

    async def test_pause_stalls_the_device(self) -> None:
        """While a session is paused the device gets no further than a window and its buffer."""
        floods: list[Flood] = []
        self.gateway.devices["pump"] = lambda stream: floods.append(
            Flood(reactor, stream, b"y" * 64)
        )
        client = await self.client()
        receiver = Receiver()
        session = client.open("pump", "exec", {}, receiver)
        session.pause()
        # Another conversation on the same link goes on meanwhile.
        self.gateway.devices["other"] = prints(b"z" * 2_000_000)
        for _ in range(3):
            self.assertEqual(len((await client.run("other", argv=["x"])).stdout), 2_000_000)
        self.assertLess(floods[0].written, 600_000)
        self.assertEqual(receiver.stdout, b"")
        session.resume()
        session.cancel()
        await session.outcome
        self.assertGreater(len(receiver.stdout), 200_000)

    async def test_abort(self) -> None:
        """Giving up ends the session here at once and resets it there."""
        self.gateway.devices["pump"] = waits
        client = await self.client()
        receiver = Receiver()
        session = client.open("pump", "exec", {}, receiver)
        await receiver.opened
        session.abort()
        self.assertEqual((await session.outcome).status, "lost")
        self.assertTrue(session.ended)
        self.assertEqual(await self.gateway.streams[0].closed, "cancelled")

    async def test_reset_by_the_gateway(self) -> None:
        """A session that the gateway resets ends with its code and words."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            reactor.callLater(0, stream.channel.reset, "revoked", "operator alice was revoked")

        self.gateway.devices["pump"] = behave
        client = await self.client()
        outcome = (await client.run("pump", argv=["x"])).outcome
        self.assertEqual((outcome.status, outcome.code), ("refused", "revoked"))

    async def test_other_events(self) -> None:
        """Progress goes to the receiver at its place; the outcome does not."""

        def behave(stream: FakeStream) -> None:
            stream.accept()
            stream.channel.send_event("progress", {"done": 1, "total": 2})
            stream.finish(status="ok")

        self.gateway.devices["pump"] = behave
        client = await self.client()
        receiver = Receiver()
        session = client.open("pump", "x", {}, receiver)
        await session.outcome
        self.assertEqual(receiver.events, ["progress"])
