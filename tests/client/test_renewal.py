"""Operator certificates renew themselves."""

from __future__ import annotations

import base64
import fcntl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell.client.errors import Refused
from rshell.client.profiles import Profile
from rshell.client.renewal import renew_when_due
from rshell.identity.credentials import CredentialStore
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import read_csr, spki_hash
from tests.client.fake_gateway import operator_credentials
from tests.identity.dev_fleet import fleet


class Caller:
    """A client that knows one verb: issues what is asked for, or raises what it is told to."""

    def __init__(self, now: datetime, operator: str = "alice") -> None:
        self.gateway_time_ms = int(now.timestamp() * 1000)
        self.failure: Exception | None = None
        self.calls = 0
        self._now = now
        self._operator = operator

    async def call_gateway(self, verb: str, request: Any = None) -> Any:
        self.calls += 1
        assert verb == "renew"
        if self.failure is not None:
            raise self.failure
        keys = fleet().keys
        public = read_csr(base64.b64decode(request["csr"]))
        leaf = keys.issue_operator(public, self._operator, self._now)
        chain = chain_to_pem((leaf, keys.operator.certificate)).decode()
        return {"chain": chain, "gateways": ["new.example:7411"]}


class RenewalTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir(mode=0o700)
        self.store = CredentialStore(directory)
        self.store.save(operator_credentials())
        self.profile = Profile.load(directory)
        self.begin = self.profile.credentials.certificate.not_valid_before_utc

    def key_on_disk(self) -> bytes:
        found = self.store.load()
        assert found is not None
        return spki_hash(found.key.public_key())

    def test_not_due(self) -> None:
        """A certificate in the first half of its life is left alone."""
        caller = Caller(self.begin + timedelta(days=45))
        self.assertIsNone(renew_when_due(caller, self.profile))
        self.assertEqual(caller.calls, 0)

    def test_due(self) -> None:
        """After two thirds a new key and certificate, and the gateways told, are stored."""
        before = self.key_on_disk()
        done = renew_when_due(Caller(self.begin + timedelta(days=61)), self.profile)
        assert done is not None
        self.successResultOf(done)
        self.assertNotEqual(self.key_on_disk(), before)
        found = self.store.load()
        assert found is not None
        self.assertEqual(found.gateways, ("new.example:7411",))
        self.assertIsNotNone(self.store.previous())

    def test_confirmed(self) -> None:
        """Once the new credentials connected, the older ones are forgotten."""
        done = renew_when_due(Caller(self.begin + timedelta(days=61)), self.profile)
        assert done is not None
        profile = Profile.load(self.profile.directory)
        renew_when_due(Caller(datetime.now(UTC)), profile)
        self.assertIsNone(self.store.previous())

    def test_failures_are_swallowed(self) -> None:
        """A refusal, or an answer for somebody else, changes nothing and fails nothing."""
        before = self.key_on_disk()
        refused = Caller(self.begin + timedelta(days=61))
        refused.failure = Refused("policy", "no")
        stranger = Caller(self.begin + timedelta(days=61), "mallory")
        for caller in (refused, stranger):
            done = renew_when_due(caller, self.profile)
            assert done is not None
            self.successResultOf(done)
            self.assertEqual(caller.calls, 1)
            self.assertEqual(self.key_on_disk(), before)

    def test_one_at_a_time(self) -> None:
        """While another command renews, this one does not."""
        caller = Caller(self.begin + timedelta(days=61))
        with open(self.profile.directory / "renewal.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = renew_when_due(caller, self.profile)
            assert done is not None
            self.successResultOf(done)
        self.assertEqual(caller.calls, 0)
